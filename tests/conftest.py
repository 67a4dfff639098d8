"""One thread a process: tests run side by side, and sums must not depend on how threads split them. Else as in a command."""

import gc
import os
import shutil
from pathlib import Path

# Read when the libraries load, so set before any of them is imported.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

MEMORY = Path("/dev/shm")


def in_memory() -> bool:
    """Whether files may be made in memory: it can be written to, programs in it may run, and 1 GiB is free."""
    if not os.access(MEMORY, os.W_OK) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(MEMORY).free > 2**30


# A run is on the disk before it is said to be done: thousands of small ones would wait for it longer than they compute. So pytest
# makes its folders in memory, unless told where.
if not {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys() and in_memory():
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

from implicit_bias.runtime.processors import prepare_process  # noqa: E402

prepare_process()  # as a command does

import pytest  # noqa: E402

# What is imported and collected stays: the collector of garbage need not go through it again and again, now or later.
gc.disable()


def pytest_collection_finish() -> None:
    """Only what tests make is garbage, and is looked for a tenth as often as usual."""
    gc.freeze()
    gc.set_threshold(7000, 10, 100)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a group, which share what takes long to make, come first: with -n they are one worker's first batch."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
