"""Deep linear networks on orthonormal samples in balanced classes.

With X X^T = 1 the scores Z = W_L ... W_1 X^T are any matrix whose rank the width allows, and W_1 X^T has the singular values of
W_1. Uniform weights on all pairs prove that the margin of Z is at most ||Z||_s times (k - 1)^(-1/s) / sqrt(n_c) in the Schatten
norm of any s >= 1; the simplex frame of neural collapse, whose k - 1 singular values are equal, reaches it in all of them.
By Hölder's inequality ||Z||_{p/L} <= prod_l ||W_l||_p, with equality for equal factors of Z, so that

    max q / (max_l ||W_l||_p)^L = (k - 1)^(-L/p) / sqrt(n_c)    where p >= L (or the rank is one),

and with l2 of all weights, by the inequality of the means, that of p = 2 over L^(L/2): 1 / (2 (k - 1) sqrt(n_c)) for L = 2. With
one output for two classes Z is one row of n signs: 1 / sqrt(n) stands for 1 / sqrt(n_c), and the rank is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.models import Model
from implicit_bias.models.mlp import MLP
from implicit_bias.norms import Norm
from implicit_bias.norms.l2 import L2
from implicit_bias.norms.nuclear import Nuclear
from implicit_bias.norms.schatten import Schatten
from implicit_bias.norms.spectral import Spectral
from implicit_bias.solvers.formulas.base import Formula, Margin

# Entries of X X^T - 1 up to this are rounding.
ORTHONORMAL = 1e-12


class UnconstrainedFeatures(Formula):
    """(k - 1)^(-L/p) / sqrt(n_c) in the Schatten norms with p >= L, and in l2 for L <= 2."""

    name = "unconstrained_features"
    needs = (
        "dataset=unconstrained_features with model=mlp model.activation=linear model.bias=none model.frozen=null and"
        " model.width >= k - 1"
    )
    norms = "l2 (model.depth <= 2), spectral, schatten<p> (p >= model.depth)"

    def margin(self, model: Model, x: NDArray[np.float64], y: NDArray[np.int64], num_classes: int) -> Margin | None:
        if not isinstance(model, MLP) or model.activation != "linear" or model.bias != "none" or model.frozen_blocks():
            return None
        binary = model.outputs(num_classes) == 1
        rank, counts = 1 if num_classes == 2 else num_classes - 1, np.bincount(y, minlength=num_classes)
        if (model.depth > 1 and model.width < rank) or counts.min() != counts.max() or x.shape[1] < len(x):
            return None
        if np.abs(x @ x.T - np.eye(len(x))).max() > ORTHONORMAL:
            return None
        largest = 1 / math.sqrt(len(x) if binary else counts[0])
        return SchattenMargins(model.depth, rank, largest)


@dataclass(frozen=True)
class SchattenMargins:
    """The maximum margins of one such network.

    Attributes:
        layers: L.
        rank: Of the optimal scores, whose singular values are all equal.
        largest: The maximum margin in the spectral norm.
    """

    exponents: ClassVar[dict[type[Norm], float]] = {L2: 2.0, Nuclear: 1.0, Spectral: math.inf}

    layers: int
    rank: int
    largest: float

    def __call__(self, norm: Norm) -> float | None:
        """The maximum margin in a norm.

        Args:
            norm: N, of the parameter set as networks have it.

        Returns:
            gamma*; None where it is not known.
        """
        p = norm.p if isinstance(norm, Schatten) else self.exponents.get(type(norm))
        if not isinstance(p, float) or (isinstance(norm, Spectral) and norm.weighted) or (p < self.layers and self.rank > 1):
            return None
        # In l2 the squares of all layers are added up, where the others take the largest layer.
        means = math.pow(self.layers, self.layers / 2) if isinstance(norm, L2) else 1.0
        return self.largest * math.pow(self.rank, -self.layers / p) / means
