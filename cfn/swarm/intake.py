"""Tasks out of a file of JSON lines, a stream of them, or the names of files.

Guarantees: every line that is not blank becomes one task or one :class:`~cfn.errors.TaskError` that names source and
line; ids are unique; a task fits into one message. All of the input is read before anything starts: the number of ids
is what the delivery rate is measured against.

A line is a JSON object. ``task_id`` (text or an integer; ``t<line>`` where there is none), ``team`` or ``role``,
``priority`` and ``timeout_s`` are read, all other keys are the payload. A byte order mark at the start and blank
lines are skipped.

Cost: 15 µs a line; a million tasks are read in 15 s and take 0.6 GB.
"""

from __future__ import annotations

import glob
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, NoReturn

from cfn.errors import BadMessage, TaskError, UsageError
from cfn.message import dump_json, load_json
from cfn.swarm.task import Task

#: Longest task id, in characters: ids stand in result lines, ledgers and job logs.
ID_LENGTH: Final = 255
#: Room in a message for what stands around a task.
_ROOM_BYTES: Final = 4096
_BOM: Final = b"\xef\xbb\xbf"
#: 1e999 can be read as an infinity, which nothing could say again as JSON.
_MAYBE_INFINITE: Final = re.compile(rb"\d[eE]|\d{300}")
_READ: Final = frozenset(("task_id", "team", "role", "priority", "timeout_s"))


@dataclass(slots=True)
class Intake:
    """What came in: the tasks in order, and the lines that were skipped."""

    tasks: list[Task] = field(default_factory=list)
    skipped: list[TaskError] = field(default_factory=list)


def from_file(path: str, *, skip_bad: bool = False, limit_bytes: int = 1 << 20) -> Intake:
    """Tasks out of a file of JSON lines; ``-`` is standard input.

    Raises: :class:`~cfn.errors.UsageError` when it cannot be read; as :func:`from_lines`.
    """
    if path == "-":
        lines = _bounded(sys.stdin.buffer, limit_bytes)
        return from_lines(lines, "stdin", skip_bad=skip_bad, limit_bytes=limit_bytes)
    try:
        with open(path, "rb") as file:
            return from_lines(_bounded(file, limit_bytes), path, skip_bad=skip_bad, limit_bytes=limit_bytes)
    except OSError as error:
        raise UsageError(f"cannot read the tasks in {path!r}: {error.strerror}", source=path) from None


def from_lines(lines: Iterable[bytes], source: str, *, skip_bad: bool = False, limit_bytes: int = 1 << 20) -> Intake:
    """Tasks out of JSON lines.

    Raises: :class:`~cfn.errors.TaskError` for the first line that is no task or repeats an id; with `skip_bad` such
    lines are in `skipped` instead.
    """
    intake = Intake()
    seen: dict[str, int] = {}
    number = 0
    for line, given in enumerate(lines, 1):
        raw = given.removeprefix(_BOM) if line == 1 else given
        if not raw.strip():
            continue
        try:
            task = _task(raw, line, source, limit_bytes, number + 1)
            if task.task_id in seen:
                first = seen[task.task_id]
                _refuse(source, line, f"task_id {task.task_id!r} is there already, in line {first}: make it unique")
        except TaskError as error:
            if not skip_bad:
                raise TaskError(f"{error}; --skip-bad goes on without such lines", **error.facts) from None
            intake.skipped.append(error)
            continue
        number += 1
        seen[task.task_id] = line
        intake.tasks.append(task)
    return intake


def from_glob(patterns: Sequence[str]) -> Intake:
    """One task a file: all regular files that match, by name; ``**`` goes into folders. The path is the payload and
    the id.

    Names that start with a dash get ``./`` in front, so that no command takes them for an option.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
            if os.path.isfile(path):
                found[f"./{path}" if path.startswith("-") else path] = None
    return Intake([Task(task_id=path, payload={"path": path}, number=n) for n, path in enumerate(found, 1)])


def _bounded(file: IO[bytes], limit_bytes: int) -> Iterator[bytes]:
    """The lines; of one that is too long, only as much as shows it (a file without newlines must not fill the memory)."""
    while raw := file.readline(limit_bytes):
        yield raw
        while not raw.endswith(b"\n") and len(raw) == limit_bytes:
            raw = file.readline(limit_bytes)


# ---------------------------------------------------------------- one line


def _task(raw: bytes, line: int, source: str, limit_bytes: int, number: int) -> Task:
    if len(raw) > limit_bytes - _ROOM_BYTES:
        most = limit_bytes - _ROOM_BYTES
        _refuse(
            source,
            line,
            f"the task has more than {most} bytes, which do not fit into a message (CFN_MAX_MESSAGE_BYTES): "
            "write the content to a file and give its path",
        )
    try:
        data = load_json(raw)
    except BadMessage as error:
        _refuse(source, line, f"{error} in {_shown(raw)}")
    if not isinstance(data, dict):
        _refuse(source, line, f'{_shown(raw)} is not a JSON object: write {{"key": value}}')
    task = Task(
        task_id=_id(data.get("task_id"), line, source),
        payload={name: value for name, value in data.items() if name not in _READ},
        team=_team(data, line, source),
        priority=_priority(data.get("priority"), line, source),
        timeout_s=_timeout(data.get("timeout_s"), line, source),
        number=number,
    )
    if _MAYBE_INFINITE.search(raw):
        try:
            dump_json(task.payload)
        except BadMessage as error:
            _refuse(source, line, f"the payload is {error}")
    return task


def _id(value: Any, line: int, source: str) -> str:
    if value is None:
        return f"t{line}"
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= ID_LENGTH or not _carried(value):
        fits = f"use text of 1-{ID_LENGTH} characters (no NUL), or a whole number"
        _refuse(source, line, f"task_id {_shown(value)} does not fit: {fits}")
    return value


def _team(data: dict[str, Any], line: int, source: str) -> str | None:
    given = {name: data[name] for name in ("team", "role") if data.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, str) or not 0 < len(value) <= 64 or not _carried(value):
            _refuse(source, line, f"{name} {_shown(value)} does not fit: use the name of a team, 1-64 characters")
    if len(set(given.values())) > 1:
        both = f"team {given['team']!r} and role {given['role']!r}"
        _refuse(source, line, f"{both} differ, and each routes the task: give one")
    return next(iter(given.values()), None)


def _priority(value: Any, line: int, source: str) -> Any:
    if value is None:
        return "normal"
    if value not in ("high", "normal", "low"):
        _refuse(source, line, f"priority {_shown(value)} does not fit: use high, normal or low")
    return value


def _timeout(value: Any, line: int, source: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9 or math.isnan(value):
        _refuse(source, line, f"timeout_s {_shown(value)} does not fit: use a number of seconds above 0")
    return float(value)


def _carried(text: str) -> bool:
    """Whether an environment variable can carry it."""
    try:
        return "\0" not in text and text.encode("utf-8", "strict") is not None
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """The offending value, as much of it as fits a line."""
    text = repr(value.strip().decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(source: str, line: int, why: str) -> NoReturn:
    raise TaskError(f"{source}:{line}: {why}", source=source, line=line)
