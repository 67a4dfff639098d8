"""What the machine can do: measured rates of matrix products and exponentials, and the least time of a step's arithmetic."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

# Large enough to be limited by arithmetic alone; the exponentials stay in the cache.
MATRIX_SIDE = 1024
EXPONENTIALS = 2**16
REPEATS = 5


@dataclass(frozen=True)
class Rates:
    """Float64, per second: floating-point operations of a large matrix product, and exponentials of an array in the cache."""

    matrix: float
    exponential: float

    def least_seconds(self, n: int, k: int, d: int) -> float:
        """The roofline of one step of one linear run: products (k, d) (d, n) and (k, n) (n, d) are 4 n k d operations, and n k
        exponentials make the weights. What else an optimizer does is not counted.
        """
        return 4 * n * k * d / self.matrix + n * k / self.exponential


def measured_rates(device: str = "cpu") -> Rates:
    """The rates of this machine with the threads that torch has now."""
    a = torch.randn(MATRIX_SIDE, MATRIX_SIDE, dtype=torch.float64, device=device)
    x = torch.randn(EXPONENTIALS, dtype=torch.float64, device=device)
    out = torch.empty_like(x)
    product = seconds_of(lambda: a @ a, device)
    exponentials = seconds_of(lambda: torch.exp(x, out=out), device, calls=100)
    return Rates(2 * MATRIX_SIDE**3 / product, EXPONENTIALS / exponentials)


def kernel_seconds(name: str, runs: int, n: int, k: int, d: int, device: str = "cpu") -> float:
    """A step's arithmetic alone, for a whole batch, each kernel measured by itself at the step's own shapes: the two products,
    the exponentials and, for muon, the eigendecompositions of its Gram matrices.
    """
    x_t = torch.randn(runs, d, n, dtype=torch.float64, device=device)
    w, p = x_t.new_ones(runs, k, d), torch.randn(runs, k, n, dtype=torch.float64, device=device)
    out = torch.empty_like(p)
    gram = torch.randn(runs, k - 1, d, dtype=torch.float64, device=device)
    gram = gram @ gram.mT
    kernels: list[Callable[[], object]] = [
        lambda: torch.bmm(w, x_t, out=out),
        lambda: torch.bmm(p, x_t.mT),
        lambda: torch.exp(p, out=out),
    ]
    if name == "muon":
        kernels.append(lambda: torch.linalg.eigh(gram))
    return sum(seconds_of(kernel, device, calls=20) for kernel in kernels)


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


def processor() -> str:
    """The name of the machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
