"""Polar factors of one matrix of many rows in C, beside exact ones."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.engine.steppers.native.network import SOURCE as NETWORK
from implicit_bias.engine.steppers.native.network_rules import DEFINITIONS
from tests.engine.test_native_arithmetic import RELATIVE_TO_TOP, at, compiled, rotations
from tests.support.quick import quick_of

pytestmark = [pytest.mark.numeric, pytest.mark.skipif(not compilers(), reason="no C compiler here")]

Matrix = NDArray[np.float64]

WRAPPERS = """
#include <stdlib.h>
/* x (columns, rows) becomes the transpose of the polar factor; returns how often the first function was taken. */
int64_t of_wide(int64_t rows, int64_t columns, double *x)
{
    const int64_t wide = vectors_of(rows), size = columns * wide;
    vec *a = aligned_alloc(sizeof(vec), (2 * size + wide_size(rows)) * sizeof(vec)), *of = a, *spare = a + size;
    const Wide room = room_for_wide(a + 2 * size, wide);
    memset(a, 0, size * sizeof(vec));
    for (int64_t i = 0; i < columns; i++) memcpy(of + i * wide, x + i * rows, rows * sizeof(double));
    const int64_t passes = polar_of_wide(&room, wide, columns, &of, &spare);
    for (int64_t i = 0; i < columns; i++) memcpy(x + i * rows, of + i * wide, rows * sizeof(double));
    free(a);
    return passes;
}
/* x (inputs, units) becomes the step of size one from zero along minus the polar factor of e^scale x. */
void of_step(int64_t inputs, int64_t units, const double *scale, double *x)
{
    const int64_t wide = vectors_of(units), size = inputs * wide;
    vec *a = aligned_alloc(sizeof(vec), (2 * size + wide) * sizeof(vec)), *from = a + size, *scales = a + 2 * size;
    memset(a, 0, (2 * size + wide) * sizeof(vec));
    for (int64_t i = 0; i < inputs; i++) memcpy(from + i * wide, x + i * units, units * sizeof(double));
    memcpy(scales, scale, units * sizeof(double));
    for (int64_t u = units; u < wide * LANES; u++) ((double *)scales)[u] = -INFINITY;
    const Layer layer = {.inputs = inputs, .units = units, .kind = POLAR, .weight = 1, .w = a};
    const Network p = {.runs = 1, .layers = 1, .samples = 1, .features = inputs, .layer = &layer};
    Room v;
    vec *work = aligned_alloc(sizeof(vec), network_work_size(&p) * sizeof(double));
    memset(work, 0, laid_out(&p, &v, work) * sizeof(vec));
    take_polar_factor(&v, &layer, all(-1), from, scales);
    for (int64_t i = 0; i < inputs; i++) memcpy(x + i * units, a + i * wide, units * sizeof(double));
    free(a), free(work);
}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compiled(
        NETWORK.read_text() + WRAPPERS, tmp_path_factory.mktemp("wide"), "of_wide", "of_step", definitions=DEFINITIONS
    )
    library.of_wide.restype = ctypes.c_int64
    return library


@pytest.fixture
def polar(made: ctypes.CDLL) -> Callable[[Matrix], tuple[Matrix, int]]:
    """The polar factor of (rows, columns), and how often the first function was taken."""

    def of(g: Matrix) -> tuple[Matrix, int]:
        x = g.T.copy()
        passes = made.of_wide(*map(ctypes.c_int64, g.shape), at(x))
        return x.T, int(passes)

    return of


@pytest.fixture
def step(made: ctypes.CDLL) -> Callable[..., Matrix]:
    """The same by a layer's step, with a log scale a row."""

    def of(g: Matrix, scale: Matrix | None = None) -> Matrix:
        x, logs = g.T.copy(), np.zeros(len(g)) if scale is None else scale
        made.of_step(*map(ctypes.c_int64, x.shape), at(logs), at(x))
        return x.T

    return of


def exact(g: Matrix) -> Matrix:
    """The truncated polar factor, to fifty digits."""
    with mpmath.workdps(50):
        whole = mpmath.matrix(g.tolist())
        values, vectors = mpmath.eigsy(whole * whole.T)
        kept = [value > RELATIVE_TO_TOP**2 * max(values) for value in values]
        inverses = [1 / mpmath.sqrt(value) if keep else mpmath.mpf(0) for value, keep in zip(values, kept, strict=True)]
        found = vectors * mpmath.diag(inverses) * vectors.T * whole
        return np.array(found.tolist(), dtype=float)


def condition(g: Matrix) -> float:
    """The largest over the least singular value that counts."""
    values = np.linalg.svd(g, compute_uv=False)
    assert (np.abs(np.log(values[values > 0] / (RELATIVE_TO_TOP * values[0]))) > 0.01).all(), "what counts is not known"
    return float(values[0] / values[values > RELATIVE_TO_TOP * values[0]][-1])


def matrices(rows: int, columns: int) -> Iterator[tuple[str, Matrix]]:
    """By name: singular values that are spread, as far as what counts as zero and beyond, or in two clusters; rows of very
    different size; zero rows; less than full rank."""
    draw = np.random.default_rng(rows)

    def of(values: Matrix) -> Matrix:
        product: Matrix = (rotations(draw, rows, rows) * values) @ rotations(draw, rows, columns)
        return product

    for worst in (1.0, 30.0, 700.0, 3e3, 1e5, 1e8, 3e11, 4e13, 7e27):
        yield f"spread to {worst}", of(np.geomspace(1, 1 / worst, rows))
    for worst in (30.0, 3e3, 1e8):
        yield f"clusters at {worst}", of(np.where(np.arange(rows) < rows // 2, 1, 1 / worst))
    for size in (1e-3, 1e-7, 1e-9, 1e-11, 1e-12, 1e-13, 1e-15, 1e-200, 0.0):
        g = draw.standard_normal((rows, columns))
        g[[1, rows - 1]] *= [[size], [3 * size]]
        yield f"rows of {size}", g
    for rank in (1, rows // 2, rows - 1):
        left, right = draw.standard_normal((rows, rank)), draw.standard_normal((rank, columns))
        yield f"rank {rank}", left @ right
        yield f"rank {rank}, spread", (left * np.geomspace(1, 1e-4, rank)) @ right


# Errors of less than full rank: round-off of what is taken from the space of the others, 200 of it.
ROUND_OFF, OF_CONDITION = 5e-13, 1e-15


@pytest.mark.parametrize("shape", quick_of([(10, 12), (16, 16), (21, 30), (24, 24)], (10, 12)))
def test_polar_factors_of_many_rows_beside_fifty_digits(
    shape: tuple[int, int], polar: Callable[[Matrix], tuple[Matrix, int]], step: Callable[..., Matrix]
) -> None:
    """To round-off times the condition, without rotations; by a layer's step, of either orientation, the same."""
    for name, g in matrices(*shape):
        expected, allowed = exact(g), ROUND_OFF + OF_CONDITION * condition(g)
        ours, passes = polar(g)
        assert passes > 0 and np.abs(ours - expected).max() <= allowed, (name, passes)
        for stepped in (step(g), step(g.T.copy()).T):
            assert np.abs(stepped - expected).max() <= allowed, name


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(21, 784), (40, 41), (64, 64), (64, 784), (100, 128), (127, 300), (128, 129), (200, 260)])
def test_polar_factors_of_many_rows_are_those_of_singular_vectors(
    shape: tuple[int, int], polar: Callable[[Matrix], tuple[Matrix, int]]
) -> None:
    for name, g in matrices(*shape):
        u, values, v = (part.numpy() for part in torch.linalg.svd(torch.from_numpy(g), full_matrices=False))
        kept = values > RELATIVE_TO_TOP * values[0]
        ours, passes = polar(g)  # both have errors, those of singular vectors by the condition, too
        allowed = ROUND_OFF + 2 * OF_CONDITION * condition(g)
        assert passes > 0 and np.abs(ours - u[:, kept] @ v[kept]).max() <= allowed, (name, passes)


def test_polar_factors_of_a_layer_of_any_size_of_entries(step: Callable[..., Matrix]) -> None:
    """Powers of two change nothing, zero stays zero, and a row's log scale counts as if it were in its entries."""
    draw = np.random.default_rng(3)
    g = draw.standard_normal((24, 33))
    plain = step(g)
    assert np.abs(plain - exact(g)).max() < 1e-14
    for exponent in (-1000, -70, 300, 1000):
        assert (step(np.ldexp(g, exponent)) == plain).all(), exponent
    assert (step(np.zeros((24, 33))) == 0).all()
    scale = draw.uniform(-3, 0, 24)
    assert np.abs(step(g, scale) - exact(np.exp(scale)[:, None] * g)).max() < 1e-13


def test_a_matrix_without_numbers_has_no_polar_factor(polar: Callable[[Matrix], tuple[Matrix, int]]) -> None:
    for bad in (np.nan, np.inf):
        g: Any = np.random.default_rng(4).standard_normal((21, 25))
        g[4, 7] = bad
        assert polar(g)[1] == 0


@pytest.mark.parametrize("rows", [15, 17, 23, 40])
def test_a_singular_value_near_what_counts_as_zero_is_found_beside_padding(
    rows: int, polar: Callable[[Matrix], tuple[Matrix, int]]
) -> None:
    """Where the last vector of rows is not full, too: the projection on what does not count leaves padding alone."""
    rng = np.random.default_rng(rows)
    for least in (5e-12, 2e-11, 4e-11):
        values = np.ones(rows)
        values[-1] = least
        left, right = (np.linalg.qr(rng.standard_normal((n, rows)))[0] for n in (rows, rows + 2))
        found, passes = polar(left * values @ right.T)
        assert passes > 0
        assert np.abs(found @ found.T - np.eye(rows)).max() < 1e-10
