"""What a step must hold, one row a criterion: name, wanted, how it is measured, how the two are compared, and who asks.

A criterion is measured from a :class:`~cfn.rollout.trial.Trial`. Delivery and answers are counted from the results themselves, so that a report that is
wrong about its own run is found out. What could not be measured does not hold; only a row marked `where_visible` may stay
unknown, on a site that cannot see it, and says so.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from cfn.rollout.isolation import Isolation
from cfn.rollout.steps import Phase, Source, Step
from cfn.rollout.trial import Trial, Verdict
from cfn.rollout.work import totals

Comparison = Literal["=", ">=", "<"]
_COMPARE: Final[Mapping[Comparison, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    ">=": operator.ge,
    "<": operator.lt,
}


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A row. `wanted` may depend on the phase and on the trial; `measure` returns None for what is not known."""

    name: str
    compare: Comparison
    wanted: Callable[[Phase, Trial], Any]
    measure: Callable[[Trial], Any]
    show: Callable[[Any], str] = str
    detail: Callable[[Trial], str] = lambda trial: ""
    asked_by: Source | Callable[[Phase, Step], Source] = "ours"
    applies: Callable[[Phase, Step], bool] = lambda phase, step: True
    where_visible: bool = False

    def judge(self, phase: Phase, trial: Trial) -> Verdict:
        bound, value = self.wanted(phase, trial), self.measure(trial)
        known = value is not None
        excused = self.where_visible and not known and not trial.sees_files
        passed = _COMPARE[self.compare](value, bound) if known and bound is not None else excused
        sign = "" if self.compare == "=" else f"{self.compare} "
        return Verdict(
            criterion=self.name,
            source=self.asked_by if isinstance(self.asked_by, str) else self.asked_by(phase, trial.step),
            wanted=f"{sign}{self.show(bound) if bound is not None else 'unknown'}",
            measured=self.show(value) if known else ("not visible on this site" if excused else "unknown"),
            passed=passed,
            known=known,
            detail="" if passed else self.detail(trial),
        )


# ---------------------------------------------------------------- how values are told


def _percent(rate: float) -> str:
    """Rounded down, so that 100 % is never said of less."""
    return f"{math.floor(rate * 100_000) / 1000:.3f} %"


def _seconds(value: float) -> str:
    return f"{value:g} s" if float(value).is_integer() else f"{value:.2f} s"


def _mib(value: int) -> str:
    return f"{value / 2**20:,.0f} MiB"


def _sums(value: Mapping[str, Any]) -> str:
    return (
        f"{value['lines']:,} lines, {value['bytes']:,} bytes, {value['functions']:,} functions, {value['sha256'][:12]}"
    )


def _of(value: tuple[int, int]) -> str:
    return f"{value[1]} of {value[0]}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


# ---------------------------------------------------------------- the table


def _delivery(trial: Trial) -> float:
    return len(trial.answers) / len(trial.tasks) if trial.tasks else 0.0


def _lost(trial: Trial) -> int:
    return trial.report.workers_lost + len(trial.report.coordinators_lost)


def _who_was_lost(trial: Trial) -> str:
    lost = [
        *trial.report.coordinators_lost,
        *([f"{trial.report.workers_lost} workers"] if trial.report.workers_lost else []),
    ]
    return _some(lost)


def _failures(trial: Trial) -> str:
    return _some(
        [
            f"{failure.get('task_id')} {failure.get('status')}: {failure.get('reason')}"
            for failure in trial.report.failures
        ]
    )


def _meshed(phase: Phase, step: Step) -> bool:
    return step.coordinators > 1


def _mesh(step: Step) -> tuple[int, int]:
    pings = step.coordinators * (step.coordinators - 1)
    return (pings, pings)


def _source(phase: Phase, step: Step) -> Source:
    return phase.source(step)


CRITERIA: Final[tuple[Criterion, ...]] = (
    Criterion(
        name="delivery",
        compare=">=",
        wanted=lambda phase, trial: phase.delivery,
        measure=_delivery,
        show=_percent,
        asked_by=_source,
        detail=lambda trial: f"missing {_some(trial.unanswered)}",
    ),
    Criterion(
        name="every task delivered",
        compare="=",
        wanted=lambda phase, trial: 1.0,
        measure=_delivery,
        show=_percent,
        detail=lambda trial: f"missing {_some(trial.unanswered)}",
    ),
    Criterion(
        name="the report counts the same",
        compare="=",
        wanted=lambda phase, trial: len(trial.answers),
        measure=lambda trial: trial.report.delivered,
    ),
    Criterion(
        name="every task ok",
        compare="=",
        wanted=lambda phase, trial: len(trial.tasks),
        measure=lambda trial: len({result.task_id for result in trial.results if result.status == "ok"}),
        detail=_failures,
    ),
    Criterion(
        name="answers unlike the direct computation",
        compare="=",
        wanted=lambda phase, trial: 0,
        measure=lambda trial: len(trial.wrong),
        detail=lambda trial: _some(trial.wrong),
    ),
    Criterion(
        name="totals",
        compare="=",
        wanted=lambda phase, trial: totals(trial.expected),
        measure=lambda trial: totals(trial.answers),
        show=_sums,
    ),
    Criterion(
        name="coordination time",
        compare="<",
        wanted=lambda phase, trial: phase.coordination_s,
        measure=lambda trial: trial.report.coordination_s,
        show=_seconds,
        asked_by=_source,
        detail=lambda trial: f"the whole call took {trial.report.wall_s} s",
    ),
    Criterion(
        name="mesh pings answered",
        compare="=",
        wanted=lambda phase, trial: _mesh(trial.step),
        measure=lambda trial: (trial.report.mesh_pings, trial.report.mesh_answered),
        show=_of,
        asked_by="reference",
        applies=_meshed,
    ),
    Criterion(
        name="agents lost",
        compare="=",
        wanted=lambda phase, trial: 0,
        measure=_lost,
        asked_by="reference",
        detail=_who_was_lost,
    ),
    Criterion(
        name="how it ended",
        compare="=",
        wanted=lambda phase, trial: "finished",
        measure=lambda trial: trial.report.ended,
    ),
    Criterion(
        name="processes and mailboxes left",
        compare="=",
        wanted=lambda phase, trial: 0,
        measure=lambda trial: len(trial.orphans),
        asked_by="reference",
        detail=lambda trial: _some(trial.orphans),
    ),
    Criterion(
        name="agents planned",
        compare="=",
        wanted=lambda phase, trial: trial.step.total,
        measure=lambda trial: trial.report.planned,
    ),
    Criterion(
        name="agents alive at once",
        compare="=",
        wanted=lambda phase, trial: trial.report.planned,
        measure=lambda trial: trial.report.peak_living,
    ),
    Criterion(
        name="sequence gaps",
        compare="=",
        wanted=lambda phase, trial: 0,
        measure=lambda trial: trial.report.gaps,
    ),
    Criterion(
        name="memory of all processes",
        compare="<",
        wanted=lambda phase, trial: trial.available_bytes,
        measure=lambda trial: trial.report.peak_memory_bytes,
        show=_mib,
        asked_by="reference",
        applies=lambda phase, step: phase.limits,
    ),
    Criterion(
        name="open files of a coordinator",
        compare="<",
        wanted=lambda phase, trial: trial.open_files[1] if trial.open_files else math.inf,
        measure=lambda trial: trial.open_files[0] if trial.open_files else None,
        show=lambda value: "its limit" if value == math.inf else f"{value:,}",
        asked_by="reference",
        applies=lambda phase, step: phase.limits,
        where_visible=True,
    ),
)


def judge(phase: Phase, trials: Sequence[Trial]) -> list[Verdict]:
    """Every criterion that applies; of several trials of a step, the one that comes off worst speaks for it."""
    verdicts = []
    for criterion in CRITERIA:
        if trials and criterion.applies(phase, trials[0].step):
            order = list(trials)
            if criterion.compare == "<":
                order.sort(key=lambda trial: criterion.measure(trial) or 0, reverse=True)
            judged = [criterion.judge(phase, trial) for trial in order]
            verdicts.append(next((verdict for verdict in judged if not verdict.passed), judged[0]))
    return verdicts


def judge_isolation(isolation: Isolation) -> list[Verdict]:
    """The rows of the isolation step: the slow team is slow, the measurement can tell, the other teams did not notice."""
    least = isolation.factor / 3  # waiting for a core is part of a task's time too, and is not slowed
    task, finish = isolation.worst(isolation.task), isolation.worst(isolation.finish)
    return [
        Verdict(
            criterion=f"team {isolation.slow_team} is slowed",
            source="ours",
            wanted=f">= {least:.1f}x",
            measured=f"{isolation.slowdown:.1f}x",
            passed=isolation.slowdown >= least,
        ),
        Verdict(
            criterion="noise against what a coupled team would show",
            source="ours",
            wanted="< 50 %",
            measured=f"{isolation.resolution:.0%}" if math.isfinite(isolation.resolution) else "unknown",
            passed=isolation.resolution < 0.5,
            detail="" if isolation.resolution < 0.5 else "the machine is too busy to tell, or the team was not slowed",
        ),
        *(
            Verdict(
                criterion=f"other teams' median {name} time",
                source="reference",
                wanted=f"<= +{worst.allowed_s * 1000:.0f} ms",
                measured=f"{worst.shift_s * 1000:+.0f} ms",
                passed=worst.unchanged,
                detail=str(worst),
            )
            for name, worst, shifts in (("task", task, isolation.task), ("finish", finish, isolation.finish))
        ),
    ]
