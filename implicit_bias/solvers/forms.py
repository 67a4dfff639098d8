"""The norms of the house as cones, in the form that Clarabel takes: N(B diag(t)) = z at the minimum of z.

With T = B diag(t), over B, z and what else a norm needs:

    linf       -z <= t_j B_cj <= z
    l1         |t_j B_cj| <= u_cj, sum u = z
    l2         minimise ||T||^2 / 2 (a quadratic program); in a product (z, T) in the second-order cone
    row        (z, t B_c) in the second-order cone, for every c
    column     (z, t_j B_:j) in the second-order cone, for every j
    spectral   [[z I, T], [T^T, z I]] positive semidefinite
    nuclear    [[P, T], [T^T, Q]] positive semidefinite, z = (tr P + tr Q) / 2
    a product  of parts with z_b: w_b z_b <= z for a maximum, (z, w_b z_b) in the second-order cone for l2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from implicit_bias.norms import Norm, ParameterNorm, ProductNorm
from implicit_bias.norms.blocks import SingleBlock, WholeVector
from implicit_bias.norms.column_blocks import ColumnBlocks, block_names
from implicit_bias.norms.hybrid import Hybrid
from implicit_bias.norms.spectral import Spectral
from implicit_bias.solvers.sparse import Triples, beside, stacked

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """min x^T P x / 2 + q^T x s.t. b - A x in cones: the part of the norm, over variables (B, extra)."""

    extra: int
    quadratic: Array | None  # diagonal of P on B
    linear: Array  # q over B and extra
    rows: Triples
    right: Array
    cones: list[object]


#: The form of a norm of matrices (k, m), from k and the scale t (m,).
Built: TypeAlias = Callable[[int, Array], Form]


@dataclass(frozen=True)
class _Place:
    """A part of a product: weight * the norm of these columns."""

    norm: Norm
    columns: NDArray[np.intp]
    weight: float

    @property
    def built(self) -> Built | None:
        # A square is no z to be composed: l2 by a second-order cone.
        return _second_order if self.norm.name == "l2" else form_of(self.norm)


def form_of(norm: Norm) -> Built | None:
    """What builds the form of a norm; None where it has none, and is known by its cvxpy expression alone.

    Args:
        norm: N.

    Returns:
        A function of k and the scale t (m,).
    """
    if isinstance(norm, ColumnBlocks):
        outer, places = _places(norm)
        return None if any(place.built is None for place in places) else partial(_product, outer, places)
    return FORMS.get(norm.name) if not getattr(norm, "p", None) else None


def semidefinite_side(norm: Norm, k: int, m: int) -> int:
    """The largest side of a semidefinite cone in a norm's program.

    Args:
        norm: N.
        k: Rows of the matrices.
        m: Their columns.

    Returns:
        The side; 0 where there is no such cone.
    """
    if isinstance(norm, ColumnBlocks):
        return max(semidefinite_side(place.norm, k, len(place.columns)) for place in _places(norm)[1])
    return k + m if norm.unitarily_invariant and norm.name != "l2" else 0


def _places(norm: ColumnBlocks) -> tuple[str, list[_Place]]:
    """What composes the parts of a norm of column blocks, and these."""
    ends = np.cumsum(norm.sizes)
    columns = {
        name: np.arange(end - size, end) for name, size, end in zip(block_names(norm.sizes), norm.sizes, ends, strict=True)
    }

    def place(part: ParameterNorm, blocks: Sequence[str], weight: float) -> _Place:
        assert isinstance(part, SingleBlock | WholeVector), part
        inner = part.norm
        if isinstance(inner, Hybrid):  # of one matrix
            weight *= inner.ratio
            inner = Spectral()
        return _Place(inner, np.concatenate([columns[name] for name in blocks]), weight)

    whole = norm.whole
    if not isinstance(whole, ProductNorm):
        return "max", [place(whole, [name for name, of_block in columns.items() if len(of_block)], 1.0)]
    return whole.outer, [place(part.norm, part.blocks, part.weight) for part in whole.parts]


def _product(outer: str, places: Sequence[_Place], k: int, scale: Array) -> Form:
    """The forms of the parts side by side, over (B, extra of each part, z)."""
    import clarabel

    count = k * len(scale)
    forms = [place.built(k, scale[place.columns]) for place in places if place.built is not None]
    extra = sum(form.extra for form in forms) + 1
    rows, sizes, used = [], [], 0
    for place, form in zip(places, forms, strict=True):
        own = (np.arange(k)[:, None] * len(scale) + place.columns).ravel()  # B is laid out row by row
        variables = np.concatenate([own, count + used + np.arange(form.extra)])
        used += form.extra
        rows.append(form.rows.embedded(variables, count + extra))
        size = np.zeros(count + extra)
        size[variables] = place.weight * form.linear
        sizes.append(size)
    z = _last(count, extra)
    if outer == "max":
        coupling, cones = [size - z for size in sizes], [nonnegative(len(sizes))]
    else:
        coupling, cones = [-z, *(-size for size in sizes)], [clarabel.SecondOrderConeT(len(sizes) + 1)]
    right = np.concatenate([*(form.right for form in forms), np.zeros(len(coupling))])
    matrix = stacked([*rows, Triples.of(np.stack(coupling))])
    return Form(extra, None, z, matrix, right, [*(cone for form in forms for cone in form.cones), *cones])


def _second_order(k: int, scale: Array) -> Form:
    import clarabel

    count = k * len(scale)
    rows = stacked([Triples.of(-_last(count, 1)[None]), beside([-_scales(k, scale), Triples.nothing(count, 1)])])
    return Form(1, None, _last(count, 1), rows, np.zeros(count + 1), [clarabel.SecondOrderConeT(count + 1)])


def _scales(k: int, scale: Array) -> Triples:
    """What makes B diag(scale) of B, entry by entry."""
    return Triples.diagonal(np.tile(scale, k))


def nonnegative(count: int) -> object:
    """Clarabel's cone of so many numbers >= 0.

    Args:
        count: Of numbers.

    Returns:
        The cone.
    """
    import clarabel

    return clarabel.NonnegativeConeT(count)


def _max_norm(k: int, scale: Array) -> Form:
    count = k * len(scale)
    t, bound = _scales(k, scale), Triples.of(-np.ones((count, 1)))
    rows = stacked([beside([t, bound]), beside([-t, bound])])
    return Form(1, None, _last(count, 1), rows, np.zeros(2 * count), [nonnegative(2 * count)])


def _sum_norm(k: int, scale: Array) -> Form:
    count = k * len(scale)
    t, eye = _scales(k, scale), Triples.diagonal(np.ones(count))
    rows = stacked([beside([t, -eye]), beside([-t, -eye])])
    linear = np.concatenate([np.zeros(count), np.ones(count)])
    return Form(count, None, linear, rows, np.zeros(2 * count), [nonnegative(2 * count)])


def _euclidean(k: int, scale: Array) -> Form:
    count = k * len(scale)
    return Form(0, np.tile(scale, k) ** 2, np.zeros(count), Triples.nothing(0, count), np.zeros(0), [])


def _column_norm(k: int, scale: Array) -> Form:
    import clarabel

    m = len(scale)
    blocks = []
    for j in range(m):
        block = np.zeros((k + 1, k * m + 1))
        block[0, -1] = -1.0
        block[1 + np.arange(k), np.arange(k) * m + j] = -scale[j]
        blocks.append(block)
    rows = Triples.of(np.vstack(blocks))
    return Form(1, None, _last(k * m, 1), rows, np.zeros(m * (k + 1)), [clarabel.SecondOrderConeT(k + 1) for _ in range(m)])


def _row_norm(k: int, scale: Array) -> Form:
    import clarabel

    m = len(scale)
    count = k * m
    blocks = []
    for c in range(k):
        block = np.zeros((m + 1, count + 1))
        block[0, -1] = -1.0
        block[1 + np.arange(m), c * m + np.arange(m)] = -scale
        blocks.append(block)
    rows = Triples.of(np.vstack(blocks))
    return Form(1, None, _last(count, 1), rows, np.zeros(k * (m + 1)), [clarabel.SecondOrderConeT(m + 1) for _ in range(k)])


def _triangle(side: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """Rows, columns and factors (1 or sqrt 2) of the entries of a symmetric matrix in the solver's order: upper triangle, by
    columns."""
    columns, rows = np.tril_indices(side)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2.0))


def _semidefinite(k: int, scale: Array, diagonal: Callable[[NDArray[np.intp], NDArray[np.intp]], Array]) -> Triples:
    """-svec of [[., T], [T^T, .]] over (B, further variables): T = B diag(scale) off the diagonal blocks, ``diagonal``,
    (entries, further variables), in them."""
    m = len(scale)
    rows, columns, factors = _triangle(k + m)
    cross = (rows < k) & (columns >= k)
    places = np.flatnonzero(cross)
    variable = rows[cross] * m + (columns[cross] - k)
    values = factors[cross] * scale[columns[cross] - k]
    off = Triples(values, places, variable, (len(rows), k * m))
    return -beside([off, Triples.of(diagonal(rows, columns) * factors[:, None])])


def _spectral(k: int, scale: Array) -> Form:
    import clarabel

    def diagonal(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
        on_diagonal: Array = (rows == columns).astype(float)[:, None]
        return on_diagonal

    matrix = _semidefinite(k, scale, diagonal)
    count = k * len(scale)
    return Form(1, None, _last(count, 1), matrix, np.zeros(matrix.shape[0]), [clarabel.PSDTriangleConeT(k + len(scale))])


def _nuclear(k: int, scale: Array) -> Form:
    import clarabel

    m = len(scale)
    rows, columns, _ = _triangle(k + m)
    inner = np.flatnonzero(~((rows < k) & (columns >= k)))

    def diagonal(_rows: NDArray[np.intp], _columns: NDArray[np.intp]) -> Array:
        found = np.zeros((len(rows), len(inner)))
        found[inner, np.arange(len(inner))] = 1.0
        return found

    matrix = _semidefinite(k, scale, diagonal)
    linear = np.concatenate([np.zeros(k * m), 0.5 * (rows[inner] == columns[inner])])
    return Form(len(inner), None, linear, matrix, np.zeros(matrix.shape[0]), [clarabel.PSDTriangleConeT(k + m)])


def _last(count: int, extra: int) -> Array:
    linear = np.zeros(count + extra)
    linear[-1] = 1.0
    return linear


#: By the name of a norm without an exponent.
FORMS: dict[str, Built] = {
    "linf": _max_norm,
    "l1": _sum_norm,
    "l2": _euclidean,
    "row": _row_norm,
    "column": _column_norm,
    "spectral": _spectral,
    "nuclear": _nuclear,
}
