"""A site without processes: it answers every task at once, and a test may doctor what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from cfn.rollout import work
from cfn.rollout.sites import StepPlan
from cfn.swarm.task import Report, Result, Task, TeamReport

#: Given the plan and what would be answered: what is answered instead.
Doctor = Callable[[StepPlan, list[Result], Report], tuple[list[Result], Report]]


class StagedSite:
    """Implements `cfn.rollout.sites.Site` and `SeesFiles`."""

    name = "staged"

    def __init__(
        self, doctor: Doctor | None = None, left: Sequence[str] = (), modules: Sequence[str] | None = None
    ) -> None:
        self.plans: list[StepPlan] = []
        self.tasks: list[Sequence[Task]] = []
        self._doctor = doctor
        self._left = left
        self._modules = tuple(modules) if modules is not None else work.modules()[:7]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def modules(self) -> Sequence[str]:
        return self._modules

    def run_step(self, plan: StepPlan, tasks: Sequence[Task]) -> tuple[list[Result], Report]:
        self.plans.append(plan)
        self.tasks.append(tasks)
        results, report = answer(plan, tasks)
        return self._doctor(plan, results, report) if self._doctor else (results, report)

    def expected(self, tasks: Sequence[Task]) -> dict[str, work.Digest]:
        return work.expected(tasks)

    def orphans(self, run_id: str) -> list[str]:
        return list(self._left)

    def open_files(self, run_id: str) -> tuple[int, int] | None:
        return 120, 1024


def answer(plan: StepPlan, tasks: Sequence[Task]) -> tuple[list[Result], Report]:
    """What a perfect swarm would say: tasks spread over teams in turn, each lasting as long as it was asked to."""
    width = plan.coordinators or 1
    names = [chr(ord("a") + n) for n in range(width)]
    right = work.expected(tasks)
    results = []
    for n, task in enumerate(tasks):
        lasting_s = float(task.payload["pause_s"]) * float(task.payload.get("slow", 1.0))
        team = (task.team or names[n % width]) if plan.coordinators else None
        results.append(
            Result(
                task_id=task.task_id,
                status="ok",
                result=right[task.task_id],
                agent=f"{plan.run_id}.w{n}",
                team=team,
                duration_s=lasting_s + n % 5 / 1000,
                started_at=1_700_000_000.0 + n % 3 / 1000,
                number=task.number,
            )
        )
    below = plan.coordinators or 0
    fan = 6 if plan.depth == 3 else 0
    coordinators = below * (1 + fan)
    teams = {
        name: TeamReport(
            team=name,
            coordinator=f"coord-{name}",
            agents=plan.agents // width,
            tasks=sum(result.team == name for result in results),
            ok=sum(result.team == name for result in results),
            first_at=0.5,
            last_at=0.6 + max((result.duration_s for result in results if result.team == name), default=0.0),
        )
        for name in names
    }
    report = Report(
        run=plan.run_id,
        topology=plan.topology,
        agents=plan.agents,
        coordinators=coordinators,
        planned=1 + coordinators + plan.agents,
        peak_living=1 + coordinators + plan.agents,
        tasks=len(tasks),
        delivered=len(tasks),
        delivery_rate=1.0,
        counts={"ok": len(tasks)},
        spawned_s=0.45,
        coordination_s=0.7,
        wall_s=0.8,
        mesh_pings=below * (below - 1),
        mesh_answered=below * (below - 1),
        teams=teams,
        peak_memory_bytes=100 << 20,
    )
    return results, report


def report_with(**changes: Any) -> Doctor:
    """A doctor that changes fields of the report."""
    return lambda plan, results, report: (results, replace(report, **changes))
