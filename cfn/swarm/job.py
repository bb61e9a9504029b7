"""One task inside a worker: what every way of running it (a command, a Python callable) offers the worker's event loop.

A job never blocks. The loop polls :meth:`Job.fds` for reading, at most :meth:`Job.due_s` long, and calls
:meth:`Job.step` until it gives an :class:`Outcome`; in between it keeps its heartbeat and reads its control lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

JobStatus = Literal["ok", "failed", "timeout", "cancelled"]

#: How much of a command's stderr (or of a traceback) a result carries.
TAIL_BYTES: Final = 4096
#: Between SIGTERM and SIGKILL.
GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one attempt; the fields of :class:`~cfn.swarm.task.Result` that the attempt itself knows.

    `must_exit`: something of the attempt could not be ended (a thread, a process in the kernel): the worker must end
    its own process after it has sent the result.
    """

    status: JobStatus
    result: Any = None
    exit_code: int | None = None
    stderr_tail: str = ""
    reason: str | None = None
    output_path: str | None = None
    output_sha256: str | None = None
    output_bytes: int | None = None
    duration_s: float = 0.0
    started_at: float | None = None
    must_exit: bool = False


class Job(Protocol):
    """One attempt at one task."""

    def start(self) -> None:
        """Begin. Never raises: what cannot be started is a failed outcome of the first step."""

    def fds(self) -> list[int]:
        """Descriptors to poll for reading; they change from step to step."""

    def due_s(self) -> float | None:
        """`step` must be called after so many seconds even if no descriptor is readable; None: no need."""

    def step(self) -> Outcome | None:
        """Do what can be done without waiting; the outcome, once there is one (then the same again)."""

    def terminate(self, grace_s: float = GRACE_S) -> None:
        """Cancel: the outcome comes from a later `step`, at the latest shortly after `grace_s`."""
