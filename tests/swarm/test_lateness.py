"""Late or hung: told apart by the kernel's books, here written by hand and once by the kernel itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfn.swarm.lateness import Lateness

PID = 7


class Host:
    """A clock and a /proc of one process and the host's pressure."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.now_s = 100.0
        self.threads: dict[int, tuple[float, float, str]] = {PID: (0.0, 0.0, "S")}
        self.pressed_s = 0.0

    def passes(self, seconds: float) -> None:
        self.now_s += seconds

    def write(self) -> None:
        for thread, (ran_s, waited_s, state) in self.threads.items():
            folder = self.proc / str(PID) / "task" / str(thread)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "schedstat").write_text(f"{round(ran_s * 1e9)} {round(waited_s * 1e9)} 12\n")
            (folder / "stat").write_text(f"{thread} (a (b) c) {state} 1 2 3\n")
        (self.proc / "pressure").mkdir(exist_ok=True)
        (self.proc / "pressure" / "cpu").write_text(
            f"some avg10=1.00 avg60=2.00 avg300=3.00 total={round(self.pressed_s * 1e6)}\nfull avg10=0 total=5\n"
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def lateness(host: Host) -> Lateness:
    return Lateness(1.0, clock=lambda: host.now_s, proc=str(host.proc))


def judged(
    lateness: Lateness, host: Host, pid: int | None = PID, *, ran: float = 0, waited: float = 0, state: str = "S"
) -> bool:
    """Looked at when 2 s late and, with these books of the 1.5 s between, when 3.5 s late."""
    host.write()
    assert not lateness.is_hung("a", 2.0, pid)
    host.passes(1.5)
    host.threads[PID] = (ran, waited, state)
    host.pressed_s = waited
    host.write()
    return lateness.is_hung("a", 3.5, pid)


def test_a_process_that_sleeps_or_is_stopped_is_hung(lateness: Lateness, host: Host) -> None:
    assert judged(lateness, host, state="T")
    assert judged(lateness, host, state="S")


def test_one_that_spins_on_a_core_of_its_own_is_hung(lateness: Lateness, host: Host) -> None:
    assert judged(lateness, host, ran=1.5, state="R")


def test_one_that_waited_for_a_core_is_late(lateness: Lateness, host: Host) -> None:
    assert not judged(lateness, host, ran=0.1, waited=0.4, state="S")


def test_one_that_wants_to_run_and_is_not_let_is_late(lateness: Lateness, host: Host) -> None:
    assert not judged(lateness, host, ran=0.1, state="R")


def test_one_that_waits_for_a_disk_is_late(lateness: Lateness, host: Host) -> None:
    assert not judged(lateness, host, state="D")


def test_the_wait_of_any_thread_counts(lateness: Lateness, host: Host) -> None:
    host.threads[8] = (0.0, 0.0, "S")
    host.write()
    assert not lateness.is_hung("a", 2.0, PID)
    host.passes(1.5)
    host.threads[8] = (0.2, 1.0, "S")
    host.write()
    assert not lateness.is_hung("a", 3.5, PID)


def test_one_from_outside_is_judged_by_the_pressure_on_the_host(lateness: Lateness, host: Host) -> None:
    assert judged(lateness, host, None, waited=0.5)
    lateness.is_hung("a", 0.0, None)
    host.pressed_s = 0.0
    assert not judged(lateness, host, None, waited=1.4)


def test_patience_ends(lateness: Lateness, host: Host) -> None:
    assert not judged(lateness, host, waited=1.0)
    host.passes(26.0)
    host.threads[PID] = (0.0, 20.0, "R")
    host.write()
    assert not lateness.is_hung("a", 29.5, PID)
    assert lateness.is_hung("a", 30.5, PID)


def test_a_heartbeat_clears_the_suspicion(lateness: Lateness, host: Host) -> None:
    assert not judged(lateness, host, waited=1.0)
    assert not lateness.is_hung("a", 0.5, PID)
    assert judged(lateness, host, waited=1.0), "what was waited before the heartbeat does not count"


def test_a_first_look_that_comes_late_waits_for_a_second(lateness: Lateness, host: Host) -> None:
    host.write()
    assert not lateness.is_hung("a", 9.0, PID)
    host.passes(1.0)
    assert lateness.is_hung("a", 10.0, PID)


@pytest.mark.parametrize("pid", [PID, None])
def test_where_the_kernel_keeps_no_books_late_is_hung(lateness: Lateness, pid: int | None) -> None:
    assert not lateness.is_hung("a", 2.0, pid)
    assert not lateness.is_hung("a", 3.0, pid)
    assert lateness.is_hung("a", 3.1, pid)
    assert not lateness.is_hung("b", None, pid), "an agent without a heartbeat is not judged by it"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's books are Linux's")
def test_the_kernel_tells_a_stopped_process_from_one_that_is_not_let_run() -> None:
    loop = [sys.executable, "-c", "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile 1: pass"]
    crowd = [subprocess.Popen(loop) for _ in range(8)]
    try:
        stopped, starved = crowd[0], crowd[1:]
        stopped.send_signal(signal.SIGSTOP)
        lateness = Lateness(1.0)
        for process in crowd:
            assert not lateness.is_hung(str(process.pid), 2.0, process.pid)
        until = time.monotonic() + 10
        while not lateness.is_hung(str(stopped.pid), 3.5, stopped.pid):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert not any(lateness.is_hung(str(process.pid), 3.5, process.pid) for process in starved)
    finally:
        for process in crowd:
            process.kill()
            process.wait()


def test_who_beats_while_the_books_are_read_is_not_hung() -> None:
    ages = iter([100.0, 0.1])  # far beyond any patience, and then it has beaten
    assert not Lateness(1.0).judge("a", lambda: next(ages), os.getpid())
    assert Lateness(1.0).judge("a", lambda: 100.0, os.getpid()), "still silent after the look"
    assert not Lateness(1.0).judge("a", lambda: None, os.getpid()), "it has left"
