"""What the agents of a run do with a task, as data that can travel: to a forked child, a spawned one, another container."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cfn.swarm.agent import CallJob, CommandJob, Job, environment, find_function, task_json
from cfn.swarm.capture import file_name
from cfn.swarm.task import Task
from cfn.swarm.template import fill

#: Left in a message for everything around a result: envelope, stderr tail, reason.
_ROOM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A command with placeholders, or a Python callable (`function`: the callable, or ``module:name``)."""

    command: tuple[str, ...] | None = None
    function: Callable[[Task], Any] | str | None = None
    shell: bool = False
    pool: bool = False  # an agent takes many tasks instead of one
    batch: int = 50  # agents started at a time by one coordinator
    timeout_s: float | None = None
    retries: int = 0
    env: Mapping[str, str] = field(default_factory=dict)  # on top of the inherited environment
    cwd: str | None = None
    spill_dir: str = "."
    results_dir: str | None = None  # keeps stdout and stderr of every task, in a folder of its own
    plain: bool = False  # a command's result is its text as written, not parsed

    def warm(self) -> Body:
        """With the callable imported, so that forked workers inherit it. Raises: UsageError."""
        if isinstance(self.function, str):
            return self.replace(function=find_function(self.function))
        return self

    def replace(self, **changes: Any) -> Body:
        import dataclasses

        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for an `assign` message; a callable must be given by name for that."""
        assert self.function is None or isinstance(self.function, str), "a callable object cannot travel in a message"
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("command", "env")} | {
            "command": list(self.command) if self.command is not None else None,
            "env": dict(self.env),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Body:
        known = {name: data[name] for name in cls.__slots__ if name in data}
        command = known.pop("command", None)
        return cls(command=None if command is None else tuple(command), **known)

    def job(
        self, task: Task, attempt: int, agent: str, coordinator: str, bus_dir: str, run: str, limit_bytes: int
    ) -> Job:
        """One attempt at `task`, not started yet. Raises: UsageError (a placeholder's value does not fit a command)."""
        timeout_s = task.timeout_s if task.timeout_s is not None else self.timeout_s
        limit = max(limit_bytes - _ROOM_BYTES, limit_bytes // 2)
        if self.command is None:
            assert callable(self.function)
            return CallJob(self.function, task, timeout_s, limit, self.spill_dir, keep_dir=self._keep_dir(task))
        argv = fill(self.command, task, shell=self.shell)
        env = environment(task, agent, coordinator, bus_dir, run, {**os.environ, **self.env}, attempt)
        return CommandJob(
            argv, task_json(task), env, self.cwd, timeout_s, limit, self.spill_dir, task.task_id,
            parse=not self.plain, keep_dir=self._keep_dir(task),
        )  # fmt: skip

    def _keep_dir(self, task: Task) -> str | None:
        return None if self.results_dir is None else os.path.join(self.results_dir, file_name(task.task_id))
