"""The job log: GNU parallel's nine columns, one line a finished task, written when it is finished.

``Seq Host Starttime JobRuntime Send Receive Exitval Signal Command``, separated by tabs; a newline in a command is written as
NUL, as GNU parallel does, so ``parallel --retry-failed`` can read it. Host is ``:`` (this machine), Send and Receive are the bytes
of the task and of its output. Exitval of what has no exit code of its own: 1 failed, 124 timeout (as timeout(1)), 130
cancelled, 255 lost.

Assumption of a resume: the tasks are the same, in the same order. It is checked: the command of every logged line must be the
command of that task now.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple

from cfn.errors import UsageError
from cfn.swarm.task import Result, Task

HEADER: Final = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"
_EXITVAL: Final = {"failed": 1, "timeout": 124, "cancelled": 130, "lost": 255}


class Entry(NamedTuple):
    """One line, as far as a resume needs it."""

    seq: int
    exitval: int
    signal: int
    command: str

    @property
    def ok(self) -> bool:
        return self.exitval == 0 and self.signal == 0


class JobLog:
    """A job log that is being written. `command` tells a task's command as one line; `sent` the bytes that it is sent."""

    def __init__(
        self,
        path: str,
        tasks: Sequence[Task],
        command: Callable[[Task], str],
        sent: Callable[[Task], int],
        *,
        append: bool = False,
    ) -> None:
        self._tasks = {task.task_id: task for task in tasks}
        self._command, self._sent = command, sent
        try:
            fresh = not append or not os.path.exists(path) or os.path.getsize(path) == 0
            self._file = open(  # noqa: SIM115 - closed by __exit__
                path, "w" if fresh else "a", encoding="utf-8", errors="surrogateescape", newline="\n"
            )
            if fresh:
                self._file.write(HEADER + "\n")
            elif not _ends_whole(path):
                self._file.write("\n")  # what a killed writer left half
            self._file.flush()
        except OSError as error:
            raise UsageError(f"--joblog {path!r} cannot be written: {error.strerror}") from None

    def write(self, results: Sequence[Result]) -> None:
        for result in results:
            task = self._tasks[result.task_id]
            exitval, signum = codes(result)
            fields = (
                str(task.number),
                ":",
                f"{result.started_at or 0.0:.3f}",
                f"{result.duration_s:.3f}",
                str(self._sent(task)),
                str(_received(result)),
                str(exitval),
                str(signum),
                _flat(self._command(task)),
            )
            self._file.write("\t".join(fields) + "\n")
        self._file.flush()

    def __enter__(self) -> JobLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def codes(result: Result) -> tuple[int, int]:
    """Exitval and Signal of a result; both 0 exactly when it is ok."""
    code = result.exit_code
    if result.status == "ok":
        return 0, 0
    if code is not None and code < 0:
        return (_EXITVAL[result.status] if result.status != "failed" else 0), -code
    return (code if code and result.status == "failed" else _EXITVAL[result.status]), 0


def read(path: str) -> dict[int, Entry]:
    """The last entry of each number; {} when the file is not there. A torn last line is left out.

    Raises: UsageError for a file that is no job log.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"--joblog {path!r} cannot be read: {error.strerror}") from None
    lines.pop()  # "" after the last newline, or a torn line
    if lines and lines[0].split("\t")[:2] != ["Seq", "Host"]:
        raise UsageError(f"--joblog {path!r} is not a job log: its first line is {lines[0][:60]!r}")
    found: dict[int, Entry] = {}
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t", 8)
        try:
            found[int(fields[0])] = Entry(int(fields[0]), int(fields[6]), int(fields[7]), fields[8])
        except (ValueError, IndexError):
            if len(fields) >= 9:
                raise UsageError(f"{path}:{number}: not a line of a job log: {line[:60]!r}") from None
    return found


def to_do(tasks: Sequence[Task], path: str, command: Callable[[Task], str]) -> list[Task]:
    """The tasks that a resume has to run: those that failed or are not in the log.

    Raises: UsageError when a task's command is not the one in the log: the input has changed.
    """
    log = read(path)
    out: list[Task] = []
    for task in tasks:
        entry = log.get(task.number)
        if entry is not None and entry.command != _flat(command(task)):
            raise UsageError(
                f"--resume-failed: task {task.number} is now `{_shown(command(task))}` and was `{_shown(entry.command)}` "
                f"in {path}: give the same input and command, or another --joblog"
            )
        if entry is None or not entry.ok:
            out.append(task)
    return out


def _flat(command: str) -> str:
    return command.replace("\n", "\0")


def _shown(command: str) -> str:
    text = command.replace("\0", "\n")
    return repr(text)[1:-1] if len(text) <= 60 else repr(text[:57])[1:-1] + "..."


def _received(result: Result) -> int:
    if result.output_bytes is not None:
        return result.output_bytes
    if result.result is None:
        return 0
    from cfn.message import dump_json

    return len(dump_json(result.result))


def _ends_whole(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
