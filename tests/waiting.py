"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import Any


def soon(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """What ``found`` returns, once it is something. Raises AssertionError: it stayed nothing for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not in {seconds} s: {what}")
