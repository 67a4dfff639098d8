"""Tensors of a batch, chosen between run by run, and in the plain containers that a snapshot is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.models import Gradient, Parameters
from implicit_bias.optimizers import ForeignState, State

#: The state of a batch between two steps: nested dictionaries and lists of tensors, numbers and strings.
Snapshot = dict[str, Any]


def chosen(kept: Tensor, new: Parameters, old: Parameters) -> Parameters:
    return {name: torch.where(kept[:, None, None], block, old[name]) for name, block in new.items()}


def chosen_scaled(kept: Tensor, new: Mapping[str, Scaled], old: Mapping[str, Scaled]) -> dict[str, Scaled]:
    choice = kept[:, None, None]
    return {
        name: Scaled(
            torch.where(choice, block.mantissa, old[name].mantissa), torch.where(choice, block.log_scale, old[name].log_scale)
        )
        for name, block in new.items()
    }


def taken_apart(blocks: Mapping[str, Scaled]) -> dict[str, list[Tensor]]:
    return {name: [block.mantissa, block.log_scale] for name, block in blocks.items()}


def put_together(blocks: Mapping[str, Sequence[Tensor]]) -> dict[str, Scaled]:
    return {name: Scaled(*parts) for name, parts in blocks.items()}


def packed(state: State | ForeignState) -> dict[str, Any]:
    """An optimizer's state as plain containers: its buffers, or what an object of its own gives."""
    if isinstance(state, ForeignState):
        return state.snapshot()
    return {buffer: taken_apart(blocks) for buffer, blocks in state.items()}


def unpacked(kept: Mapping[str, Any], fresh: Callable[[], Any], foreign: bool) -> Any:
    """The state that :func:`packed` gave these containers of; ``fresh`` makes one to restore a foreign state in."""
    return fresh().restore(kept) if foreign else {buffer: put_together(blocks) for buffer, blocks in kept.items()}


def gradient_parts(gradient: Gradient) -> dict[str, Any]:
    """A gradient as plain containers."""
    return {
        "blocks": taken_apart(gradient.blocks),
        "total": gradient.total,
        "log_unit": gradient.log_unit,
        "log_losses": gradient.log_losses(),
        "weights": None if gradient.weights is None else gradient.weights(),
    }


def gradient_from(parts: Mapping[str, Any]) -> Gradient:
    """The gradient that :func:`gradient_parts` gave these containers of."""
    log_losses, weights = parts["log_losses"], parts["weights"]
    return Gradient(
        put_together(parts["blocks"]),
        parts["total"],
        parts["log_unit"],
        lambda: log_losses,
        None if weights is None else lambda: weights,
    )


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def unstacked(columns: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def arrays(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    return {key: column.cpu().numpy() for key, column in stacked(rows).items()}
