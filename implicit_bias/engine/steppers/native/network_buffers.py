"""Where network.c has the weights and buffers of runs, and how they get there from blocks and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.models import Parameters
from implicit_bias.optimizers import State


class Buffers:
    """W (R, units, inputs) of every layer, held transposed as (R, inputs, whole vectors of units), zeros beyond the last unit;
    its buffers likewise, with log scales (R, whole vectors of units).

    Args:
        shapes: Units and inputs by layer.
        runs: R.
        lanes: Numbers of a vector.
        state: Names of the optimizer's buffers, two at most: they are the layers' m, and r.
        trained: Whether the layers have gradients.

    Attributes:
        seen: Not zero for runs whose gradient at W network.c holds, since a record has looked at it, (R,): network.h.
        unit: The log scale of the weights that it was made from, (R,).
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], runs: int, lanes: int, state: Sequence[str], trained: bool = True
    ) -> None:
        self._shapes, self._state = dict(shapes), tuple(state)
        self._matrices: dict[str, dict[str, Tensor]] = {}
        self._logs: dict[str, dict[str, Tensor]] = {}
        self._gradient: dict[str, Tensor] = {}
        self._copies: list[Tensor] = []
        for name, (units, inputs) in shapes.items():
            wide = -(-units // lanes) * lanes
            kinds = ("w", *"mr"[: len(state)])
            self._matrices[name] = {kind: torch.zeros(runs, inputs, wide, dtype=torch.float64) for kind in kinds}
            if trained:
                self._gradient[name] = torch.zeros(runs, inputs, wide, dtype=torch.float64)
            self._logs[name] = {kind: torch.full((runs, wide), -math.inf, dtype=torch.float64) for kind in kinds if kind != "w"}
        self.seen, self.unit = torch.zeros(runs, dtype=torch.long), torch.zeros(runs, dtype=torch.float64)

    def layer(self, name: str) -> dict[str, int]:
        """The fields of a layer that network.c is given."""
        units, inputs = self._shapes[name]
        at = {kind: tensor.data_ptr() for kind, tensor in self._matrices[name].items()}
        logs = {f"{kind}_log": tensor.data_ptr() for kind, tensor in self._logs[name].items()}
        if name in self._gradient:
            at["g"] = self._gradient[name].data_ptr()
        return {"inputs": inputs, "units": units, **at, **logs}

    def take(self, parameters: Mapping[str, Tensor], state: State) -> None:
        """Take in weights and buffers of all runs; of runs whose buffers have a log scale an entry, the weights alone."""
        runs = len(next(iter(parameters.values())))
        if state and not bool(by_rows(state, runs).all()):
            self.put(parameters, state, range(runs))
            return
        self.seen.zero_()
        for name, (units, _) in self._shapes.items():
            matrices, logs = self._matrices[name], self._logs[name]
            matrices["w"][:, :, :units] = parameters[name].mT
            for kind, key in zip("mr", self._state, strict=False):
                matrices[kind][:, :, :units] = state[key][name].mantissa.mT
                logs[kind][:, :units] = state[key][name].log_scale.amax(dim=-1)

    def put(self, parameters: Mapping[str, Tensor], state: State, places: Sequence[int]) -> None:
        """The same of these runs."""
        index = torch.as_tensor(list(places))
        self.seen[index] = 0
        fits = by_rows(state, len(index))
        for name, (units, _) in self._shapes.items():
            matrices, logs = self._matrices[name], self._logs[name]
            matrices["w"][index, :, :units] = parameters[name].mT
            for kind, key in zip("mr", self._state, strict=False):
                scaled = state[key][name]
                matrices[kind][index[fits], :, :units] = scaled.mantissa[fits].mT
                logs[kind][index[fits], :units] = scaled.log_scale[fits].amax(dim=-1)

    def parameters(self) -> Parameters:
        """The weights, one tensor (R, units, inputs) a layer."""
        return {name: self._block(name, "w") for name in self._shapes}

    def state(self) -> State:
        """The buffers, with a log scale a unit."""
        return {
            key: {name: Scaled(self._block(name, kind), self._log(name, kind)) for name in self._shapes}
            for kind, key in zip("mr", self._state, strict=False)
        }

    def hold(self) -> None:
        """Copy all that updates change."""
        if not self._copies:
            self._copies = [torch.empty_like(tensor) for tensor in self._all()]
        for copy, tensor in zip(self._copies, self._all(), strict=True):
            copy.copy_(tensor)

    def put_back(self, runs: Tensor) -> None:
        """What was held last, of these runs (R,)."""
        self.seen[runs] = 0
        for tensor, copy in zip(self._all(), self._copies, strict=True):
            tensor[runs] = copy[runs]

    def _all(self) -> list[Tensor]:
        return [tensor for of in (self._matrices, self._logs) for kinds in of.values() for tensor in kinds.values()]

    def _block(self, name: str, kind: str) -> Tensor:
        return self._matrices[name][kind][:, :, : self._shapes[name][0]].mT.clone(memory_format=torch.contiguous_format)

    def _log(self, name: str, kind: str) -> Tensor:
        return self._logs[name][kind][:, : self._shapes[name][0], None].clone()


def by_rows(state: State, runs: int) -> Tensor:
    """In which runs every row of every buffer has one log scale, (R,)."""
    found = torch.ones(runs, dtype=torch.bool)
    for blocks in state.values():
        for block in blocks.values():
            top = block.log_scale.amax(dim=-1, keepdim=True)
            found &= ((block.log_scale == top) | (block.mantissa == 0)).flatten(start_dim=1).all(dim=1)
    return found
