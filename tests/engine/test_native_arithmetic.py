"""The arithmetic that steps in C are made of, beside exact results."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from implicit_bias.engine.steppers.native.compiling import Definitions, compilers, library
from implicit_bias.engine.steppers.native.linear import SOURCE
from implicit_bias.engine.steppers.native.rules import DEFINITIONS
from implicit_bias.norms.singular import RANK_TOLERANCE

RELATIVE_TO_TOP = RANK_TOLERANCE[torch.float64]
pytestmark = [pytest.mark.numeric, pytest.mark.skipif(not compilers(), reason="no C compiler here")]

WRAPPERS = """
#include "vectors.h"
#define OF_VECTORS(name, result) \\
    void name(int64_t count, const double *x, const double *y, double *out) \\
    { \\
        for (int64_t i = 0; i < count; i += LANES) { \\
            vec a, b, c; \\
            memcpy(&a, x + i, sizeof a), memcpy(&b, y + i, sizeof b); \\
            result; \\
            memcpy(out + i, &c, sizeof c); \\
        } \\
    }
OF_VECTORS(of_exponential, c = exponential(a))
OF_VECTORS(of_reciprocal_root, (reciprocal_roots(1, &b), c = b))
OF_VECTORS(of_quotient, c = quotient(a, b))
OF_VECTORS(of_hypotenuse, c = hypotenuse(a, b))
"""
POLAR = """
#include <stdlib.h>
#include "decompositions.h"
int64_t lanes(void) { return LANES; }
/* g (rows, columns, LANES) becomes its polar factor, or its top pair. */
void of_polar(int64_t rows, int64_t columns, int64_t top, double *g)
{
    const int64_t square = rows * rows, rest = turns_of(rows) * (int64_t)(sizeof(Turn) / sizeof(vec));
    vec *a = aligned_alloc(sizeof(vec), (3 * rows * columns + 3 * square + 2 * rows + rest + 1) * sizeof(vec) + sizeof(Small));
    vec *turned = a + rows * columns, *spare = turned + rows * columns, *s = spare + rows * columns;
    Work v = {.gram = s, .rotation = s + square, .corrected = s + 2 * square, .norm = s + 3 * square};
    v.inverse = v.norm + rows, v.turn = (Turn *)(v.inverse + rows);
    v.small = (Small *)((vec *)v.turn + rest + 1);
    memcpy(a, g, rows * columns * sizeof(vec));
    polar(&v, a, rows, columns, top ? RANK_ONE : POLAR, all(0), turned, spare);
    memcpy(g, a, rows * columns * sizeof(vec));
    free(a);
}
"""
NARROW = """
#include <stdlib.h>
#include "narrow_polar.h"
/* x (rows, columns), numbers without gaps, becomes `by` times its polar factor, or has that added to `to`; returns whether. */
int64_t of_narrow(int64_t rows, int64_t columns, double by, int64_t add, double *x, double *to)
{
    const int64_t stride = vectors_of(columns) * LANES, count = rows * vectors_of(columns);
    vec *memory = aligned_alloc(sizeof(vec), 3 * count * sizeof(vec));
    double *in = (double *)memory, *out = add ? in + count * LANES : in;
    memset(memory, 0, 3 * count * sizeof(vec));
    for (int64_t i = 0; i < rows; i++) {
        memcpy(in + i * stride, x + i * columns, columns * sizeof(double));
        if (add) memcpy(out + i * stride, to + i * columns, columns * sizeof(double));
    }
    const int64_t made = polar_of_narrow(columns, rows, memory, memory + 2 * count, by, add, (vec *)out);
    for (int64_t i = 0; i < rows; i++) memcpy((add ? to : x) + i * columns, out + i * stride, columns * sizeof(double));
    free(memory);
    return made;
}
"""


def compiled(text: str, folder: Path, *symbols: str, definitions: Definitions = DEFINITIONS) -> ctypes.CDLL:
    for header in SOURCE.parent.glob("*.h"):  # beside the source: a library is known by the text of both
        shutil.copy(header, folder)
    source = folder / "wrappers.c"
    source.write_text(text)
    made = library(source, symbols, definitions)
    assert made is not None
    return made


def at(numbers: NDArray[np.float64]) -> ctypes.c_void_p:
    return ctypes.c_void_p(numbers.ctypes.data)


def ulps(ours: NDArray[np.float64], exact: NDArray[Any]) -> float:
    return float((np.abs(ours - exact) / np.spacing(np.abs(exact).astype(np.float64))).max())


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="no longer doubles here")
def test_functions_are_exact_to_an_ulp_or_two(tmp_path: Path) -> None:
    """Exponentials on their whole range; quotients and roots of sums of squares also of the smallest and largest numbers."""
    made = compiled(WRAPPERS, tmp_path, "of_exponential", "of_hypotenuse")
    draw = np.random.default_rng(0)
    x = np.concatenate([draw.uniform(low, high, 2**14) for low, high in ((-708, 709), (-1, 1), (-1e-6, 1e-6))])
    y = np.exp(draw.uniform(-600, 600, x.size))
    signed = y[::-1] * draw.choice([-1.0, 1.0], x.size)
    near = y * np.exp(draw.uniform(-3, 3, x.size))  # both sides count in a hypotenuse
    a, b, root = x.astype(np.longdouble), y.astype(np.longdouble), np.sqrt(y.astype(np.longdouble))
    cases = {
        "of_exponential": (x, y, np.exp(a), 1.2),
        "of_reciprocal_root": (x, y, 1 / root, 1.6),
        "of_quotient": (signed, near, signed / near.astype(np.longdouble), 2.0),
        "of_hypotenuse": (near, y, np.hypot(near.astype(np.longdouble), b), 2.5),
    }
    for name, (first, second, exact, bound) in cases.items():
        given, ours = [np.ascontiguousarray(side) for side in (first, second)], np.empty(x.size)
        getattr(made, name)(ctypes.c_int64(x.size), *map(at, given), at(ours))
        known = (np.abs(exact) > 1e-300) & (np.abs(exact) < 1e300)
        assert known.mean() > 0.5 and ulps(ours[known], exact[known]) < bound, name
    still, ours = np.array([0.0, -0.0] * 4), np.empty(8)
    made.of_exponential(ctypes.c_int64(8), at(still), at(still), at(ours))
    assert (ours == 1).all()


def rotations(draw: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """Orthonormal rows."""
    return np.linalg.qr(draw.standard_normal((columns, rows)))[0].T.copy()


def singular_values_of(rows: int) -> list[NDArray[np.float64]]:
    """Of one matrix a lane: equal ones, several conditions, on both sides of that up to which there are no rotations, two
    clusters, deficient rank, zero."""
    spread = [np.geomspace(1, smallest, rows) for smallest in (1, 3e-2, 2.5e-3, 1e-3, 1e-7)]
    large = np.arange(rows) < rows // 2 + 1
    return [*spread, np.where(large, 1, 5e-3), np.where(large, 1.0, 0.0), np.zeros(rows)]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (2, 2), (3, 24), (8, 8), (9, 25), (17, 30)])
def test_polar_factors_of_any_condition(rows: int, columns: int, tmp_path: Path) -> None:
    """Those of U S V^T are U V^T, at conditions up to 1e7 and deficient rank beside each other, to round-off times the condition:
    that is what double precision knows. Top pairs too. A lane has the same bits whatever is in the others."""
    made = compiled(POLAR, tmp_path, "of_polar", "lanes")
    made.lanes.restype = ctypes.c_int64
    lanes, draw = int(made.lanes()), np.random.default_rng(rows)

    def polar(g: NDArray[np.float64], top: int) -> NDArray[np.float64]:
        ours = g.copy()
        made.of_polar(*map(ctypes.c_int64, (rows, columns, top)), at(ours))
        return ours

    for first in range(0, 8, lanes):
        g, factors, pairs, known = np.empty((rows, columns, lanes)), [], [], []
        for lane, values in enumerate(singular_values_of(rows)[first : first + lanes]):
            u, v = rotations(draw, rows, rows), rotations(draw, rows, columns)
            kept = values > RELATIVE_TO_TOP * values[0]
            g[:, :, lane] = (u * values) @ v
            factors.append((u * kept) @ v)
            pairs.append(np.outer(u[:, 0] * kept[0], v[0]) if rows == 1 or values[1] < values[0] or values[0] == 0 else None)
            known.append(values[0] / values[kept][-1] if kept.any() else 1.0)
        for top, exact in ((0, factors), (1, pairs)):
            ours = polar(g, top)
            for lane, expected in enumerate(exact):
                same = polar(np.ascontiguousarray(np.repeat(g[:, :, lane : lane + 1], lanes, axis=2)), top)
                assert (same == ours[:, :, lane : lane + 1]).all(), (first, top, lane)
                if expected is not None:  # where the largest singular values are equal any pair is a top one, but of zero none
                    assert np.abs(ours[:, :, lane] - expected).max() < 5e-14 + 1e-15 * known[lane], (first, top, lane)


@pytest.mark.slow
def test_polar_factors_of_2_to_20_columns_by_rational_functions(tmp_path: Path) -> None:
    """To round-off times the condition up to one of 1e8, like numpy's; columns of zeros stay. Matrices deficient in rank, or so
    nearly that they are taken for it (1e-12), and those with numbers that are none are refused and left as they are; between 1e8
    and 1e12 they are right or refused."""
    made = compiled(NARROW, tmp_path, "of_narrow")
    made.of_narrow.restype = ctypes.c_int64
    draw = np.random.default_rng(0)

    def narrow(x: NDArray[np.float64], by: float = 1.0, to: NDArray[np.float64] | None = None) -> NDArray[np.float64] | None:
        ours, added = np.ascontiguousarray(x), np.zeros(1) if to is None else to.copy()
        ours = ours.copy()
        sizes = (ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1]))
        done = made.of_narrow(*sizes, ctypes.c_double(by), ctypes.c_int64(to is not None), at(ours), at(added))
        if not done:
            assert np.array_equal(ours, x, equal_nan=True) and (to is None or np.array_equal(added, to))
            return None
        return ours if to is None else added

    for columns in range(2, 21):
        for rows in (columns, columns + 1, 37, 64):
            u, v = rotations(draw, columns, rows).T, rotations(draw, columns, columns)
            half, last = np.arange(columns) < columns // 2, np.arange(columns) < columns - 1
            for condition in (1.0, 10.0, 300.0, 700.0, 1e3, 1e4, 1e6, 1e8):
                for values in (
                    np.geomspace(1, 1 / condition, columns), np.where(half, 1, 1 / condition), np.where(last, 1, 1 / condition)
                ):  # fmt: skip
                    x, known = (u * values) @ v, 5e-14 + 1e-15 * condition
                    ours = narrow(x)
                    assert ours is not None, (columns, rows, condition)
                    left, _, right = np.linalg.svd(x, full_matrices=False)
                    assert np.abs(ours - u @ v).max() < known and np.abs(ours - left @ right).max() < 2 * known
                    if condition <= 10:
                        assert np.abs(ours - u @ v).max() < 4e-15
            for below in (10 ** draw.uniform(-10, -9), 1e-11, 1e-13, 1e-16, 0.0):
                x = (u * np.where(half, np.geomspace(1, 0.1, columns), below)) @ v
                ours = narrow(x)
                assert ours is None or (below > 1e-11 and np.abs(ours - u @ v).max() < 1e-14 / below), (columns, rows, below)
            x = (u * np.geomspace(1, 1e-3, columns)) @ v
            where, to = draw.choice(columns, draw.integers(1, columns), replace=False), draw.standard_normal(x.shape)
            x[:, where] = 0
            left, sizes, right = np.linalg.svd(x, full_matrices=False)
            kept = sizes > RELATIVE_TO_TOP * sizes[0]
            expected, known = (left * kept) @ right, 5e-14 + 1e-15 * sizes[0] / sizes[kept][-1]
            ours, scaled = narrow(x), narrow(1e-60 * x, -0.3, to)
            assert ours is not None and scaled is not None and (ours[:, where] == 0).all() and (scaled == to)[:, where].all()
            assert np.abs(ours - expected).max() < 2 * known and np.abs(scaled - (to - 0.3 * expected)).max() < 2 * known
            assert narrow(0 * x) is None and narrow(np.where(x == x.max(), np.inf, x)) is None and narrow(1e-160 * x) is None
