"""The least arithmetic of a whole step of a linear model, what its rule does included, at rates timed in turn with it.

Beside the two products (4 n k d operations) and the n k exponentials a step does to every score, to make a softmax of it, and to
every entry of W, to make the rule's step, what no method does without. It is counted in instructions of a vector processor, one a
number, each of which takes the time of a multiply-add, two operations; loads and stores are taken to cost nothing. A root or a
quotient to an ulp is an estimate and the multiply-adds that refine it. A polar factor of r x d is counted by rational functions
of the Gram matrix (Nakatsukasa and Freund, SIAM Review 58, 2016), or, where that is less, by Jacobi's method on it (Golub and Van
Loan, Matrix Computations, 8.5) with as many sweeps as are the rule for a cosine of 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable

from implicit_bias.bench.machine import Rates

#: A score less the largest, its exponential's share in the sum, and its division by that; a comparison for the largest.
SOFTMAX = 4
ROOT, QUOTIENT = 7, 7
AVERAGE, SQUARES = 2, 4
#: A rotation found (two roots), and applied to two numbers; sweeps until all rows are orthogonal.
TURN, ROTATED, SWEEPS = 25, 4, 5
#: Of the rational functions, as in zolotarev.h: products with the matrix, inverses of Gram matrices, products and sums of these.
TIMES, INVERSES, PRODUCTS, SUMS = 2, 3, 4, 10


def _sign(k: int, d: int) -> float:
    return 3 * k * d  # a comparison, a choice, a multiply-add


def _normalised(k: int, d: int) -> float:
    return 2 * k * d  # the sum of squares, a multiply-add


def _adam(k: int, d: int) -> float:
    return (AVERAGE + SQUARES + ROOT + QUOTIENT + 1) * k * d


def _muon(k: int, d: int) -> float:
    """Average, into the row space and out, the polar factor there, a multiply-add."""
    r, columns = min(k - 1, d), max(k - 1, d)
    return (AVERAGE + 2 + 2 + 1) * k * d + min(_by_rotations(r, columns), _by_functions(r, columns))


def _by_rotations(r: int, columns: int) -> float:
    """Gram matrix, sweeps, its inverse root, the product with that."""
    sweep = r * (r - 1) / 2 * (TURN + ROTATED * (r - 2) + ROTATED * r)
    return r * (r + 1) / 2 * columns + SWEEPS * sweep + r**2 * (r + 1) / 2 + r**2 * columns


def _by_functions(r: int, columns: int) -> float:
    """Gram matrices of what is multiplied, and of these, symmetric, the upper triangle."""
    triangle = r * (r + 1) / 2
    return TIMES * (triangle + r**2) * columns + ((INVERSES + PRODUCTS) * r + SUMS) * triangle


#: Instructions of a step besides, by optimizer, classes k and features d.
OF_RULE: dict[str, Callable[[int, int], float]] = {"signgd": _sign, "ngd": _normalised, "muon": _muon, "adam": _adam}


def least_seconds(name: str, n: int, k: int, d: int, rates: Rates) -> float:
    """Seconds of one step of one run.

    Args:
        name: The optimizer.
        n: Samples.
        k: Classes.
        d: Features.
        rates: Of the processor.
    """
    return rates.least_seconds(n, k, d) + 2 * (SOFTMAX * n * k + OF_RULE[name](k, d)) / rates.arithmetic
