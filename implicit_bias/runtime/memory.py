"""Memory: how much a computation takes, how much is available, and how a lack of it is recognised."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper_values
from implicit_bias.core.words import shown

# What is left to other programs, to the work space of library routines, and to fragmentation.
SHARE = 0.6
# What is smaller than this fits, or its lack is noticed in time.
CHECKED_NUMBERS = 2**22
BYTES = 8
MEMINFO, CGROUP, CGROUP_MOUNT = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def _identity(storage: torch.UntypedStorage) -> int:
    """The address of a storage, one for a tensor and all its views; torch has no public name for it."""
    address: int = storage._cdata  # noqa: SLF001
    return address


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active, on any device: those alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = {_identity(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor, given)
        return result

    def _count(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = _identity(storage)
        if key in self._known or key in given:  # a view, or an operation in place
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors that ``work`` has at a time."""
    with LiveBytes() as counter:
        work()
    peak: int = counter.peak
    return peak


def available(device: torch.device) -> int | None:
    """Free bytes on a device; of the host's, what this process's control groups leave it. None where that is not known."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    known = [*_meminfo(), *_control_groups()]
    return min(known) if known else None


def check_fits(numbers: int, what: str, section: str, option: Any) -> None:
    """Refuse arrays that cannot be had, before their making takes the machine down.

    Args:
        numbers: Doubles that are needed at least.
        what: What they are, for the message.
        section, option: Where the numbers come from: an object with hyper-parameters, and the section of its keys. The largest
            integer among these is named.

    Raises:
        BadInput: They are more than the free memory holds.
    """
    if numbers < CHECKED_NUMBERS:
        return
    there = available(torch.device("cpu"))
    if there is None or BYTES * numbers <= there:
        return
    keys = {"name": option.name, **hyper_values(option)}
    sizes = {key: value for key, value in keys.items() if type(value) is int and key != "seed"}
    key = max(sizes, key=lambda name: sizes[name], default="name")
    needed, free = (f"{size / 1e9:.3g} GB" for size in (BYTES * numbers, there))
    raise BadInput(f"{section}.{key}={shown(keys[key])}: {what} would take {needed} of memory, {free} are free; must be smaller")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, in any of the ways torch and Python say it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _meminfo() -> Iterator[int]:
    for line in _lines(MEMINFO):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups() -> Iterator[int]:
    """What the process's control group and each one above it leave."""
    for line in _lines(CGROUP):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, used = CGROUP_MOUNT, "memory.max", "memory.current"
        elif controllers == "memory":
            root, limit, used = CGROUP_MOUNT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in [group, *group.parents]:
            yield from _left(folder, limit, used)
            if folder == root:
                break


def _left(folder: Path, limit: str, used: str) -> Iterator[int]:
    most, taken = ("".join(_lines(folder / name)) for name in (limit, used))
    if not (most.isdigit() and taken.isdigit()):  # "max": no limit
        return
    # File contents that are merely cached are given back when memory is short.
    cached = sum(int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith("inactive_file "))
    yield max(0, int(most) - max(0, int(taken) - cached))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
