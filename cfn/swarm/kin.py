"""A command and what it started: so that a timeout ends the whole family, not only the parent.

A command stays in its worker's process group, which the coordinator kills when the worker ends: that is the certain
end of everything. A timeout ends one command of a worker that lives on, so the family is looked up, in ``/proc``
where there is one, at the moment of the first signal, and held by pidfds, so that no later signal can reach a
stranger who got a number again. What detaches itself from its parent before that moment is not found, and lives until
the worker's group is killed.

Cost: a few reads of /proc a process of the family; nothing at all for a command that ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

HAVE_PROC_CHILDREN: Final = os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
HAVE_PIDFD: Final = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when `pid` ends; None where there is no such thing (or none left)."""
    if not HAVE_PIDFD:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an older kernel, a sandbox, EMFILE
        return None


class Kin:
    """The process `pid` (our unreaped child) and its descendants; `own_group`: it leads a group of its own."""

    def __init__(self, pid: int, own_group: bool = False) -> None:
        self._pid = pid
        self._own_group = own_group
        self._held: dict[int, int | None] = {}

    def signal(self, signum: int) -> None:
        """Send it to all, the parent first (a shell must not go on to its next command)."""
        self._look()
        if self._own_group:
            with contextlib.suppress(OSError):
                os.killpg(self._pid, signum)
        with contextlib.suppress(OSError):
            os.kill(self._pid, signum)
        self.signal_descendants(signum)

    def signal_descendants(self, signum: int) -> None:
        """To those found so far; safe after the parent was reaped."""
        for pid, pidfd in self._held.items():
            with contextlib.suppress(OSError):
                if pidfd is None:
                    os.kill(pid, signum)
                else:
                    signal.pidfd_send_signal(pidfd, signum)

    def close(self) -> None:
        for pidfd in self._held.values():
            if pidfd is not None:
                os.close(pidfd)
        self._held.clear()

    def _look(self) -> None:
        for pid in descendants(self._pid):
            if pid not in self._held:
                self._held[pid] = open_pidfd(pid)


def descendants(pid: int, proc: bool = HAVE_PROC_CHILDREN) -> list[int]:
    """Children of `pid`, theirs, and so on. Without `proc` (no such files in /proc) psutil asks for all processes: 10 ms."""
    if not proc:
        import psutil

        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            return []
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        for child in _children(parent):
            if child not in found:
                found.append(child)
                todo.append(child)
    return found


def _children(pid: int) -> list[int]:
    out: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                out.extend(int(word) for word in file.read().split())
    return out
