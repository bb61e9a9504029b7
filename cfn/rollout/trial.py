"""What is known about a step that has run: its trials, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cfn.rollout.isolation import Isolation
from cfn.rollout.steps import Source, Step
from cfn.rollout.work import Digest
from cfn.swarm.task import Report, Result, Task


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a step's swarm, and what is known about it from outside."""

    step: Step
    tasks: Sequence[Task]
    results: Sequence[Result]
    report: Report
    expected: Mapping[str, Digest]  # the direct computation
    orphans: Sequence[str] = ()  # processes and mailboxes found after the run
    available_bytes: int | None = None  # memory that was available before it
    open_files: tuple[int, int] | None = None  # the fullest descriptor table of a coordinating process, and its limit
    sees_files: bool = True  # whether the site can see descriptor tables at all

    @cached_property
    def answers(self) -> dict[str, Any]:
        """Task id -> answer, of the first result of each id of the input."""
        asked = {task.task_id for task in self.tasks}
        first: dict[str, Any] = {}
        for result in self.results:
            if result.task_id in asked:
                first.setdefault(result.task_id, result.result)
        return first

    @cached_property
    def unanswered(self) -> list[str]:
        return [task.task_id for task in self.tasks if task.task_id not in self.answers]

    @cached_property
    def wrong(self) -> list[str]:
        """Tasks whose answer is not the one of the direct computation, those without an answer among them."""
        return [task.task_id for task in self.tasks if self.answers.get(task.task_id) != self.expected[task.task_id]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One criterion of one step, measured."""

    criterion: str
    source: Source
    wanted: str
    measured: str
    passed: bool
    known: bool = True  # False: this site cannot see it, and that is accepted
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.criterion}: wanted {self.wanted} ({self.source}), measured {self.measured}{detail}"


@dataclass(kw_only=True)
class Judged:
    """A step with its verdicts."""

    step: Step
    trials: list[Trial] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    isolation: Isolation | None = None
    wall_s: float = 0.0

    @property
    def failed(self) -> Verdict | None:
        return next((verdict for verdict in self.verdicts if not verdict.passed), None)

    @property
    def passed(self) -> bool:
        return bool(self.verdicts) and self.failed is None
