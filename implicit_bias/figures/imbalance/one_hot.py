"""When each class of one-hot inputs is learned by gradient flow and its relatives, in closed form.

Class c has the input e_c and the frequency p_c; W starts at zero, cross entropy. Column c of W sees its own class alone and stays
of the form a e_c + b (1 - e_c), so that the loss of the class is log(1 + (k - 1) e^-m) with the gap m = a - b.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Gaps at which the flow is tabulated; times between them are interpolated.
POINTS = 20_001


def gap_at(loss: float, num_classes: int) -> float:
    """The gap m at which a class's loss is ``loss`` < log k."""
    return math.log((num_classes - 1) / math.expm1(loss))


def clock(gap: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """eta p_c t of gradient flow at each gap m: ((e^m - 1) + (k - 1) m) / k, the integral of dm (e^m + k - 1) / k."""
    return (np.expm1(gap) + (num_classes - 1) * gap) / num_classes


def flow_times(frequencies: NDArray[np.float64], rate: float, loss: float) -> NDArray[np.float64]:
    """t_c, (k,): when gradient flow, dW/dt = -rate grad L, has brought each class to ``loss``; inversely as its frequency."""
    reached = clock(np.array([gap_at(loss, len(frequencies))]), len(frequencies))
    return reached / (rate * frequencies)


def normalised_flow_times(frequencies: NDArray[np.float64], rate: float, loss: float) -> NDArray[np.float64]:
    """The same of dW/dt = -rate grad L / |grad L|_F, (k,): t_c is the integral of |grad L| over the time s of gradient flow.

    |grad L|^2 = k / (k - 1) sum_c p_c^2 (1 - q_c)^2, q_c the probability of the right class.
    """
    k = len(frequencies)
    gaps = np.linspace(0, gap_at(loss, k) + math.log(frequencies.max() / frequencies.min()) + 1, POINTS)
    tabled = clock(gaps, k)
    ends = flow_times(frequencies, 1.0, loss)
    s = np.linspace(0, ends.max(), POINTS)
    squares = np.zeros(POINTS)
    for p in frequencies:
        far = (k - 1) * np.exp(-np.interp(s * p, tabled, gaps))
        squares += (p * far / (1 + far)) ** 2
    sizes = np.sqrt(squares * k / (k - 1))
    lengths = np.concatenate([[0.0], np.cumsum((sizes[1:] + sizes[:-1]) / 2 * np.diff(s))])
    times: NDArray[np.float64] = np.interp(ends, s, lengths) / rate
    return times


def sign_time(num_classes: int, rate: float, loss: float) -> float:
    """When sign descent with a constant step has brought every class to ``loss``: each gap grows by 2 rate a step."""
    return gap_at(loss, num_classes) / (2 * rate)


def spectral_time(num_classes: int, rate: float, loss: float) -> float:
    """The same of spectral descent on equal frequencies: the polar factor is I - 11^T / k, each gap grows by ``rate`` a step."""
    return gap_at(loss, num_classes) / rate
