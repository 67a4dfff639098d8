"""Whether a norm keeps the identities that every proof about it rests on: tried on some matrices of a shape.

A margin is over ``value``, and every bound on the largest one is a ``dual``: both are the word of whoever wrote the norm, and no
trial of finitely many matrices proves them. What is tried here finds the usual mistakes: a dual that is another norm's, a
direction that is no maximiser, a swapped axis, a single row that was not thought of. No bound rests on ``expression`` and
``project``: what a solver finds with them is proven by ``value`` and ``dual``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.norms.base import NORMS, Norm

Shape = tuple[int, int]

# Values of a norm that is found by an iteration may be as far off as this, relative.
TOLERANCE = 1e-6
#: Tried of every norm: a matrix, a single row and a single column.
SHAPES: tuple[Shape, ...] = ((3, 5), (1, 4), (4, 1))

_found: dict[tuple[type[Norm], str, Shape], str | None] = {}


def check_added(norm: Norm, shapes: Sequence[Shape] = SHAPES) -> None:
    """Try a norm that comes from outside the package on matrices of these shapes, each once a process.

    Args:
        norm: Any norm, not batched; the package's own are left to the tests.
        shapes: Rows and columns.

    Raises:
        BadInput: an identity does not hold.
    """
    if norm.name not in NORMS.added():
        return
    for shape in shapes:
        key = type(norm), norm.label, shape
        if key not in _found:
            _found[key] = flaw(norm, shape)
        if _found[key] is not None:
            raise BadInput(
                f"norm={norm.label}: no norm, for matrices of {shape[0]} x {shape[1]} {_found[key]}; must be so for every matrix,"
                " proofs rest on it"
            )


def flaw(norm: Norm, shape: Shape = SHAPES[0]) -> str | None:
    """What is wrong with a norm's value, dual and direction.

    With u = direction(G): N(u) = 1, <G, u> = N_*(G); N(-2 G) = 2 N(G) and N_*(-2 G) = 2 N_*(G); N(G + H) <= N(G) + N(H);
    <G, U> <= N_*(G) N(U) (Hölder's inequality, without which a dual is no upper bound); all are 0 at 0, and a batch is a loop.
    Rows and columns of zeros (solvers leave features out that are zero throughout) and the order of rows change nothing. A norm
    that calls itself entrywise does not see the shape, one that calls itself unitarily invariant no Q with orthonormal columns.

    Args:
        norm: Not batched.
        shape: Rows p and columns q of the matrices to try: random ones, of rank one, a single entry, equal sizes, with rows and
            columns of zeros.

    Returns:
        The first identity that does not hold, in words; None where all do on the matrices that were tried.
    """
    try:
        return next(_flaws(norm, _matrices(shape)), None)
    except Exception as error:  # noqa: BLE001 - a norm of somebody else may do anything
        said = " ".join(str(error).split())
        return f"it raises {type(error).__name__}{f': {said}' if said else ''}"


def _matrices(shape: Shape) -> Tensor:
    """Matrices G to try, (6, p, q), the same in every process."""
    p, q = shape
    rng = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=rng, dtype=torch.float64)

    single, ends = torch.zeros(p, q, dtype=torch.float64), draw(p, q)
    single[p // 2, q // 2] = -1.5
    if p > 1:
        ends[0] = 0
    if q > 1:
        ends[:, -1] = 0
    return torch.stack([draw(p, q), draw(p, q), draw(p, 1) @ draw(1, q), single, draw(p, q).sign(), ends])


def _flaws(norm: Norm, g: Tensor) -> Iterator[str]:
    u = norm.direction(g)
    if u.shape != g.shape:
        yield f"direction(G) has the shape {tuple(u.shape[1:])}"
    value, dual = norm.value(g), norm.dual(g)
    if not _equal(norm.value(u), torch.ones(len(g), dtype=g.dtype)):
        yield "value(direction(G)) is not 1"
    if not _equal((g * u).sum(dim=(-2, -1)), dual):
        yield "<G, direction(G)> is not dual(G)"
    if not _equal(norm.value(-2 * g), 2 * value):
        yield "value(-2 G) is not 2 value(G)"
    if not _equal(norm.dual(-2 * g), 2 * dual):
        yield "dual(-2 G) is not 2 dual(G)"
    if not _at_most(norm.value(g + g.roll(1, dims=0)), value + value.roll(1)):
        yield "value(G + H) is above value(G) + value(H)"
    others = torch.cat([u, _extreme(g)])
    if not _at_most(torch.einsum("gpq,upq->gu", g, others), dual[:, None] * norm.value(others)):
        yield "<G, U> is above dual(G) value(U)"
    if not (_equal(norm.value(g[:1]), value[:1]) and _equal(norm.dual(g[:1]), dual[:1])):
        yield "value or dual of a batch is not that of its matrices"
    yield from _flaws_at_zero(norm, torch.zeros_like(g[:1]))
    for reason, same in _unchanged(norm, g):
        if not (_equal(norm.value(same), value) and _equal(norm.dual(same), dual)):
            yield f"value or dual changes {reason}"


def _extreme(g: Tensor) -> Tensor:
    """Where <G, U> is largest over the unit balls of l2, linf, spectral and row norm: (4 r, p, q) for r matrices G."""
    left, _, right = torch.linalg.svd(g, full_matrices=False)
    return torch.cat([g, g.sign(), left @ right, torch.nn.functional.normalize(g, dim=-1)])


def _flaws_at_zero(norm: Norm, zero: Tensor) -> Iterator[str]:
    for name, found in (("value", norm.value(zero)), ("dual", norm.dual(zero)), ("direction", norm.direction(zero))):
        if not bool((found == 0).all()):
            yield f"{name}(0) is not 0"


def _unchanged(norm: Norm, g: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Matrices whose norm and dual norm are those of G, with the reason in words."""
    yield "with a row and a column of zeros", torch.nn.functional.pad(g, (0, 1, 0, 1))
    yield "with the order of rows", g.flip(-2)
    if norm.entrywise:
        yield "where the entries stand in one row, but it is called entrywise", g.flatten(1)[:, None]
    if norm.unitarily_invariant:
        rows, rng = g.shape[-2], torch.Generator().manual_seed(1)
        q, _ = torch.linalg.qr(torch.randn(rows + 1, rows, generator=rng, dtype=g.dtype))
        yield "to that of Q G, Q with orthonormal columns, but it is called unitarily invariant", q @ g


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one - other).abs() <= TOLERANCE * other.abs()).all())


def _at_most(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one <= other + TOLERANCE * other.abs()).all())
