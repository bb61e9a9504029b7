"""A Python callable as an agent: run in a thread, so that the worker's loop keeps its heartbeat.

The callable gets the :class:`~cfn.swarm.task.Task`; what it returns, if JSON can say it, is the result. What it
raises is a failed task. A thread cannot be killed: after a timeout or a cancellation the outcome says `must_exit`,
and the worker ends its process (the thread is a daemon, it does not hold the exit up).
"""

from __future__ import annotations

import _thread
import os
import time
from collections.abc import Callable
from typing import Any

from cfn.errors import BadMessage, UsageError
from cfn.message import dump_json
from cfn.swarm.capture import Output, Tail
from cfn.swarm.job import GRACE_S, JobStatus, Outcome
from cfn.swarm.task import Task


class CallJob:
    """One attempt at one task by a callable. See :class:`~cfn.swarm.job.Job`.

    `keep_dir`: a folder for a file `stdout` with the result as JSON.
    """

    def __init__(
        self,
        function: Callable[[Task], Any],
        task: Task,
        timeout_s: float | None = None,
        limit_bytes: int = 1 << 20,
        spill_dir: str | os.PathLike[str] = ".",
        *,
        keep_dir: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._function, self._task, self._timeout_s = function, task, timeout_s
        self._limit, self._spill_dir = limit_bytes, spill_dir
        self._keep = None if keep_dir is None else os.path.join(keep_dir, "stdout")
        self._clock, self._wall = clock, wall
        self._began, self._started_at = clock(), wall()
        self._wake: int | None = None
        self._made: Outcome | None = None  # by the thread
        self._outcome: Outcome | None = None  # decided

    def start(self) -> None:
        self._began, self._started_at = self._clock(), self._wall()
        try:
            self._wake, writer = os.pipe()
        except OSError as error:
            self._decide(self._outcome_of("failed", reason=f"cannot start: {error.strerror}"))
            return
        try:
            _thread.start_new_thread(self._run, (writer,))  # threading.Thread copies 60 pages more in a forked worker
        except RuntimeError as error:  # no thread left
            os.close(writer)
            self._decide(self._outcome_of("failed", reason=f"cannot start: {error}"))

    def fds(self) -> list[int]:
        return [self._wake] if self._wake is not None else []

    def due_s(self) -> float | None:
        if self._outcome is not None or self._made is not None:
            return 0.0
        return None if self._timeout_s is None else max(0.0, self._began + self._timeout_s - self._clock())

    def step(self) -> Outcome | None:
        if self._outcome is None:
            if self._made is not None:
                self._decide(self._made)
            elif self._timeout_s is not None and self._clock() >= self._began + self._timeout_s:
                self._decide(self._outcome_of("timeout", reason=f"timeout after {self._timeout_s:g} s", must_exit=True))
        return self._outcome

    def terminate(self, grace_s: float = GRACE_S) -> None:
        if self._outcome is None and self._made is None:
            self._decide(self._outcome_of("cancelled", reason="cancelled while it ran", must_exit=True))

    def _decide(self, outcome: Outcome) -> None:
        self._outcome = outcome
        if self._wake is not None:
            os.close(self._wake)
            self._wake = None

    # ------------------------------------------------------------ in the thread

    def _run(self, writer: int) -> None:
        try:
            self._made = self._returned(self._function(self._task))
        except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends the task, not the worker
            self._made = self._raised(error)
        os.close(writer)  # the loop's poll sees the end of the pipe

    def _returned(self, value: Any) -> Outcome:
        try:
            raw = dump_json(value)
        except BadMessage as error:
            return self._outcome_of("failed", reason=f"the result of type {type(value).__name__} is {error}")
        if len(raw) <= self._limit and self._keep is None:
            return self._outcome_of("ok", result=value)
        output = Output(self._limit, self._spill_dir, self._task.task_id, self._keep)
        output.write(raw)
        output.close()
        return self._outcome_of(
            "ok" if output.error is None else "failed",
            reason=output.error,
            result=value if len(raw) <= self._limit else None,
            output_path=output.path,
            output_sha256=output.sha256,
            output_bytes=output.size,
        )

    def _raised(self, error: BaseException) -> Outcome:
        import traceback

        tail = Tail()
        tail.write("".join(traceback.format_exception(error)).encode("utf-8", "replace"))
        said = " ".join(str(error).split())
        name = type(error).__name__
        return self._outcome_of("failed", reason=f"{name}: {said}"[:500] if said else name, stderr_tail=tail.text())

    def _outcome_of(self, status: JobStatus, **fields: Any) -> Outcome:
        return Outcome(status=status, duration_s=self._clock() - self._began, started_at=self._started_at, **fields)


def find_function(name: str) -> Callable[[Task], Any]:
    """The callable behind ``module:name`` (``name`` may have dots). The current folder is searched first, as ``python
    -m`` does.

    Raises: :class:`~cfn.errors.UsageError` naming what is missing.
    """
    import importlib
    import sys

    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise UsageError(f"--call {name!r} does not fit: use MODULE:FUNCTION")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        raise UsageError(f"--call {name}: cannot import {module_name!r}: {type(error).__name__}: {error}") from None
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"--call {name}: {module_name!r} has no {path!r}") from None
    if not callable(found):
        raise UsageError(f"--call {name}: {path!r} is not callable")
    function: Callable[[Task], Any] = found
    return function
