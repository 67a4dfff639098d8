"""Weights that a norm gives to matrices by their shape: those of the modular norm."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, Self

from torch import Tensor

from implicit_bias.core.registry import hyper
from implicit_bias.norms.base import Norm

RMS = "rms"
SUFFIX = f"-{RMS}"


def rms_weight(rows: int, columns: int) -> float:
    """sqrt(columns / rows): times the spectral norm of W it is the operator norm from the root mean square of inputs to that of
    outputs, max_x RMS(W x) / RMS(x), RMS(x) = |x|_2 / sqrt(entries of x).

    Args:
        rows: Outputs of a layer.
        columns: Its inputs.

    Returns:
        The factor.
    """
    return math.sqrt(columns / rows)


@dataclass(frozen=True)
class LayerWeighted(Norm):
    """A norm that may weight matrices by their shape: with ``layer_weights=rms`` by sqrt(columns / rows).

    On a parameter set that is max_l sqrt(d_in / d_out) ||W_l||_spectral, the modular norm of layers of equal mass (Large et al.,
    arXiv 2405.14813; Bernstein and Newhouse, arXiv 2409.20325, Proposition 7, and 2410.21265), in which steps of descent are
    sqrt(d_out / d_in) polar(G_l): outputs change by as much whatever the widths are. Labels end in ``-rms``.

    A row or a column of zeros changes it; :meth:`of_shape` gives the norm that it is on matrices of one shape, with a number for
    a weight, where it does not.
    """

    _: KW_ONLY
    layer_weights: Literal["rms"] | None = hyper(
        None, help="rms: matrices weighted by sqrt(columns / rows), as in the modular norm; null: alike", choices=(RMS,)
    )

    @property
    def weighted(self) -> bool:
        """Whether a matrix's shape has a part in its norm."""
        return self.layer_weights is not None

    @property
    def unweighted(self) -> Self:
        """The same norm without weights."""
        return replace(self, layer_weights=None)

    @property
    def suffix(self) -> str:
        """What its label ends in."""
        return SUFFIX if self.weighted else ""

    @property
    def unitarily_invariant(self) -> bool:  # type: ignore[override]
        return not self.weighted

    def weight(self, rows: int, columns: int) -> float:
        """The factor that it has on matrices of this shape.

        Args:
            rows: Of the matrices.
            columns: Of the matrices.

        Returns:
            The factor; 1 without weights.
        """
        return rms_weight(rows, columns) if self.weighted else 1.0

    def times_weight(self, numbers: Tensor, w: Tensor, power: int = 1) -> Tensor:
        """Numbers times the factor of these matrices, or over it.

        Args:
            numbers: Of any shape.
            w: Matrices (..., p, q).
            power: 1 or -1.

        Returns:
            The products; the numbers themselves without weights.
        """
        return numbers * self.weight(*w.shape[-2:]) ** power if self.weighted else numbers
