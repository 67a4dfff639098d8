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
