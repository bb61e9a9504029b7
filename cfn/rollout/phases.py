"""Run a phase: its steps in order, each judged, until one fails.

Guarantees: a step that fails is the last one; every criterion of it is measured all the same, and the report holds what was
measured until then, also when the run was interrupted. Work is real: every worker gets one module of the standard library,
and its answer is compared with a direct computation on the same interpreter.

Steps of a trial: make the tasks, take what memory there is, run the swarm, look for what is left of it, compute directly. A
step with a slow team is three trials or more (``cfn/rollout/isolation.py``): the first one also says which team takes which
task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cfn.errors import CfnError, Exit, RunError
from cfn.rollout import work
from cfn.rollout.criteria import judge, judge_isolation
from cfn.rollout.isolation import compare
from cfn.rollout.sites import SeesFiles, Site, StepPlan, new_run_id
from cfn.rollout.steps import Phase, Slowed, Step
from cfn.rollout.trial import Judged, Trial, Verdict
from cfn.swarm.task import Task

FUNCTION: Final = "cfn.rollout.work:digest"

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Outcome:
    """What became of a phase. `asked` are the steps that should run, `judged` those that did."""

    phase: Phase
    site: str
    asked: Sequence[Step]
    judged: list[Judged] = field(default_factory=list)
    error: CfnError | None = None  # the environment did not carry it
    interrupted: bool = False
    started_at: float = 0.0  # Unix seconds
    wall_s: float = 0.0

    @property
    def passed(self) -> bool:
        every = len(self.judged) == len(self.asked) and all(step.passed for step in self.judged)
        return every and self.error is None and not self.interrupted

    @property
    def failed(self) -> tuple[Step, Verdict] | None:
        """The step that stopped the phase, and its first criterion that did not hold."""
        for judged in self.judged:
            if judged.failed is not None:
                return judged.step, judged.failed
        return None

    @property
    def exit_code(self) -> Exit:
        if self.interrupted:
            return Exit.INTERRUPTED
        if self.error is not None:
            return self.error.exit_code
        return Exit.OK if self.passed else Exit.ERROR

    @property
    def verdict(self) -> str:
        """One line: passed, or which step failed, by which criterion, wanted and measured."""
        done = f"{sum(step.passed for step in self.judged)} of {len(self.asked)} steps passed"
        if self.interrupted:
            return f"{self.phase.name} on site {self.site} was interrupted: {done}"
        if self.error is not None:
            return f"{self.phase.name} cannot go on here: {self.error}"
        if self.failed is not None:
            step, verdict = self.failed
            return f"{self.phase.name} failed at step {step.name}: {verdict}"
        return f"{self.phase.name} passed on site {self.site}: {done}"


def run_phase(phase: Phase, steps: Sequence[Step], site: Site, say: Say) -> Outcome:
    """Run `steps` on an entered `site`, a line to `say` for each; stops at the first that fails. Never raises CfnError."""
    outcome = Outcome(phase=phase, site=site.name, asked=steps, started_at=time.time())
    began = time.monotonic()
    say(_HEADER)
    try:
        for step in steps:
            judged = try_step(phase, step, site)
            outcome.judged.append(judged)
            for line in lines(phase, judged):
                say(line)
            if not judged.passed:
                break
    except CfnError as error:
        outcome.error = error
    except KeyboardInterrupt:
        outcome.interrupted = True
    outcome.wall_s = time.monotonic() - began
    return outcome


def try_step(phase: Phase, step: Step, site: Site) -> Judged:
    """Run and judge one step. Raises: CfnError of exit code 5, when this environment cannot carry it."""
    judged = Judged(step=step)
    began = time.monotonic()
    try:
        if step.slowed is None:
            judged.trials.append(_trial(phase, step, site, work.tasks(step.workers, site.modules())))
        else:
            _with_slow_team(phase, step, step.slowed, site, judged)
    except CfnError as error:
        if error.exit_code == Exit.UNFIT:
            raise
        judged.verdicts.append(_crashed(error))
    judged.verdicts.extend(judge(phase, judged.trials))
    if judged.isolation is not None:
        judged.verdicts.extend(judge_isolation(judged.isolation))
    judged.wall_s = time.monotonic() - began
    return judged


def _trial(phase: Phase, step: Step, site: Site, tasks: Sequence[Task]) -> Trial:
    import psutil

    plan = StepPlan(
        topology=step.topology,
        agents=step.workers,
        coordinators=step.coordinators or None,
        workers_per_coordinator=step.workers_per_coordinator if step.coordinators else None,
        depth=step.depth,
        function=FUNCTION,
        deadline_s=max(60.0, 4 * phase.coordination_s),  # late is measured, not cut off
        run_id=new_run_id(),
    )
    available_bytes = psutil.virtual_memory().available
    results, report = site.run_step(plan, tasks)
    return Trial(
        step=step,
        tasks=tasks,
        results=results,
        report=report,
        expected=site.expected(tasks),
        orphans=site.orphans(plan.run_id),
        available_bytes=available_bytes,
        open_files=site.open_files(plan.run_id) if isinstance(site, SeesFiles) else None,
        sees_files=isinstance(site, SeesFiles),
    )


def _with_slow_team(phase: Phase, step: Step, slowed: Slowed, site: Site, judged: Judged) -> None:
    """Trials into `judged`, the same tasks on the same teams: normal, the middle team slowed, normal, ...

    A round that finds harm is followed by another one, to `slowed.rounds`; all runs of all rounds are compared then.
    """
    tasks = work.tasks(step.workers, site.modules(), pause_s=slowed.pause_s)
    judged.trials.append(_trial(phase, step, site, tasks))
    if not all(verdict.passed for verdict in judge(phase, judged.trials)):
        return
    team_of = {result.task_id: result.team for result in judged.trials[0].results}
    teams = sorted({team for team in team_of.values() if team is not None})
    if len(teams) < 2:
        raise RunError(f"the results name {len(teams)} teams: two are needed to see whether they are isolated")
    slow_team = teams[len(teams) // 2]
    normal = [replace(task, team=team_of.get(task.task_id)) for task in tasks]
    slow = [
        replace(task, payload={**task.payload, "slow": slowed.factor}) if task.team == slow_team else task
        for task in normal
    ]
    for _ in range(slowed.rounds):
        for again in (slow, normal):
            judged.trials.append(_trial(phase, step, site, again))
            if not all(verdict.passed for verdict in judge(phase, judged.trials)):
                return  # a run that lost something is no measure of another
        runs = [trial.results for trial in judged.trials]
        try:
            judged.isolation = compare(runs[::2], runs[1::2], slow_team=slow_team, factor=slowed.factor)
        except ValueError as error:
            raise RunError(f"the teams cannot be compared: {error}") from None
        if all(verdict.passed for verdict in judge_isolation(judged.isolation)):
            return


def _crashed(error: CfnError) -> Verdict:
    return Verdict(
        criterion="the swarm runs", source="reference", wanted="to its end", measured=str(error), passed=False
    )


# ---------------------------------------------------------------- the table on a terminal

_COLUMNS: Final = "{:<14} {:>6} {:>11} {:>19} {:>9}  {}"
_HEADER: Final = _COLUMNS.format("step", "agents", "delivery", "coordination", "alive", "criteria")


def lines(phase: Phase, judged: Judged) -> list[str]:
    """The line of a step, and one for each criterion that did not hold."""
    held = sum(verdict.passed for verdict in judged.verdicts)
    state = f"{held} of {len(judged.verdicts)} hold"
    if not judged.trials:
        head = _COLUMNS.format(judged.step.name, judged.step.total, "-", "-", "-", state)
    else:
        trial = max(judged.trials, key=lambda trial: trial.report.coordination_s or 0.0)
        measured = {verdict.criterion: verdict.measured for verdict in judged.verdicts}
        bound = f"{measured['coordination time']} < {phase.coordination_s:g} s"
        alive = f"{trial.report.peak_living}/{trial.report.planned}"
        head = _COLUMNS.format(judged.step.name, judged.step.total, measured["delivery"], bound, alive, state)
    return [head, *(f"  FAILED {verdict}" for verdict in judged.verdicts if not verdict.passed)]


def describe(phase: Phase, steps: Sequence[Step]) -> dict[str, Any]:
    """What would run: for ``--dry-run``."""
    return {
        "phase": phase.name,
        "title": phase.title,
        "steps": [
            {
                "number": phase.steps.index(step) + 1,
                "step": step.name,
                "topology": step.topology,
                "agents": step.total,
                "shape": step.describe(),
                "delivery": 1.0,
                "delivery_reference": phase.delivery,
                "coordination_s": phase.coordination_s,
            }
            for step in steps
        ],
    }
