"""A GPU where there is none: tensors that say they are on ``cuda:0``, hold numbers on the CPU, and refuse what CUDA refuses.

An operation on tensors of two devices is an error, but for numbers (tensors of no dimension) and indices from the CPU; numpy sees
nothing of them before ``.cpu()``. So paths that are written for a device can be run to their end without one, and whatever they
leave on the other side is found. Where torch is asked to look for what makes the host wait (``set_sync_debug_mode``), that is an
error, too, and what is recorded as a graph is done once. It says nothing of CUDA's kernels, their rounding and their speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
#: Operations whose indices CUDA takes from the CPU.
INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})
#: Copies, which lead from any device to any other.
COPIES = frozenset({"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"})
#: What makes the host wait for the device: a look at numbers, and decompositions, which look whether they have converged.
WAITS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "_linalg_eigh", "_linalg_svd", "linalg_qr", "_linalg_solve_ex"}
)
#: What moves tensors.
MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as)


class Pretended(Tensor):
    """A tensor on the pretended device. To torch's own code, which would look for a driver, it is one on the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        place: dict[str, Any] = {"storage_offset": inner.storage_offset(), "dtype": inner.dtype, "device": torch.device("cpu")}
        made: Self = Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(), **place)
        made.here = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretended:
        return Pretended(self.here.clone())

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Pretended({self.here!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in MOVES:
            return _moved(func, args, kwargs)
        if func is Tensor.tolist:
            _wait("tolist")
            return args[0].here.tolist()
        if func is torch.nn.functional.one_hot:  # made of numbers that torch counts where it sees the tensor
            return Pretended(func(*tree_map(_inner, args), **kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A tensor in another place or precision: torch itself sees all of them on the CPU."""
    tensor, *rest = args
    device, asked = tensor.device, [*rest, *(kwargs.pop(key) for key in ("device", "other") if key in kwargs)]
    waits = not kwargs.pop("non_blocking", False)
    dtype = kwargs.pop("dtype", None)
    for what in asked:
        if isinstance(what, Tensor):
            device, dtype = what.device, what.dtype
        elif isinstance(what, torch.dtype):
            dtype = what
        elif isinstance(what, str | torch.device):
            device = torch.device(what)
    device = {Tensor.cpu: torch.device("cpu"), Tensor.cuda: DEVICE}.get(func, device)
    inner = _inner(tensor)
    moved: Tensor = inner if dtype is None else inner.to(dtype, **kwargs)
    if device.type == tensor.device.type:
        return tensor if moved is inner else Pretended(moved) if device.type == "cuda" else moved
    if waits:
        _wait("to")
    copied = moved.clone() if moved is inner else moved
    return Pretended(copied) if device.type == "cuda" else copied


class _Made(TorchDispatchMode):
    """Makes new tensors on the pretended device where that is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Moved(TorchFunctionMode):
    """Brings tensors and numbers to the pretended device, which torch would do out of sight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in MOVES:
            return _moved(func, args, kwargs)
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            if isinstance(args[0], Tensor):
                return args[0].to(device, kwargs.get("dtype"))
            made = func(*args, **kwargs)
            if device.type == "cuda":
                _wait(func.__name__)
                return Pretended(made)
            return made
        return func(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    asked = kwargs.get("device")
    if name not in COPIES:
        _check(name, args, tensors, bool(there))
    elif len(there) < len(tensors) and not kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False):
        _wait(name)
    if there and name in WAITS:
        _wait(name)
    plain_args, plain = tree_map(_inner, args), {key: tree_map(_inner, value) for key, value in kwargs.items()}
    if asked is not None:
        plain["device"] = torch.device("cpu")
    result = func(*plain_args, **plain)
    if name in {"copy_", "_copy_from"}:
        return args[0]
    on_device = torch.device(asked).type == "cuda" if asked is not None else bool(there)
    known = {id(tensor.here): tensor for tensor in there}

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor) or not on_device:
            return value
        return known[id(value)] if id(value) in known else Pretended(value)

    return tree_map(outer, result)


def _check(name: str, args: Any, tensors: list[Tensor], on_device: bool) -> None:
    """Raises RuntimeError: what CUDA would refuse."""
    if not on_device:
        return
    if name in INDEXED and isinstance(args[0], Pretended):
        tensors = [tensor for tensor in tensors if tensor.dtype not in (torch.int64, torch.bool)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, Pretended) and tensor.dim() > 0]
    if elsewhere:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in elsewhere)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {DEVICE} and cpu ({shapes})")


def _wait(name: str) -> None:
    """Raises RuntimeError: the host waits for the device where that is asked about."""
    if _Sync.mode == "error":
        raise RuntimeError(f"called a synchronizing CUDA operation ({name})")


class _Sync:
    """What is to be done where the host waits, as torch has it."""

    mode = "default"

    @classmethod
    def set(cls, mode: str) -> None:
        cls.mode = mode


class _Stream:
    """A stream on which nothing overlaps."""

    def wait_stream(self, other: Any) -> None:
        pass


class _Graph:
    """A graph that was recorded, and does nothing when it is played: it stays with what was done then."""

    def replay(self) -> None:
        pass


@contextmanager
def _recording(graph: _Graph, capture_error_mode: str = "global") -> Iterator[None]:
    before, _Sync.mode = _Sync.mode, "error"
    try:
        yield
    finally:
        _Sync.mode = before


def _inner(value: Any) -> Any:
    return value.here if isinstance(value, Pretended) else value


@contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """While active there is a GPU. Yields its device."""
    told: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "a pretended GPU",
        "mem_get_info": lambda device=None: (8 * 2**30, 16 * 2**30),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "current_stream": lambda device=None: _Stream(),
        "set_stream": lambda stream: None,
        "stream": lambda stream: nullcontext(),
        "Stream": _Stream,
        "CUDAGraph": _Graph,
        "graph": _recording,
        "get_sync_debug_mode": lambda: _Sync.mode,
        "set_sync_debug_mode": _Sync.set,
    }
    with mock.patch.multiple(torch.cuda, **told), _Made(), _Moved():
        yield DEVICE
