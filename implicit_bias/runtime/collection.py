"""Python's search for cyclic garbage, and when it is of no use.

The standard library alone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no cyclic garbage while packages are imported: they make a million objects that stay, and looking through these
    again and again takes a tenth of the time of a short command.

    Not for computations: what has large arrays in a cycle would keep them.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
