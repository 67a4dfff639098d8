"""Which norm's margin a run maximises: ``python -m implicit_bias.identify RUN ...``, and the same from Python.

Writes identify.csv, verdicts.csv and a picture, and prints the verdicts. ``optimizer=...`` alone is studied without data.

Exit codes: 0 done, 1 something could not be written or an optimizer raises, 2 bad input (nothing was written), 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from implicit_bias.identify.command import main

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["identify", "main"]


def identify(*runs: Any, **keys: Any) -> pd.DataFrame:
    """The verdicts as a table; see :func:`implicit_bias.identify.notebook.identify`."""
    from implicit_bias.identify.notebook import identify as answer

    return answer(*runs, **keys)


class _CallableModule(ModuleType):
    """Makes ``from implicit_bias import identify`` callable, whether it finds the package's function or this module."""

    def __call__(self, *runs: Any, **keys: Any) -> pd.DataFrame:
        return identify(*runs, **keys)


sys.modules[__name__].__class__ = _CallableModule
