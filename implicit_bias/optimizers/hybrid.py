"""What methods with Muon on some blocks share: which block is whose, and the norm that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.norms import Norm, ParameterNorm, ProductNorm, format_number
from implicit_bias.optimizers.base import Blocks, Optimizer
from implicit_bias.optimizers.descent import WithMomentum
from implicit_bias.optimizers.weight_decay import WithWeightDecay

MATRICES_HELP = "Muon's blocks, such as [layer1,layer2]; null for the matrices of hidden layers"


@dataclass(frozen=True)
class MuonHybrid(WithWeightDecay, WithMomentum):
    """Muon with rate eta_t on some blocks, another method with rate ``ratio`` eta_t on the rest."""

    own_norm: ClassVar[str | None] = "hybrid"

    ratio: float = hyper(0.1, help="rate of the rest over Muon's, the r of the hybrid norm", gt=0, batch=False)
    matrices: list[str] | None = hyper(None, help=MATRICES_HELP)

    @property
    def own(self) -> str:
        return f"hybrid{format_number(self.ratio)}"

    @property
    def unit(self) -> float:
        return self.ratio

    def geometry(
        self,
        names: Sequence[str],
        norm: Norm | None,
        row_bases: Mapping[str, Tensor] | None = None,
        hidden: Sequence[str] | None = None,
    ) -> ParameterNorm:
        """The hybrid norm on the parameter set, as :meth:`Optimizer.geometry` makes it.

        Args:
            names: The trained blocks.
            norm: None; the norm is the optimizer's own.
            row_bases: Orthonormal bases (p, r) of the spaces that gradients' columns lie in, by block.
            hidden: The matrices of hidden layers, Muon's where ``matrices`` is null.

        Returns:
            The norm.

        Raises:
            BadInput: ``matrices`` names a block that there is not.
        """
        return Optimizer.geometry(self, names, norm, row_bases, matrices_among(names, self.matrices, hidden))


def matrices_among(names: Sequence[str], asked: Sequence[str] | None, hidden: Sequence[str] | None) -> Sequence[str] | None:
    """The blocks that are Muon's: those asked for, else the matrices of hidden layers. Raises BadInput: a block is unknown."""
    for name in asked or ():
        if name not in names:
            raise BadInput(f"optimizer.matrices={list(asked or ())}: no block {name}; allowed: {', '.join(names)}")
    return hidden if asked is None else asked


def matrices_and_rest(norm: ParameterNorm, gradient: Blocks) -> tuple[Blocks, Blocks]:
    """Muon's blocks, and the rest: in a hybrid of several parts that in which more than matrices may be, which comes last."""
    rest = norm.rest if isinstance(norm, ProductNorm) else ()
    return {n: g for n, g in gradient.items() if n not in rest}, {n: g for n, g in gradient.items() if n in rest}
