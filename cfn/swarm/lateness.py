"""Late or hung: whether a process whose heartbeat is missing could have run at all.

A heart stops for two reasons. Its process is stopped, blocked or spinning: it is hung. Or it waits for a core: on a host with
more to run than its cores carry it is late, and to kill it would only make more work. (Measured: 100 workers in each of
seven containers on two cores, and no coordinator got a core for three seconds, the moment all tasks had gone out.)

The evidence, asked only about those that are late:

* Of one's own children, the kernel's books of their threads (``/proc/PID/task/*/schedstat``: time on a core, time spent
  waiting for one) between two looks. Who waited for a fifth of the time, or wants to run and got less than half of it, is
  starved.
* Of those that joined from outside, whose process cannot be seen, the host's pressure (``/proc/pressure/cpu``): for half
  of the time or more somebody waited for a core.

Where nothing can be learned, late is hung; and starved or not, after ten times the limit it is. A look costs 40 µs a thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

#: Missed heartbeats until a process is hung (promise 5 of the design).
BEATS: Final = 3
#: How much longer a starved process is waited for: it does run in the end, or the deadline of its run is the better judge.
PATIENCE: Final = 10
_WAITED: Final = 0.2
_RAN: Final = 0.5
_PRESSED: Final = 0.5


@dataclass(frozen=True, slots=True)
class Books:
    """What the kernel says of a process (all its threads), or of the host."""

    at_s: float
    ran_s: float = 0.0
    waited_s: float = 0.0
    wants: bool = False  # a thread is runnable, or waits for a disk, at this moment


class Lateness:
    """Of the processes that one watcher watches: who is hung."""

    def __init__(self, beat_s: float, *, clock: Callable[[], float] = time.monotonic, proc: str = "/proc") -> None:
        self.limit_s = BEATS * beat_s
        self._suspect_s = self.limit_s / 2  # from here on the books are kept
        self._least_s = beat_s / 2  # a shorter stretch between two looks proves nothing
        self._clock = clock
        self._proc = proc
        self._suspects: dict[str, Books | None] = {}

    def judge(self, agent: str, age_s: Callable[[], float | None], pid: int | None) -> bool:
        """Whether to end `agent` as hung: `age_s` asks for its heartbeat, and is asked again after the look at its books. In
        between it may have got its core, or its disk, and have beaten: what rests from that is not hung."""
        if not self.is_hung(agent, age_s(), pid):
            return False
        now_s = age_s()
        return now_s is not None and now_s > self.limit_s

    def is_hung(self, agent: str, age_s: float | None, pid: int | None) -> bool:
        """Whether `agent`, whose last heartbeat is `age_s` old, is hung. `pid`: of a child of ours; None: from outside."""
        if age_s is None or age_s < self._suspect_s:
            self._suspects.pop(agent, None)
            return False
        if agent not in self._suspects:
            self._suspects[agent] = self._look(pid)
        if age_s <= self.limit_s:
            return False
        before = self._suspects[agent]
        if before is None or age_s > PATIENCE * self.limit_s:
            return True
        now = self._look(pid)
        if now is None:
            return True
        passed_s = now.at_s - before.at_s
        return passed_s >= self._least_s and not _starved(before, now, passed_s, _PRESSED if pid is None else _WAITED)

    def _look(self, pid: int | None) -> Books | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return self._pressure() if pid is None else self._process(pid)
        return None

    def _process(self, pid: int) -> Books:
        ran_ns = waited_ns = 0
        wants = False
        for thread in os.listdir(f"{self._proc}/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                folder = f"{self._proc}/{pid}/task/{thread}"
                ran, waited, *_ = _read(f"{folder}/schedstat").split()
                ran_ns += int(ran)
                waited_ns += int(waited)
                wants |= _read(f"{folder}/stat").rpartition(")")[2].split()[0] in "RD"
        return Books(self._clock(), ran_ns / 1e9, waited_ns / 1e9, wants)

    def _pressure(self) -> Books:
        some = _read(f"{self._proc}/pressure/cpu").split("\n", 1)[0]
        return Books(self._clock(), waited_s=int(some.rpartition("total=")[2]) / 1e6)


def _starved(before: Books, now: Books, passed_s: float, share: float) -> bool:
    if now.waited_s - before.waited_s >= share * passed_s:
        return True
    return now.wants and now.ran_s - before.ran_s < _RAN * passed_s


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
