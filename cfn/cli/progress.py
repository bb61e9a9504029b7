"""How far a run is, on stderr: a bar on a terminal, a line every few seconds where ``--progress`` asks for it elsewhere.

Rate, done, failed, left and the estimated time to the end, all from :class:`~cfn.swarm.run.Progress`. tqdm is imported for a
bar alone (20 ms), and without its monitor thread.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from cfn.swarm.run import Progress

LINE_EVERY_S: Final = 5.0
_NO_WIDTH: Final = 80
_NO_HEIGHT: Final = 24
_FORMAT: Final = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Meter(Protocol):
    """What shows progress."""

    def show(self, progress: Progress) -> None: ...

    def step_aside(self) -> None:
        """Somebody is about to write to the terminal."""

    def close(self) -> None: ...


class Silent:
    """Shows nothing."""

    def show(self, progress: Progress) -> None: ...

    def step_aside(self) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A line every few seconds, for logs."""

    def __init__(
        self, stream: TextIO, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._every_s, self._clock = stream, every_s, clock
        self._next = clock() + every_s

    def show(self, progress: Progress) -> None:
        if self._clock() >= self._next:
            self._next = self._clock() + self._every_s
            self._stream.write(f"cfn: {line(progress)}\n")
            self._stream.flush()

    def step_aside(self) -> None: ...

    def close(self) -> None: ...


class Bar:
    """A bar on a terminal."""

    def __init__(self, stream: TextIO, total: int) -> None:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread: it would only repaint a bar that nobody moves
        width = None if _width(stream) else _NO_WIDTH
        self._bar = tqdm(
            total=total,
            file=stream,
            unit="task",
            ncols=width,
            nrows=None if width is None else _NO_HEIGHT,  # tqdm shows nothing on a terminal of no height
            dynamic_ncols=width is None,
            bar_format=_FORMAT,
            mininterval=0.1,
        )
        self._bar.set_description_str("starting", refresh=False)

    def show(self, progress: Progress) -> None:
        bar = self._bar
        if progress.alive:
            bar.set_description_str(f"{progress.alive} alive", refresh=False)
        bar.set_postfix_str(f"{progress.failed} failed, {progress.left} left", refresh=False)
        bar.update(progress.done - bar.n)  # repaints at most every 0.1 s
        if progress.done == bar.n and time.time() - bar.last_print_t > 1.0:
            bar.refresh()  # the clock goes on while nothing ends
            bar.last_print_t = time.time()

    def step_aside(self) -> None:
        self._bar.clear()

    def close(self) -> None:
        self._bar.close()


def _width(stream: TextIO) -> int:
    """Columns of the terminal; 0 where it does not know (a serial line, a container's before it is attached)."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def line(progress: Progress) -> str:
    """One line for a log."""
    rate = progress.rate
    eta = f", ETA {progress.left / rate:.0f} s" if rate > 0 and progress.left else ""
    alive = f", {progress.alive} of {progress.planned} processes alive" if progress.done == 0 else ""
    counts = f"{progress.done}/{progress.total} done, {progress.failed} failed, {progress.left} left"
    return f"{counts}, {rate:.1f}/s{eta}{alive}"


def meter(wanted: bool | None, total: int, stream: TextIO | None = None) -> Meter:
    """The meter for this stderr. `wanted`: None shows a bar on a terminal only, True lines elsewhere too, False nothing."""
    stream = sys.stderr if stream is None else stream
    if wanted is False:
        return Silent()
    if stream.isatty():
        return Bar(stream, total)
    return Lines(stream) if wanted else Silent()
