"""Placeholders in a command: ``{}``, ``{#}`` and ``{key}``, filled in with the values of one task.

* ``{}``      the task: a task that is a file (``--each``) gives its path, any other its payload as JSON
* ``{#}``     the task's number, from 1
* ``{key}``   a key of that task: of its payload, ``task_id``, ``team`` (or ``role``), ``priority``, ``timeout_s``

Anything else between braces stays as it is (``awk '{print $1}'``, JSON, ``${HOME}`` of a shell), so a command needs
no escapes; what is filled in is not looked at again. Strings go in plain, other values as JSON. The result is a list
of arguments that no shell ever sees. With `shell` the arguments become one line for ``sh -c``, and the values in it
are quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final

from cfn.errors import TaskError
from cfn.message import dump_json
from cfn.swarm.task import Task

_BRACES: Final = re.compile(r"\{([^{}]*)\}")


def fill(command: Sequence[str], task: Task, *, shell: bool = False) -> list[str]:
    """The arguments for this task.

    Raises: :class:`~cfn.errors.TaskError` for a value that no argument can carry (a NUL; text that is not Unicode).
    """
    if not shell:
        return [_fill(part, task, str) for part in command]
    return ["sh", "-c", _fill(" ".join(command), task, shlex.quote)]


def command_line(command: Sequence[str], task: Task, *, shell: bool = False) -> str:
    """The same as one line for a person, who can paste it into a shell. Raises: TaskError."""
    arguments = fill(command, task, shell=shell)
    return arguments[2] if shell else shlex.join(arguments)


def _fill(text: str, task: Task, quote: Callable[[str], str]) -> str:
    if "{" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if key == "":
            return quote(_whole(task))
        if key == "#":
            return str(task.number)
        if key in task.payload:
            return quote(_checked(key, task.payload[key], task))
        if key == "task_id":
            return quote(task.task_id)
        if key in ("team", "role") and task.team is not None:
            return quote(task.team)
        if key == "priority":
            return task.priority
        if key == "timeout_s" and task.timeout_s is not None:
            return f"{task.timeout_s:g}"
        return match.group(0)

    return _BRACES.sub(value, text)


def _whole(task: Task) -> str:
    if is_file(task):
        return _checked("path", task.payload["path"], task)
    return dump_json(task.payload).decode()


def is_file(task: Task) -> bool:
    """Whether the task is nothing but a file: what ``--each`` makes, its path being its id too."""
    return len(task.payload) == 1 and task.payload.get("path") == task.task_id


def _checked(key: str, value: Any, task: Task) -> str:
    text = value if isinstance(value, str) else dump_json(value).decode()
    if "\0" in text:
        raise TaskError(f"task {task.task_id!r}: the value of {key!r} holds a NUL, which no argument can carry")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TaskError(f"task {task.task_id!r}: the value of {key!r} holds a lone surrogate, no text") from None
    return text
