"""What the machine can do: measured rates of multiply-adds and exponentials, and the least time of a step's arithmetic."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from implicit_bias.engine.steppers import native
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.rules import DEFINITIONS
from implicit_bias.runtime.processors import processor

# Large enough to be limited by arithmetic alone, small enough for the cache; on a GPU large enough to fill it.
MATRIX_SIDE, GPU_MATRIX_SIDE = 384, 4096
EXPONENTIALS, GPU_EXPONENTIALS = 2**15, 2**24
REPEATS = 5

SOURCE = Path(native.__file__).with_name("rates.c")
SYMBOLS = ("multiply_adds", "exponentials", "chains", "lanes")
# About a millisecond each, beside which handing the work to threads is nothing; exponentials of an array in the first cache.
CHAIN_LENGTH, COUNT, ROUNDS = 500_000, 2048, 1000


@dataclass(frozen=True)
class Rates:
    """Float64, per second: floating-point operations (a multiply-add is two), and exponentials of an array in the cache."""

    arithmetic: float
    exponential: float

    def least_seconds(self, n: int, k: int, d: int) -> float:
        """The roofline of one step of one linear run: products (k, d) (d, n) and (k, n) (n, d) are 4 n k d operations, and n k
        exponentials make the weights. What else an optimizer does is not counted.
        """
        return 4 * n * k * d / self.arithmetic + n * k / self.exponential

    def or_faster(self, other: Rates) -> Rates:
        """The larger of each, so that a disturbed measurement does not make the limit easier."""
        return Rates(max(self.arithmetic, other.arithmetic), max(self.exponential, other.exponential))


def measured_rates(device: str = "cpu", threads: int = 1) -> Rates:
    """The rates of this machine: those of PyTorch, or on a CPU of the project's own C where they are higher.

    Args:
        device: cpu or cuda.
        threads: On a CPU, how many work at a time.
    """
    if device != "cpu":
        return _of_torch(device, GPU_MATRIX_SIDE, GPU_EXPONENTIALS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = _of_torch(device, MATRIX_SIDE, EXPONENTIALS * threads)
    finally:
        torch.set_num_threads(before)
    compiled = compiled_rates(threads)
    return rates if compiled is None else rates.or_faster(compiled)


def _of_torch(device: str, side: int, count: int) -> Rates:
    a = torch.randn(side, side, dtype=torch.float64, device=device)
    x = torch.randn(count, dtype=torch.float64, device=device)
    product, out = torch.empty_like(a), torch.empty_like(x)
    products = seconds_of(lambda: torch.mm(a, a, out=product), device, calls=5)
    exponentials = seconds_of(lambda: torch.exp(x, out=out), device, calls=20)
    return Rates(2 * side**3 / products, count / exponentials)


@dataclass(frozen=True)
class Counted:
    """Work of about a millisecond on some threads.

    Attributes:
        call: Does it so many times.
        amount: Operations or exponentials that it is.
    """

    call: Callable[[int], object]
    amount: float


def compiled_rates(threads: int) -> Rates | None:
    """The rates of rates.c: multiply-adds in registers, and the exponential of the steps in C. None without a C compiler."""
    works = compiled_works(threads)
    return works and Rates(*(work.amount / seconds_of(partial(work.call, 1)) for work in works))


def compiled_works(threads: int) -> tuple[Counted, Counted] | None:
    """What :func:`compiled_rates` times: multiply-adds, and exponentials."""
    compiled = _rates_library()
    if compiled is None:
        return None
    x, starts = -20 * torch.rand(threads, COUNT, dtype=torch.float64), torch.full((threads, 8), 0.5, dtype=torch.float64)
    out, vectors = torch.empty_like(x), COUNT // compiled.lanes()

    def exponentials(times: int, thread: int) -> None:
        compiled.exponentials(vectors, times * ROUNDS, x[thread].data_ptr(), out[thread].data_ptr())

    def multiply_adds(times: int, thread: int) -> None:
        compiled.multiply_adds(times * CHAIN_LENGTH, starts[thread].data_ptr())

    def on_all(work: Callable[[int, int], None], times: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(partial(work, times), range(threads)))

    operations = 2 * CHAIN_LENGTH * compiled.chains() * compiled.lanes()
    return (
        Counted(partial(on_all, multiply_adds), threads * operations),
        Counted(partial(on_all, exponentials), threads * COUNT * ROUNDS),
    )


@cache
def _rates_library() -> ctypes.CDLL | None:
    compiled = library(SOURCE, SYMBOLS, DEFINITIONS)
    if compiled is not None:
        compiled.chains.restype = compiled.lanes.restype = ctypes.c_int64
        compiled.multiply_adds.argtypes = [ctypes.c_int64, ctypes.c_void_p]
        compiled.exponentials.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        compiled.multiply_adds.restype = compiled.exponentials.restype = None
    return compiled


def seconds_of(work: Callable[[], object], device: str = "cpu", calls: int = 1) -> float:
    """Seconds of one call, the least of several measurements of ``calls`` calls in a row."""
    work()
    times = []
    for _ in range(REPEATS):
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        _wait_for(device)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def named_device(device: str) -> str:
    """What computes, in words."""
    return processor() if device == "cpu" else torch.cuda.get_device_name()


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
