"""How many processors and threads there are to compute with, and what a command sets in its own process.

The standard library alone: it is asked before numpy loads.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

OPENBLAS = "OPENBLAS_NUM_THREADS"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", OPENBLAS)
#: How MKL chooses among its kernels.
MKL_VARIABLE = "MKL_CBWR"


def limit_threads() -> None:
    """Cap the threads of numerical libraries at the processors this process may use; what the user has set stays.

    Libraries count the machine's cores: in a container with a share of them, threads then wait for each other. It has to be
    done before numpy and torch are imported.

    numpy and scipy get one: their matrices here are small, of solvers, and a second thread of OpenBLAS mostly waits, at full
    speed.
    """
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1" if variable == OPENBLAS else str(available_processors()))


def prepare_process() -> None:
    """Set this process up for a command: bits that do not depend on a run's place in a batch, and fast allocation.

    It is for processes that are the command's own (its entry points, workers, jobs). The package itself, imported by another
    program, changes nothing of its host.

    MKL's results depend on the alignment of its operands, hence on a run's place in a batch, unless it is told otherwise before
    its first product; some optimizers amplify the last bit to something visible. What the user has set stays.
    """
    os.environ.setdefault(MKL_VARIABLE, "AUTO,STRICT")
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc's malloc not to give arrays of a few 100 kB back to the system after every operation, only to fetch the same
    pages again: where page faults are dear (virtual machines), they would take up to a third of a step.
    """
    import ctypes

    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    for option, size in ((m_mmap_threshold, 1 << 28), (m_trim_threshold, 1 << 28), (m_top_pad, 1 << 24)):
        mallopt(option, size)


def processor() -> str:
    """The name of the machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def available_processors() -> int:
    """Processors that this process may use: its affinity mask, and the quota of its control group where there is one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return max(1, count)


def worker_threads(workers: int, cores: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The thread variables of each of ``workers`` processes: together at most ``cores``, and no more than the user has set."""
    share = max(1, cores // workers)

    def threads(variable: str) -> int:
        asked = environment.get(variable, "").split(",")[0]  # OpenMP takes a list, one number a nesting level
        return min(share, int(asked)) if asked.isdigit() and int(asked) else share

    return {variable: str(threads(variable)) for variable in THREAD_VARIABLES}


def worker_devices(workers: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """For each worker the variable that leaves it one of ``devices``, round robin; nothing where there are none."""
    if not devices:
        return [{} for _ in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": devices[worker % len(devices)]} for worker in range(workers)]
