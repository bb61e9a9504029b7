"""The event loop of a swarm process: one poll over the bell, the lifeline, ended children and whatever else must wake it.

Where descriptors cannot be polled it looks every 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from typing import Any, Final

_LOOK_S: Final = 0.02
HANG_UP: Final = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0) | getattr(select, "POLLNVAL", 0)


class Loop:
    """Waits. `children`: also wake when a child ends (sets the SIGCHLD wake-up descriptor of this process)."""

    def __init__(self, children: bool = False) -> None:
        self._poll: Any = select.poll() if hasattr(select, "poll") else None
        self._fds: set[int] = set()
        self._wake: tuple[int, int] | None = None
        if children and self._poll is not None:
            self._wake = os.pipe()
            for fd in self._wake:
                os.set_blocking(fd, False)
            signal.signal(signal.SIGCHLD, lambda signum, frame: None)
            signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
            self.add(self._wake[0])

    def add(self, fd: int | None) -> None:
        if fd is not None:
            self._fds.add(fd)
            if self._poll is not None:
                self._poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        self._fds.discard(fd)
        if self._poll is not None:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def sync(self, old: Iterable[int], new: Iterable[int]) -> None:
        """Watch `new` instead of `old`."""
        for fd in set(old) - set(new):
            self.remove(fd)
        for fd in set(new) - set(old):
            self.add(fd)

    def wait(self, timeout_s: float) -> dict[int, int]:
        """Descriptors with something to read (or hung up), with their poll events."""
        if self._poll is None:
            time.sleep(min(timeout_s, _LOOK_S))
            return {}
        ready = dict(self._poll.poll(max(0.0, timeout_s) * 1000))
        if self._wake is not None and self._wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
        return ready

    def close(self) -> None:
        if self._wake is not None:
            signal.set_wakeup_fd(-1)
            for fd in self._wake:
                os.close(fd)
            self._wake = None
