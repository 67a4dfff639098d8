"""One hidden layer of quadratic units on the table of addition modulo an odd integer.

Unit i gives w_i (u_i(a) + v_i(b))^2. With uniform weights on all pairs of classes its mean gap is p / (p - 1) 2 sum_{k != 0}
u^(k) v^(k) conj(w^(k)) in Fourier coefficients, at most sqrt(2/27) / (sqrt(p) (p - 1)) times the cube of the l2 norm of its
weights, with one frequency k in all three. Scores add up over units, so that this bounds the margin in the norm
(sum_i |unit i|_2^3)^(1/3); eight units a frequency, 4 (p - 1) in all, reach it with equal gaps. The value and the width are those
of Morwani, Edelman, Oncescu, Zhao and Kakade, arXiv 2311.07568, for primes; the argument is that of odd p, whose frequencies come
in pairs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from implicit_bias.models import Model
from implicit_bias.models.mlp import MLP
from implicit_bias.norms import Norm
from implicit_bias.norms.neuron import Neuron
from implicit_bias.solvers.formulas.base import Formula, Margin


class ModularAddition(Formula):
    """sqrt(2/27) / (sqrt(p) (p - 1)) in the norm neuron3."""

    name = "modular_addition"
    needs = (
        "dataset=modular_addition with an odd dataset.modulus=p and model=mlp model.depth=2 model.activation=quadratic"
        " model.bias=none model.frozen=null and model.width >= 4 (p - 1)"
    )
    norms = "neuron3"

    def margin(self, model: Model, x: NDArray[np.float64], y: NDArray[np.int64], num_classes: int) -> Margin | None:
        if not isinstance(model, MLP) or model.activation != "quadratic" or model.depth != 2 or model.bias != "none":
            return None
        if model.frozen_blocks() or num_classes % 2 == 0 or model.width < 4 * (num_classes - 1):
            return None
        largest = math.sqrt(2 / 27) / (math.sqrt(num_classes) * (num_classes - 1))

        def of_norm(norm: Norm) -> float | None:
            return largest if isinstance(norm, Neuron) and norm.p == 3 else None

        return of_norm if is_table(x, y, num_classes) else None


def is_table(x: NDArray[np.float64], y: NDArray[np.int64], p: int) -> bool:
    """Whether samples are the unit vectors of all pairs (a, b), each once, with labels a + b mod p.

    Args:
        x: Samples (n, d).
        y: Labels (n,).
        p: The modulus.

    Returns:
        The truth value.
    """
    if x.shape != (p * p, 2 * p):
        return False
    a, b = x[:, :p].argmax(axis=1), x[:, p:].argmax(axis=1)
    unit = np.eye(p)
    same = np.array_equal(x, np.hstack([unit[a], unit[b]])) and np.array_equal(y, (a + b) % p)
    return same and len(np.unique(a * p + b)) == p * p
