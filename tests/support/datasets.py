"""Datasets by name, refusals, and samples that can be in a set, for tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import Dataset, make_dataset


def load(name: str, **fields: Any) -> Dataset:
    return make_dataset({"name": name, **fields}).load()


def refused(action: Callable[[], Any], key: str) -> str:
    """The message with which ``action`` is refused: one line that begins with the offending key."""
    with pytest.raises(BadInput) as caught:
        action()
    message = str(caught.value)
    assert message.startswith(key), message
    assert "\n" not in message
    return message


def rows(x: NDArray[np.float64] | None) -> list[bytes]:
    """The samples as things that can be in a set. The 1,797 digits are all different, those of MNIST's t10k as well."""
    assert x is not None
    return [row.tobytes() for row in x]
