"""What agents do in these tests: importable by name, so that spawned processes find it too."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from cfn import Task


def echo(task: Task) -> dict[str, Any]:
    return {"task_id": task.task_id, "pid": os.getpid(), **task.payload}


def sleep(task: Task) -> str:
    time.sleep(task.payload.get("s", 60))
    return "slept"


def die_once(task: Task) -> str:
    """Kill the own worker the first time, work the second: the mark is a file."""
    mark = task.payload["mark"]
    if not os.path.exists(mark):
        with open(mark, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fail(task: Task) -> None:
    raise ValueError(f"no {task.task_id}")


def fail_until(task: Task) -> int:
    """Fail until the file has as many lines as the payload says."""
    with open(task.payload["mark"], "a+") as file:
        file.write("x\n")
        file.seek(0)
        tries = len(file.readlines())
    if tries < task.payload["tries"]:
        raise RuntimeError(f"try {tries}")
    return tries
