"""How many threads torch is given for arrays of a size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# From this many doubles in a (runs, classes, samples) array a second thread pays (torch shares out work in pieces of 32,768).
THREADED_ELEMENTS = 2**16


@contextmanager
def threads_for(elements: int, threaded: int = THREADED_ELEMENTS) -> Iterator[None]:
    """One thread for arrays too small to be worth sharing out (a decomposition of a small matrix is slower by far on two); the
    number that torch was given for larger ones.

    Args:
        elements: Numbers in an array (runs, classes, samples).
        threaded: From so many on several threads are taken.
    """
    given = torch.get_num_threads()
    torch.set_num_threads(given if elements >= threaded else 1)
    try:
        yield
    finally:
        torch.set_num_threads(given)
