"""``python -m cfn.rollout.master``: the master of one step's swarm, in an interpreter of its own.

stdin: one JSON object, ``{"plan": StepPlan, "tasks": [Task, ...]}``. stdout: ``{"result": {...}}`` a line as they come, and
last ``{"report": {...}, "open_files": [used, limit]}``. Exit code 0 whenever there is a report, whatever became of the
tasks: it is for the reader to judge. On an error the last line of stderr is the reason.

The descriptor tables are looked at once, when the first result comes: every agent has its process and its mailbox then, and
the coordinators have everything open that they will have. That costs 30 ms at 708 agents and is part of the measured time.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import IO, Any, Protocol, cast

from cfn.errors import CfnError, Exit, RunError
from cfn.rollout.sites import StepPlan
from cfn.swarm.task import Report, Result, Task


class RunLike(Protocol):
    """What of :class:`cfn.swarm.run.Run` is needed here."""

    def __enter__(self) -> RunLike: ...

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Result]: ...

    @property
    def report(self) -> Report | None: ...


class SwarmLike(Protocol):
    """What of :class:`cfn.swarm.run.Swarm` is needed here."""

    def run(self, tasks: Iterable[Task]) -> RunLike: ...


def swarm(plan: StepPlan) -> SwarmLike:
    """The swarm of that plan."""
    from cfn.swarm.run import Swarm

    return cast(
        SwarmLike,
        Swarm(
            function=plan.function,
            topology=plan.topology,
            agents=plan.agents,
            coordinators=plan.coordinators,
            workers_per_coordinator=plan.workers_per_coordinator,
            deadline_s=plan.deadline_s,
            run_id=plan.run_id,
        ),
    )


def conduct(made: SwarmLike, tasks: list[Task], out: IO[str]) -> None:
    """Run the swarm to its end and write what comes."""
    open_files = None
    with made.run(tasks) as run:
        for result in run:
            open_files = open_files or fullest_table()
            print(json.dumps({"result": asdict(result)}), file=out)
    if run.report is None:
        raise RunError("the run ended without a report")
    print(
        json.dumps({"report": run.report.to_dict(), "open_files": open_files or fullest_table()}), file=out, flush=True
    )


def fullest_table() -> tuple[int, int]:
    """The most descriptors open in this process or in one below it that has children, and that process's own limit."""
    import psutil

    me = psutil.Process()
    below = me.children(recursive=True)
    parents = {_parent(process) for process in below}
    tables = [_table(process) for process in (me, *below) if process.pid == me.pid or process.pid in parents]
    return max(tables, key=lambda table: table[0] / table[1])


def _parent(process: Any) -> int | None:
    import psutil

    try:
        return cast(int, process.ppid())
    except psutil.Error:
        return None


def _table(process: Any) -> tuple[int, int]:
    import psutil

    try:
        if hasattr(process, "num_handles"):  # Windows: handles, bounded by memory alone (16 million a process)
            return process.num_handles(), 1 << 24
        limit = process.rlimit(psutil.RLIMIT_NOFILE)[0] if hasattr(process, "rlimit") else _own_limit()
        return process.num_fds(), limit if limit > 0 else 1 << 30
    except psutil.Error:  # it has ended since
        return 0, 1


def _own_limit() -> int:
    """Where a process cannot be asked for its limit (macOS), ours is the one that it inherited."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _terminated)
    try:
        asked = json.load(sys.stdin)
        plan = StepPlan(**asked["plan"])
        conduct(swarm(plan), [Task(**task) for task in asked["tasks"]], sys.stdout)
    except CfnError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
