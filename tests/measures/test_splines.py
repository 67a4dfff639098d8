"""The interpolating spline against scipy's, and against what it reproduces exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from implicit_bias.measures.exponents import GRID
from implicit_bias.measures.splines import cubic_spline


@pytest.mark.parametrize("count", [4, 5, 17])
def test_it_is_the_not_a_knot_spline(count: int) -> None:
    rng = np.random.RandomState(count)
    x, y = np.sort(rng.rand(count)), rng.randn(count)
    at = np.linspace(x[0], x[-1], 301)
    expected = CubicSpline(x, y)(at)
    assert cubic_spline(x, y, at) == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())


def test_cubics_are_their_own_spline() -> None:
    u, at = np.array(GRID), np.linspace(0, 1, 401)
    assert cubic_spline(u, 1 - 2 * u + 3 * u**3, at) == pytest.approx(1 - 2 * at + 3 * at**3, abs=1e-12)
    assert cubic_spline(u, np.cos(5 * u), u) == pytest.approx(np.cos(5 * u), abs=1e-14)
