"""Cases of a parametrised test of which the quick tests take a few."""

from collections.abc import Hashable, Iterable
from typing import Any

import pytest


def quick_of(names: Iterable[Hashable], *quick: Hashable) -> list[Any]:
    """The cases ``names``, all but those of ``quick`` marked slow. Raises ValueError: one of ``quick`` is none of them."""
    every = list(names)
    if not set(quick) <= set(every):
        raise ValueError(f"not among the cases: {set(quick) - set(every)}")
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in every]
