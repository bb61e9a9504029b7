"""What runs one task: a command or a Python callable; and the environment in which it finds its bearings.

The environment of a command (all of it is documented in docs/run.md):

=======================  =======================================================================================
CFN_TASK                 the task as JSON, as on stdin; above 100 KiB CFN_TASK_OMITTED (its size) instead
CFN_TASK_ID              the idempotency key: the same when a task is run again
CFN_ATTEMPT              1, and more when it is run again
CFN_AGENT_ID             the worker's id on the bus; with it the command can ``cfn send`` and ``cfn receive``
CFN_COORDINATOR          the id of its coordinator
CFN_RUN                  the id of the run
CFN_MESSAGE_BASE_DIR     the root of the bus; MESSAGE_BASE_DIR says the same, as in the reference
=======================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cfn.message import dump_json
from cfn.swarm.call import CallJob, find_function
from cfn.swarm.command import CommandJob, run_command
from cfn.swarm.job import GRACE_S, Job, JobStatus, Outcome
from cfn.swarm.task import Task

__all__ = [
    "GRACE_S",
    "CallJob",
    "CommandJob",
    "Job",
    "JobStatus",
    "Outcome",
    "environment",
    "find_function",
    "run_command",
    "task_json",
]

#: Linux takes one string of 128 KiB (MAX_ARG_STRLEN) into an environment; more is E2BIG for the whole command.
TASK_VARIABLE_BYTES: Final = 100 * 1024


def task_object(task: Task) -> dict[str, Any]:
    """The task as its line in the input said it: the payload's keys beside task_id, team, priority and timeout_s."""
    out: dict[str, Any] = {**task.payload, "task_id": task.task_id}
    if task.team is not None:
        out["team"] = task.team
    if task.priority != "normal":
        out["priority"] = task.priority
    if task.timeout_s is not None:
        out["timeout_s"] = task.timeout_s
    return out


def task_json(task: Task) -> bytes:
    """One line of JSON, newline included: a command's stdin. Raises: BadMessage when JSON cannot say it."""
    return dump_json(task_object(task)) + b"\n"


def environment(
    task: Task,
    agent_id: str,
    coordinator: str | None,
    bus_dir: str | None,
    run: str | None,
    base: Mapping[str, str],
    attempt: int = 1,
) -> dict[str, str]:
    """A copy of `base` with the variables above; those of an outer swarm do not shine through."""
    out = {name: value for name, value in base.items() if name not in _OURS}
    said = task_json(task)[:-1]
    if len(said) <= TASK_VARIABLE_BYTES:
        out["CFN_TASK"] = said.decode()
    else:
        out["CFN_TASK_OMITTED"] = str(len(said))
    out["CFN_TASK_ID"] = task.task_id
    out["CFN_ATTEMPT"] = str(attempt)
    out["CFN_AGENT_ID"] = agent_id
    if coordinator is not None:
        out["CFN_COORDINATOR"] = coordinator
    if run is not None:
        out["CFN_RUN"] = run
    if bus_dir is not None:
        out["CFN_MESSAGE_BASE_DIR"] = out["MESSAGE_BASE_DIR"] = bus_dir
    return out


_OURS: Final = frozenset(
    ["CFN_TASK", "CFN_TASK_OMITTED", "CFN_TASK_ID", "CFN_ATTEMPT", "CFN_AGENT_ID", "CFN_COORDINATOR", "CFN_RUN"]
)
