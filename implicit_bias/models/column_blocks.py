"""A linear model whose matrix is cut into blocks of columns: what the engine evaluates is that of the whole matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from implicit_bias.core.data import Parameters
from implicit_bias.core.scaled import Scaled
from implicit_bias.models.base import Objective
from implicit_bias.models.gradient import Gradient, Quick
from implicit_bias.norms.column_blocks import block_names, cut_columns, joined_columns


class BlocksObjective(Objective):
    """The objective of W = [W_1 | W_2 | ...] as one of the parameter set {weight1: W_1, weight2: W_2, ...}.

    Args:
        whole: The objective of W.
        block: What it calls W.
        sizes: Columns of each block.

    Attributes:
        names: The blocks, in the order of the columns.
        sizes: As given.
    """

    def __init__(self, whole: Objective, block: str, sizes: Sequence[int]) -> None:
        self.whole, self.data = whole, whole.data
        self._block, self.sizes, self.names = block, list(sizes), block_names(sizes)

    def quick(self, parameters: Mapping[str, Tensor]) -> Quick | None:
        found = self.whole.quick(self._joined(parameters))
        return None if found is None else found._replace(blocks=self._cut_scaled(found.blocks[self._block]))

    def finished(self, parameters: Mapping[str, Tensor], quick: Quick) -> Gradient:
        w = self._joined(parameters)
        parts = [quick.blocks[name] for name in self.names]
        mantissa = joined_columns({name: part.mantissa for name, part in zip(self.names, parts, strict=True)})
        whole = quick._replace(blocks={self._block: Scaled(mantissa, parts[0].log_scale)})
        return self._cut_gradient(self.whole.finished(w, whole))

    def gradient(self, parameters: Mapping[str, Tensor], batch: Tensor | None = None) -> Gradient:
        return self._cut_gradient(self.whole.gradient(self._joined(parameters), batch))

    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.whole.negative_gaps(self._joined(parameters))

    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.whole.weights(self._joined(parameters))

    def scores(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self.whole.scores(self._joined(parameters), x)

    def pull(self, parameters: Mapping[str, Tensor], weights: Tensor) -> Parameters:
        return cut_columns(self.whole.pull(self._joined(parameters), weights)[self._block], self.sizes)

    def push(self, parameters: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> Tensor:
        return self.whole.push(self._joined(parameters), self._joined(tangent))

    def _joined(self, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # By name: a dictionary of blocks may have them in another order.
        return {self._block: joined_columns({name: blocks[name] for name in self.names})}

    def _cut_gradient(self, gradient: Gradient) -> Gradient:
        return replace(gradient, blocks=self._cut_scaled(gradient.blocks[self._block]))

    def _cut_scaled(self, block: Scaled) -> dict[str, Scaled]:
        """Blocks have the layout of the whole: one scale a run, a row or an entry."""
        mantissas = cut_columns(block.mantissa, self.sizes)
        per_entry = block.log_scale.shape[-1] == block.mantissa.shape[-1]
        scales = cut_columns(block.log_scale, self.sizes) if per_entry else dict.fromkeys(self.names, block.log_scale)
        return {name: Scaled(mantissa.contiguous(), scales[name].contiguous()) for name, mantissa in mantissas.items()}
