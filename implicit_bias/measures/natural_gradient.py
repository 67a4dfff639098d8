"""Every step that descends is natural gradient descent in some metric; how far that metric is from the Euclidean one.

Shoji, Suzuki and Kozachkov, arXiv 2409.16422: for y = -grad L and a change d of the parameters with <y, d> > 0 there are
symmetric positive definite metrics M with M d = y, so that d = M^-1 y. With psi the angle between y and d the least condition
number of any of them is (1 + sin psi) / (1 - sin psi) (by Wielandt's inequality no metric has a smaller one).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from implicit_bias.measures.margins import inner, unit_entries
from implicit_bias.models import Parameters


def cosine_and_sine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """cos and sin >= 0 of the angle between two parameter sets, (R,) each; nan where either is zero.

    With unit vectors u and v: 1 - cos = |u - v|^2 / 2 and 1 + cos = |u + v|^2 / 2, whose product is sin^2, so that an angle is
    as exact as u - v is, also where its cosine rounds to 1.

    Args:
        a: One tensor (R, p, q) a block.
        b: The same blocks.
    """
    u, v = _unit(a), _unit(b)
    near, far = ({n: u[n] + sign * v[n] for n in u} for sign in (-1, 1))
    less, more = inner(near, near) / 2, inner(far, far) / 2
    return torch.where(less < more, 1 - less, more - 1), (less * more).sqrt()


def metric_condition(cosine: Tensor, sine: Tensor) -> Tensor:
    """The least condition number of a metric in which a step is natural gradient descent; inf where there is none, cos <= 0.

    (1 + sin) / (1 - sin) = ((1 + sin) / cos)^2, which does not cancel where the step is almost at a right angle.

    Args:
        cosine: cos psi, any shape; nan: the step or the gradient is zero.
        sine: sin psi >= 0, the same shape.

    Returns:
        Numbers >= 1, the same shape; nan where the cosine is.
    """
    return torch.where(cosine <= 0, torch.inf, ((1 + sine) / cosine).square())


def best_metric(descent: Tensor, gradient: Tensor) -> Tensor:
    """M with M d = g whose condition number is the least there is, for small problems.

    M = g g^T / <g, d> + alpha (I - d d^T / <d, d>) with alpha = <g, g> / <g, d>; its eigenvalues are alpha (1 +- sin psi) and
    alpha.

    Args:
        descent: d (D,), what is subtracted from the parameters, up to a positive factor.
        gradient: g (D,), with <g, d> > 0.

    Returns:
        M, (D, D).

    Raises:
        ValueError: <g, d> <= 0, where no metric has M d = g.
    """
    product = gradient @ descent
    if not product > 0:
        raise ValueError(f"no metric makes a descent of it: <gradient, step> = {float(product):.3g}; must be > 0")
    alpha = gradient @ gradient / product
    outside = torch.eye(len(descent), dtype=descent.dtype) - torch.outer(descent, descent) / (descent @ descent)
    return torch.outer(gradient, gradient) / product + alpha * outside


def _unit(a: Mapping[str, Tensor]) -> Parameters:
    """a / |a| a run, at any size; nan where a is zero."""
    entries = unit_entries(a)
    length = inner(entries, entries).sqrt()[:, None, None]
    return {n: block / length for n, block in entries.items()}
