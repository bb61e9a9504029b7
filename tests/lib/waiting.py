"""Waiting in tests: never a bare sleep."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll until it holds; a test's substitute for an event that nobody sends."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, f"still not so after {timeout_s:g} s: {what}"
        time.sleep(0.01)
