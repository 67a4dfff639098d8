"""The interpolating cubic spline; scipy's takes longer to import than the commands that need one take to answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cubic_spline(x: Array, y: Array, at: Array) -> Array:
    """The values at ``at`` of the not-a-knot cubic spline through (x, y).

    With h_i = x_{i+1} - x_i and slopes s_i = (y_{i+1} - y_i) / h_i the second derivatives M_i solve

        h_{i-1} M_{i-1} + 2 (h_{i-1} + h_i) M_i + h_i M_{i+1} = 6 (s_i - s_{i-1}),

    closed by a third derivative that is continuous at the second knot and at the last but one (de Boor, A Practical Guide to
    Splines, chapter IV).

    Args:
        x: Knots, strictly ascending, (m,), m >= 4.
        y: Values there, (m,).
        at: Where it is evaluated, (n,); beyond the knots the outer cubics go on.

    Returns:
        The values, (n,).
    """
    h = np.diff(x)
    slopes = np.diff(y) / h
    system, right = np.zeros((len(x), len(x))), np.zeros(len(x))
    inner = np.arange(1, len(x) - 1)
    system[inner, inner - 1], system[inner, inner], system[inner, inner + 1] = h[:-1], 2 * (h[:-1] + h[1:]), h[1:]
    right[inner] = 6 * np.diff(slopes)
    system[0, :3] = h[1], -(h[0] + h[1]), h[0]
    system[-1, -3:] = h[-1], -(h[-2] + h[-1]), h[-2]
    bends = np.linalg.solve(system, right)
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(h) - 1)
    left, before, after = at - x[piece], bends[piece], bends[piece + 1]
    first = slopes[piece] - h[piece] * (2 * before + after) / 6
    return np.asarray(y[piece] + left * (first + left * (before / 2 + left * (after - before) / (6 * h[piece]))))
