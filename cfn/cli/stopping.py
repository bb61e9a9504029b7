"""Why a command that follows something should stop: a signal, or a reader of stdout that has left.

The first SIGINT, SIGTERM or SIGHUP asks (``wanted``): the loop cancels, and what was finished is still printed. The second one
insists: it raises KeyboardInterrupt. A reader that left (``| head``) is seen at once, also while nothing is being written.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Final

_SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopping:
    """A context manager: signals are taken over on entering and given back on leaving."""

    def __init__(self) -> None:
        self.wanted = False
        self.reader_gone = False
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}
        self._poll: Any = None

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, or a shell's background job
                    self._before[signum] = signal.signal(signum, self._on_signal)
        if hasattr(select, "poll"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                self._poll = select.poll()
                self._poll.register(sys.stdout.fileno(), 0)  # POLLERR is told unasked when a pipe has no reader
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def look_at_reader(self) -> bool:
        """Whether the reader of stdout has gone."""
        if not self.reader_gone and self._poll is not None:
            with contextlib.suppress(OSError):
                if any(event & select.POLLERR for _, event in self._poll.poll(0)):
                    self.reader_left()
        return self.reader_gone

    def reader_left(self) -> None:
        """Nobody reads what we print: end, quietly. Stdout goes nowhere from here on, so that no flush complains."""
        self.wanted = self.reader_gone = True
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, sys.stdout.fileno())
            os.close(sink)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: it has its own ways to end
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
