"""Implicit bias on separable data: which margin does an optimizer maximise, how fast, and how do we know?

``python -m implicit_bias.run --help`` describes the command. From Python::

    from implicit_bias import run
    trajectory, summary = run(optimizer="muon", steps=1000)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# MKL's results depend on the alignment of its operands, hence on a run's place in a batch, unless it is told otherwise
# before it is loaded; some optimizers amplify the last bit to something visible. With this a run gives the same bits
# alone and in any batch.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    import pandas


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


_keep_freed_memory()

__all__ = ["__version__", "run"]


def run(*overrides: Any, multirun: bool = False, **keys: Any) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Compute a run, or a sweep, and return its trajectory and its summary; see :func:`implicit_bias.run.run`."""
    # Importing the module puts it where this function was, under the same name: it can be called in the same way.
    from importlib import import_module

    command: Any = import_module("implicit_bias.run")
    tables: tuple[pandas.DataFrame, pandas.DataFrame] = command.run(*overrides, multirun=multirun, **keys)
    return tables


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata

    try:
        return metadata.version("implicit-bias")
    except metadata.PackageNotFoundError:
        return "0+unknown"
