"""Norms of units on parameter sets: of rows and columns of several blocks that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import Norm
from implicit_bias.norms.parameter_norm import Blocks, ParameterNorm, ScaledBlocks

if TYPE_CHECKING:
    import cvxpy


@dataclass(frozen=True)
class UnitNorm(ParameterNorm):
    """A norm of units on the blocks that their weights are in: of the matrix whose row r has all weights of unit r.

    Attributes:
        norm: On matrices with a row a unit.
        rows: Blocks (units, inputs), whose row r comes into unit r.
        columns: Blocks (outputs, units), whose column r goes out of it; a bias (1, units) is one.
    """

    norm: Norm
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.norm.label

    def value(self, blocks: Blocks) -> Tensor:
        return self.norm.value(self._units(blocks))

    def dual(self, blocks: Blocks) -> Tensor:
        return self.norm.dual(self._units(blocks))

    def direction(self, blocks: Blocks) -> dict[str, Tensor]:
        return self._cut(self.norm.direction(self._units(blocks)), blocks)

    def project(self, blocks: Blocks) -> dict[str, Tensor]:
        return self._cut(self.norm.project(self._units(blocks)), blocks)

    def of_block(self, name: str) -> ParameterNorm:
        return replace(self, rows=(name,), columns=()) if name in self.rows else replace(self, rows=(), columns=(name,))

    def expression(self, variables: Mapping[str, cvxpy.Expression]) -> cvxpy.Expression:
        import cvxpy

        return self.norm.expression(cvxpy.hstack([variables[n] for n in self.rows] + [variables[n].T for n in self.columns]))

    def scaled_direction(self, blocks: ScaledBlocks) -> dict[str, Tensor]:
        mantissas = {name: block.mantissa for name, block in blocks.items()}
        scales = {name: block.log_scale.expand_as(block.mantissa) for name, block in blocks.items()}
        units = Scaled(self._units(mantissas), self._units(scales))
        return self._cut(self.norm.scaled_direction(units), mantissas)

    def _units(self, blocks: Blocks) -> Tensor:
        return torch.cat([*(blocks[name] for name in self.rows), *(blocks[name].mT for name in self.columns)], dim=-1)

    def _cut(self, units: Tensor, like: Blocks) -> dict[str, Tensor]:
        sizes = [*(like[name].shape[-1] for name in self.rows), *(like[name].shape[-2] for name in self.columns)]
        pieces = dict(zip((*self.rows, *self.columns), units.split(sizes, dim=-1), strict=True))
        return {name: pieces[name].mT if name in self.columns else pieces[name] for name in like}
