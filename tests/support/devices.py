"""Problems on another device."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def on(device: torch.device | str, value: T) -> T:
    """The same problem, data or state with all its tensors on a device.

    Args:
        device: Where to.
        value: Nested dictionaries, tuples and dataclasses.
    """
    moved: Any = value
    if isinstance(value, Tensor):
        return value.to(device)  # type: ignore[return-value]
    if isinstance(value, dict):
        moved = {key: on(device, part) for key, part in value.items()}
    elif isinstance(value, tuple):
        parts = [on(device, part) for part in value]
        moved = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif is_dataclass(value) and not isinstance(value, type):
        mine = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        changed = {key: on(device, part) for key, part in mine.items()}
        moved = replace(value, **{key: part for key, part in changed.items() if part is not mine[key]})
    return moved  # type: ignore[no-any-return]
