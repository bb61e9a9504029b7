"""A process that gets, or asks for, a processor is slow; one that is stopped or sleeps stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cfn.swarm.children import Pulse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/<pid>/schedstat is Linux")


def stands_still(pid: int, within_s: float = 10.0) -> bool:
    """Whether it came to stand still for a fifth of a second."""
    pulse, end = Pulse(), time.monotonic() + within_s
    while time.monotonic() < end:
        if pulse.stands_still(pid, time.monotonic(), 0.2):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def busy() -> Iterator[int]:
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_busy_process_never_stands_still_until_it_is_stopped(busy: int) -> None:
    assert not stands_still(busy, within_s=1.0)
    os.kill(busy, signal.SIGSTOP)
    assert stands_still(busy)


def test_a_process_that_works_a_little_between_sleeps_does_not_stand_still() -> None:
    code = "import time\nwhile True: time.sleep(0.05)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert not stands_still(process.pid, within_s=0.5)
    finally:
        process.kill()
        process.wait()


def test_a_process_that_only_sleeps_stands_still() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert stands_still(process.pid)
    finally:
        process.kill()
        process.wait()


def test_one_look_is_never_enough(busy: int) -> None:
    os.kill(busy, signal.SIGSTOP)
    assert not Pulse().stands_still(busy, time.monotonic(), 0.0)
