"""Norms on parameter sets: a dictionary of blocks, each of shape (R, p, q), one leading run axis.

Entrywise norms act on the whole parameter vector. Matrix norms act on each block, and the set's norm is their maximum (its dual
is the sum of the blocks' duals). Product norms compose parts with weights, by a maximum or in l2 (Bernstein and Newhouse, arXiv
2409.20325, Proposition 7; Crawshaw et al., arXiv 2510.09827, section 3). Where a function says (R, p, q), any leading axes in
the place of R will do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms.base import Norm, flat
from implicit_bias.norms.hybrid import Hybrid
from implicit_bias.norms.l2 import L2
from implicit_bias.norms.layer_weights import LayerWeighted, rms_weight
from implicit_bias.norms.linf import Linf
from implicit_bias.norms.parameter_norm import Blocks, ScaledBlocks, in_common_unit
from implicit_bias.norms.parameter_norm import ParameterNorm as ParameterNorm
from implicit_bias.norms.units import UnitNorm
from implicit_bias.norms.vectors import levels_of_projection, lp_value

if TYPE_CHECKING:
    import cvxpy

T = TypeVar("T")


@dataclass(frozen=True)
class WholeVector(ParameterNorm):
    """An entrywise norm of all blocks laid end to end."""

    norm: Norm

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.norm.label

    @property
    def dual_norm(self) -> ParameterNorm | None:
        dual = self.norm.dual_norm
        return None if dual is None else WholeVector(dual)

    def value(self, blocks: Blocks) -> Tensor:
        return self.norm.value(_joined(blocks))

    def dual(self, blocks: Blocks) -> Tensor:
        return self.norm.dual(_joined(blocks))

    def direction(self, blocks: Blocks) -> dict[str, Tensor]:
        if self.norm.separable:
            return {name: self.norm.direction(b) for name, b in blocks.items()}
        return _parted(self.norm.direction(_joined(blocks)), blocks)

    def project(self, blocks: Blocks) -> dict[str, Tensor]:
        return _parted(self.norm.project(_joined(blocks)), blocks)

    def of_block(self, name: str) -> ParameterNorm:
        return SingleBlock(name, self.norm)

    def clipped(self, blocks: Blocks) -> tuple[Tensor, float]:
        return self.norm.clipped(_joined(blocks))

    def expression(self, variables: Mapping[str, cvxpy.Expression]) -> cvxpy.Expression:
        import cvxpy

        if len(variables) == 1:
            return self.norm.expression(next(iter(variables.values())))
        entries = cvxpy.hstack([cvxpy.vec(variable, order="F") for variable in variables.values()])
        return self.norm.expression(cvxpy.reshape(entries, (1, entries.size), order="F"))

    def in_one_unit(self, names: Collection[str]) -> frozenset[str]:
        return frozenset(names) if self.norm.in_one_unit else frozenset()

    def scaled_direction(self, blocks: ScaledBlocks) -> dict[str, Tensor]:
        mantissas = {name: b.mantissa for name, b in blocks.items()}
        if len(blocks) == 1 or self.norm.separable:
            return {name: self.norm.scaled_direction(b) for name, b in blocks.items()}
        scales = {name: b.log_scale.expand_as(b.mantissa) for name, b in blocks.items()}
        joined = Scaled(_joined(mantissas), _joined(scales))
        return _parted(self.norm.scaled_direction(joined), mantissas)


@dataclass(frozen=True)
class Part:
    """A group of blocks in a product norm: weight * norm(those blocks)."""

    blocks: tuple[str, ...]
    norm: ParameterNorm
    weight: float = 1.0

    def of(self, blocks: Mapping[str, T]) -> dict[str, T]:
        """Those of the blocks that are in the group."""
        return {name: blocks[name] for name in self.blocks}


@dataclass(frozen=True)
class ProductNorm(ParameterNorm):
    """Parts composed by a maximum or in l2.

    ``max``: N = max_b w_b N_b, N_* = sum_b N_b* / w_b, direction = direction_b / w_b in every part.
    ``l2``: N = sqrt(sum_b (w_b N_b)^2), N_* = D = sqrt(sum_b (N_b* / w_b)^2), direction = direction_b N_b* / (w_b^2 D).
    """

    label: str
    parts: tuple[Part, ...]
    outer: Literal["max", "l2"] = "max"
    #: In a hybrid norm the blocks that are not Muon's.
    rest: tuple[str, ...] = ()

    def value(self, blocks: Blocks) -> Tensor:
        return self.value_of([part.norm.value(part.of(blocks)) for part in self.parts])

    def dual(self, blocks: Blocks) -> Tensor:
        return self.dual_of([part.norm.dual(part.of(blocks)) for part in self.parts])

    def value_of(self, values: Sequence[Tensor]) -> Tensor:
        """N from N_b of every part.

        Args:
            values: (R,) each.

        Returns:
            N, (R,).
        """
        weighted = torch.stack([part.weight * value for part, value in zip(self.parts, values, strict=True)])
        return weighted.amax(dim=0) if self.outer == "max" else lp_value(weighted.movedim(0, -1), 2)

    def dual_of(self, duals: Sequence[Tensor]) -> Tensor:
        """N_* from N_b* of every part.

        Args:
            duals: (R,) each.

        Returns:
            N_*, (R,).
        """
        weighted = self._weighted(duals)
        return weighted.sum(dim=0) if self.outer == "max" else lp_value(weighted.movedim(0, -1), 2)

    def direction(self, blocks: Blocks) -> dict[str, Tensor]:
        if self.outer == "max":
            return _merged(_times(part.norm.direction(part.of(blocks)), 1 / part.weight) for part in self.parts)
        duals = self._duals(blocks)
        total = lp_value(duals.movedim(0, -1), 2)
        shares = duals / torch.where(total == 0, torch.ones_like(total), total)
        return _merged(
            _times(part.norm.direction(part.of(blocks)), (share / part.weight)[..., None, None])
            for part, share in zip(self.parts, shares, strict=True)
        )

    def of_block(self, name: str) -> ParameterNorm:
        (part,) = (part for part in self.parts if name in part.blocks)
        return ProductNorm(self.label, (Part((name,), part.norm.of_block(name), part.weight),), self.outer)

    def project(self, blocks: Blocks) -> dict[str, Tensor]:
        if self.outer == "max":
            return _merged(
                _times(part.norm.project(_times(part.of(blocks), part.weight)), 1 / part.weight) for part in self.parts
            )
        clipped = [part.norm.clipped(part.of(blocks)) for part in self.parts]
        weights = [part.weight * factor for part, (_, factor) in zip(self.parts, clipped, strict=True)]
        levels = levels_of_projection([numbers for numbers, _ in clipped], weights)
        radii = [factor * level for (_, factor), level in zip(clipped, levels, strict=True)]
        inside = self.value(blocks) <= 1
        found = _merged(_projected(part, blocks, radius) for part, radius in zip(self.parts, radii, strict=True))
        return {name: torch.where(inside[..., None, None], block, found[name]) for name, block in blocks.items()}

    def expression(self, variables: Mapping[str, cvxpy.Expression]) -> cvxpy.Expression:
        import cvxpy

        parts = [part.weight * part.norm.expression(part.of(variables)) for part in self.parts]
        if len(parts) == 1:
            return parts[0]
        return cvxpy.maximum(*parts) if self.outer == "max" else cvxpy.norm2(cvxpy.hstack(parts))

    def in_one_unit(self, names: Collection[str]) -> frozenset[str]:
        if self.outer == "l2":
            return frozenset(names)
        return frozenset().union(*(part.norm.in_one_unit(part.blocks) for part in self.parts))

    def scaled_direction(self, blocks: ScaledBlocks) -> dict[str, Tensor]:
        if self.outer == "l2":
            return self.direction(in_common_unit(blocks))
        # Under a maximum each part's direction ignores the size of the others: no common unit, nothing underflows.
        return _merged(
            _times(part.norm.scaled_direction({name: blocks[name] for name in part.blocks}), 1 / part.weight)
            for part in self.parts
        )

    def _duals(self, blocks: Blocks) -> Tensor:
        return self._weighted([part.norm.dual(part.of(blocks)) for part in self.parts])

    def _weighted(self, duals: Sequence[Tensor]) -> Tensor:
        return torch.stack([dual / part.weight for part, dual in zip(self.parts, duals, strict=True)])


@dataclass(frozen=True)
class SingleBlock(ParameterNorm):
    """A matrix norm of one block."""

    block: str
    norm: Norm

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.norm.label

    @property
    def dual_norm(self) -> ParameterNorm | None:
        dual = self.norm.dual_norm
        return None if dual is None else SingleBlock(self.block, dual)

    def value(self, blocks: Blocks) -> Tensor:
        return self.norm.value(blocks[self.block])

    def dual(self, blocks: Blocks) -> Tensor:
        return self.norm.dual(blocks[self.block])

    def direction(self, blocks: Blocks) -> dict[str, Tensor]:
        return {self.block: self.norm.direction(blocks[self.block])}

    def project(self, blocks: Blocks) -> dict[str, Tensor]:
        return {self.block: self.norm.project(blocks[self.block])}

    def of_block(self, name: str) -> ParameterNorm:
        assert name == self.block, f"{name} is not {self.block}"
        return self

    def clipped(self, blocks: Blocks) -> tuple[Tensor, float]:
        return self.norm.clipped(blocks[self.block])

    def expression(self, variables: Mapping[str, cvxpy.Expression]) -> cvxpy.Expression:
        return self.norm.expression(variables[self.block])

    def in_one_unit(self, names: Collection[str]) -> frozenset[str]:
        return frozenset(names) if self.norm.in_one_unit else frozenset()

    def scaled_direction(self, blocks: ScaledBlocks) -> dict[str, Tensor]:
        return {self.block: self.norm.scaled_direction(blocks[self.block])}


@dataclass(frozen=True)
class WeightedByShape(ParameterNorm):
    """sqrt(columns / rows) times the norm of one block (:mod:`implicit_bias.norms.layer_weights`)."""

    label: str
    norm: SingleBlock

    def weight(self, blocks: Mapping[str, Any]) -> float:
        """The factor.

        Args:
            blocks: What has a shape (..., p, q) under the block's name.

        Returns:
            A number > 0.
        """
        rows, columns = blocks[self.norm.block].shape[-2:]
        return rms_weight(rows, columns)

    def value(self, blocks: Blocks) -> Tensor:
        return self.weight(blocks) * self.norm.value(blocks)

    def dual(self, blocks: Blocks) -> Tensor:
        return self.norm.dual(blocks) / self.weight(blocks)

    def direction(self, blocks: Blocks) -> dict[str, Tensor]:
        return _times(self.norm.direction(blocks), 1 / self.weight(blocks))

    def project(self, blocks: Blocks) -> dict[str, Tensor]:
        weight = self.weight(blocks)
        return _times(self.norm.project(_times({self.norm.block: blocks[self.norm.block]}, weight)), 1 / weight)

    def of_block(self, name: str) -> ParameterNorm:
        self.norm.of_block(name)
        return self

    def clipped(self, blocks: Blocks) -> tuple[Tensor, float]:
        numbers, factor = self.norm.clipped(blocks)
        return numbers, self.weight(blocks) * factor

    def expression(self, variables: Mapping[str, cvxpy.Expression]) -> cvxpy.Expression:
        return self.weight(variables) * self.norm.expression(variables)

    def in_one_unit(self, names: Collection[str]) -> frozenset[str]:
        return self.norm.in_one_unit(names)

    def scaled_direction(self, blocks: ScaledBlocks) -> dict[str, Tensor]:
        weight = self.weight({name: block.mantissa for name, block in blocks.items()})
        return _times(self.norm.scaled_direction(blocks), 1 / weight)


@dataclass(frozen=True)
class InRowSpace(Norm):
    """A unitarily invariant norm, for gradients whose columns lie in the span of an orthonormal basis B (p, r).

    N_*(G) = N_*(B^T G) and direction(G) = B direction(B^T G): null directions are absent by construction instead of
    being cut by a tolerance, and the decomposition is smaller. Values and projections are those of the norm itself.
    """

    name: ClassVar[str] = "in_row_space"
    unitarily_invariant: ClassVar[bool] = True

    norm: Norm
    basis: Tensor

    @property
    def smooth(self) -> bool:
        return self.norm.smooth

    @property
    def saturating(self) -> bool:
        return self.norm.saturating

    @property
    def label(self) -> str:
        return self.norm.label

    def value(self, w: Tensor) -> Tensor:
        return self.norm.value(w)

    def dual(self, g: Tensor) -> Tensor:
        return self.norm.dual(self.basis.mT @ g)

    def direction(self, g: Tensor) -> Tensor:
        return self.basis @ self.norm.direction(self.basis.mT @ g)

    def project(self, w: Tensor) -> Tensor:
        return self.norm.project(w)

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        return self.norm.clipped(w)

    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        return self.norm.expression(variable)


def over_blocks(
    norm: Norm,
    names: Sequence[str],
    row_bases: Mapping[str, Tensor] | None = None,
    hidden: Sequence[str] | None = None,
) -> ParameterNorm:
    """The norm of a parameter set that ``norm`` stands for: of the whole vector if entrywise, of the matrix of all units if of
    units, else the maximum over blocks.

    Args:
        norm: The norm of one matrix, or of the entries.
        names: The blocks it covers.
        row_bases: For blocks whose gradients' columns are known to lie in a subspace, its orthonormal basis (p, r).
        hidden: The blocks that a hybrid norm takes as matrices; the entries of the others are its rest. To a norm of units they
            are the blocks with a row a unit, the others have a column a unit. None for all of them.

    Returns:
        The norm on the parameter set.
    """
    if norm.entrywise:
        return WholeVector(norm)
    if norm.of_units:
        rows = tuple(name for name in names if hidden is None or name in hidden)
        return UnitNorm(norm, rows, tuple(name for name in names if name not in rows))
    bases, weighted = row_bases or {}, isinstance(norm, LayerWeighted) and norm.weighted
    # The shapes that weights are of are those of the blocks, and not of what is left of them in the row space.
    inner = norm.unweighted if isinstance(norm, LayerWeighted) else norm

    def single(name: str) -> ParameterNorm:
        compress = inner.unitarily_invariant and name in bases
        block = SingleBlock(name, InRowSpace(inner, bases[name]) if compress else inner)
        return WeightedByShape(norm.label, block) if weighted else block

    if not isinstance(norm, Hybrid):
        return single(names[0]) if len(names) == 1 else ProductNorm(norm.label, tuple(Part((n,), single(n)) for n in names))
    rest = tuple(name for name in names if hidden is not None and name not in hidden)
    parts = [Part((name,), single(name)) for name in names if name not in rest]
    if rest:
        parts.append(Part(rest, WholeVector(L2() if norm.rest == "l2" else Linf())))
    return single(names[0]) if len(parts) == 1 and not rest else ProductNorm(norm.label, tuple(parts), norm.outer, rest)


def _joined(blocks: Blocks) -> Tensor:
    if len(blocks) == 1:
        return next(iter(blocks.values()))
    return torch.cat([flat(b) for b in blocks.values()], dim=-1).unsqueeze(-2)


def _parted(vector: Tensor, like: Blocks) -> dict[str, Tensor]:
    if len(like) == 1:
        return dict.fromkeys(like, vector)
    pieces = vector.squeeze(-2).split([b.shape[-2] * b.shape[-1] for b in like.values()], dim=-1)
    return {name: piece.reshape(b.shape) for (name, b), piece in zip(like.items(), pieces, strict=True)}


def _projected(part: Part, blocks: Blocks, radius: Tensor) -> dict[str, Tensor]:
    """The projection of a part's blocks onto its ball of this radius (R,)."""
    size = torch.where(radius == 0, torch.ones_like(radius), radius)[..., None, None]
    unit = part.norm.project({name: block / size for name, block in part.of(blocks).items()})
    return _times(unit, radius[..., None, None])


def _times(blocks: Blocks, factor: Tensor | float) -> dict[str, Tensor]:
    if not isinstance(factor, Tensor) and factor == 1:
        return dict(blocks)
    return {name: b * factor for name, b in blocks.items()}


def _merged(dictionaries: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for dictionary in dictionaries:
        merged.update(dictionary)
    return merged
