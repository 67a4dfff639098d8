"""The Schatten p-norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.norms.base import NORMS, Norm, normalised
from implicit_bias.norms.singular import RANK_TOLERANCE, polar, rank_one, singular_values
from implicit_bias.norms.vectors import (
    Exponent,
    conjugate,
    is_inf,
    is_one,
    lp_direction_log,
    lp_value,
    project_lp,
    square_convexity,
)

if TYPE_CHECKING:
    import cvxpy


@NORMS.register
@dataclass(frozen=True)
class Schatten(Norm):
    """Schatten p-norm, the l_p norm of the singular values, p in [1, inf] (norm.p).

    With G = U S V^T and 1/p + 1/q = 1: N_*(G) = ||s||_q, direction = U diag(s^(q-1) / ||s||_q^(q-1)) V^T.
    """

    name: ClassVar[str] = "schatten"
    unitarily_invariant: ClassVar[bool] = True

    p: Exponent = hyper(1.5, help="exponent p", ge=1, allow_inf=True)

    @property
    def smooth(self) -> bool:
        return not (is_one(self.p) or is_inf(self.p))

    @property
    def saturating(self) -> bool:
        return is_inf(self.p)

    @property
    def strong_convexity(self) -> float | Tensor:
        return square_convexity(self.p)

    @property
    def dual_norm(self) -> Schatten | None:
        return Schatten(conjugate(self.p)) if self.smooth else None

    def value(self, w: Tensor) -> Tensor:
        return self.value_of(singular_values(w))

    def dual(self, g: Tensor) -> Tensor:
        return self.dual_of(singular_values(g))

    def value_of(self, s: Tensor) -> Tensor:
        """N(W) from the singular values of W, (..., min(p, q)), descending."""
        return lp_value(s, self.p)

    def dual_of(self, s: Tensor) -> Tensor:
        """N_*(G) from the singular values of G, (..., min(p, q)), descending."""
        return lp_value(s, conjugate(self.p))

    def direction(self, g: Tensor) -> Tensor:
        if is_inf(self.p):
            return polar(g)
        if is_one(self.p):
            return rank_one(g)
        u, s, vh = torch.linalg.svd(normalised(g)[0], full_matrices=False)
        # For large p the power q - 1 is close to 0 and lifts round-off to order one: truncate as the polar factor does.
        s = torch.where(s > RANK_TOLERANCE[g.dtype] * s[..., :1], s, torch.zeros_like(s))
        steepest: Tensor = (u * lp_direction_log(s.sign(), s.log(), self.p).unsqueeze(-2)) @ vh
        return steepest

    def project(self, w: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        nearest: Tensor = (u * project_lp(s, self.p).unsqueeze(-2)) @ vh
        return nearest

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        """Exact semidefinite form by weak majorisation (Ben-Tal and Nemirovski, Lectures on Modern Convex Optimization, 4.2).

        ||W||_Sp <= t iff some v_1 >= ... >= v_m >= 0 with ||v||_p <= t has v_1 + ... + v_j >= s_1 + ... + s_j (Ky Fan norms)
        for every j. The sum of the j largest singular values is the sum of the j largest eigenvalues of [[0, W], [W^T, 0]].
        """
        import cvxpy
        import numpy
        from cvxpy.transforms.partial_optimize import partial_optimize

        if is_inf(self.p):
            return cvxpy.sigma_max(variable)
        if is_one(self.p):
            return cvxpy.normNuc(variable)
        p, q = variable.shape
        dilation = cvxpy.bmat([[numpy.zeros((p, p)), variable], [variable.T, numpy.zeros((q, q))]])
        bound = cvxpy.Variable(min(p, q), nonneg=True)
        ky_fan = [cvxpy.lambda_sum_largest(dilation, j + 1) <= cvxpy.sum(bound[: j + 1]) for j in range(min(p, q))]
        ordered = [bound[:-1] >= bound[1:]] if min(p, q) > 1 else []
        problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.pnorm(bound, self.p, approx=False)), ky_fan + ordered)
        return partial_optimize(problem, opt_vars=[bound])
