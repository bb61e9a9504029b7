"""Every criterion can fail: each is shown a run that breaks it, and must say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from staged_site import answer

from cfn.rollout import steps, work
from cfn.rollout.criteria import CRITERIA, judge, judge_isolation
from cfn.rollout.isolation import compare
from cfn.rollout.sites import StepPlan
from cfn.rollout.trial import Trial, Verdict
from cfn.swarm.task import Result, Task

PHASES = {step.name: (phase, step) for phase in steps.PHASES for step in phase.steps}


def good_trial(name: str) -> Trial:
    """A run of that step in which everything holds."""
    _, step = PHASES[name]
    plan = StepPlan(
        topology=step.topology,
        agents=step.workers,
        coordinators=step.coordinators or None,
        workers_per_coordinator=None,
        depth=step.depth,
        function="m:f",
        deadline_s=60.0,
        run_id="r1",
    )
    tasks = work.tasks(step.workers, work.modules()[:5])
    results, report = answer(plan, tasks)
    return Trial(
        step=step,
        tasks=tasks,
        results=results,
        report=report,
        expected=work.expected(tasks),
        available_bytes=1 << 30,
        open_files=(100, 1024),
    )


def verdicts(name: str, trial: Trial) -> dict[str, Verdict]:
    return {verdict.criterion: verdict for verdict in judge(PHASES[name][0], [trial])}


@pytest.mark.parametrize("name", PHASES)
def test_a_perfect_run_holds_every_criterion(name: str) -> None:
    found = verdicts(name, good_trial(name))
    assert all(verdict.passed for verdict in found.values()), [str(v) for v in found.values() if not v.passed]


def test_every_criterion_is_applied_in_phase_3() -> None:
    assert set(verdicts("hybrid-708", good_trial("hybrid-708"))) == {criterion.name for criterion in CRITERIA}


def report(**changes: Any) -> Callable[[Trial], Trial]:
    return lambda trial: replace(trial, report=replace(trial.report, **changes))


def results(change: Callable[[list[Result]], Sequence[Result]]) -> Callable[[Trial], Trial]:
    return lambda trial: replace(trial, results=change(list(trial.results)))


def lie(result: Result) -> Result:
    return replace(result, result={**result.result, "lines": result.result["lines"] + 1})


BROKEN: list[tuple[str, str, Callable[[Trial], Trial], str]] = [
    ("delivery", "flat-100", results(lambda found: found[:94]), "wanted >= 95.000 % (reference), measured 94.949 %"),
    ("every task delivered", "flat-100", results(lambda found: found[1:]), "measured 98.989 % (missing module-01)"),
    ("every task delivered", "flat-100", results(lambda found: [*found[1:], found[1]]), "measured 98.989 %"),
    (
        "every task delivered",
        "flat-100",
        results(lambda found: [*found[1:], replace(found[0], task_id="other")]),
        "98.989 %",
    ),
    ("the report counts the same", "flat-10", results(lambda found: found[1:]), "wanted 8 (ours), measured 9"),
    (
        "every task ok",
        "flat-10",
        results(lambda found: [replace(found[0], status="failed"), *found[1:]]),
        "wanted 9 (ours), measured 8",
    ),
    (
        "answers unlike the direct computation",
        "flat-10",
        results(lambda found: [lie(found[0]), *found[1:]]),
        "wanted 0 (ours), measured 1 (module-1)",
    ),
    (
        "answers unlike the direct computation",
        "flat-10",
        results(lambda found: found[2:]),
        "measured 2 (module-1, module-2)",
    ),
    ("totals", "flat-10", results(lambda found: [lie(found[0]), *found[1:]]), "lines"),
    ("coordination time", "flat-100", report(coordination_s=5.0), "wanted < 5 s (reference), measured 5 s"),
    ("coordination time", "hybrid-300", report(coordination_s=12.34), "wanted < 12 s (reference), measured 12.34 s"),
    ("coordination time", "tree-2000", report(coordination_s=31.5), "wanted < 25 s (ours), measured 31.50 s"),
    ("coordination time", "flat-10", report(coordination_s=None), "measured unknown"),
    ("coordination time", "flat-10", report(coordination_s=math.nan), "measured nan"),
    ("mesh pings answered", "hybrid-300", report(mesh_answered=41), "wanted 42 of 42 (reference), measured 41 of 42"),
    (
        "mesh pings answered",
        "hybrid-300",
        report(mesh_pings=0, mesh_answered=0),
        "wanted 42 of 42 (reference), measured 0 of 0",
    ),
    ("agents lost", "hybrid-300", report(workers_lost=2), "wanted 0 (reference), measured 2 (2 workers)"),
    ("agents lost", "hybrid-300", report(coordinators_lost=["coord-b"]), "measured 1 (coord-b)"),
    ("how it ended", "hybrid-300", report(ended="deadline"), "wanted finished (ours), measured deadline"),
    (
        "processes and mailboxes left",
        "flat-10",
        lambda trial: replace(trial, orphans=["mailbox r1.w001"]),
        "wanted 0 (reference), measured 1 (mailbox r1.w001)",
    ),
    ("agents planned", "hybrid-708", report(planned=707, peak_living=707), "wanted 708 (ours), measured 707"),
    ("agents alive at once", "hybrid-708", report(peak_living=700), "wanted 708 (ours), measured 700"),
    ("sequence gaps", "flat-10", report(gaps=1), "wanted 0 (ours), measured 1"),
    (
        "memory of all processes",
        "hybrid-708",
        report(peak_memory_bytes=1 << 30),
        "wanted < 1,024 MiB (reference), measured 1,024 MiB",
    ),
    ("memory of all processes", "hybrid-708", report(peak_memory_bytes=None), "measured unknown"),
    ("memory of all processes", "hybrid-708", lambda trial: replace(trial, available_bytes=None), "wanted < unknown"),
    (
        "open files of a coordinator",
        "hybrid-708",
        lambda trial: replace(trial, open_files=(1024, 1024)),
        "wanted < 1,024 (reference), measured 1,024",
    ),
    ("open files of a coordinator", "hybrid-708", lambda trial: replace(trial, open_files=None), "measured unknown"),
]


@pytest.mark.parametrize(
    ("criterion", "step", "break_it", "told"), BROKEN, ids=[f"{row[0]}: {row[3]}" for row in BROKEN]
)
def test_a_broken_run_fails_the_criterion_and_says_wanted_and_measured(
    criterion: str, step: str, break_it: Callable[[Trial], Trial], told: str
) -> None:
    verdict = verdicts(step, break_it(good_trial(step)))[criterion]
    assert not verdict.passed
    assert told in str(verdict)


def test_every_criterion_has_a_run_that_breaks_it() -> None:
    assert {row[0] for row in BROKEN} == {criterion.name for criterion in CRITERIA}


def test_a_site_that_cannot_see_descriptors_is_excused_and_says_so() -> None:
    verdict = verdicts("hybrid-708", replace(good_trial("hybrid-708"), open_files=None, sees_files=False))[
        "open files of a coordinator"
    ]
    assert verdict.passed
    assert not verdict.known
    assert verdict.measured == "not visible on this site"


def test_of_several_runs_of_a_step_the_failing_one_is_told() -> None:
    phase, _ = PHASES["isolation-250"]
    fine = good_trial("isolation-250")
    broken = replace(fine, report=replace(fine.report, gaps=3))
    found = {verdict.criterion: verdict for verdict in judge(phase, [fine, broken, fine])}
    assert (found["sequence gaps"].passed, found["sequence gaps"].measured) == (False, "3")


def test_of_several_good_runs_the_slowest_is_told() -> None:
    phase, _ = PHASES["isolation-250"]
    fine = good_trial("isolation-250")
    slower = replace(fine, report=replace(fine.report, coordination_s=6.5))
    found = {verdict.criterion: verdict for verdict in judge(phase, [fine, slower, fine])}
    assert (found["coordination time"].passed, found["coordination time"].measured) == (True, "6.50 s")


# ---------------------------------------------------------------- isolation

TEAMS = "abcde"


def timed(normal_s: float, *, jitter_s: float = 0.002, late_s: float = 0.0, **by_team: float) -> list[Result]:
    """49 results a team: task times around `normal_s` (or the team's own), started `late_s` after the first."""
    return [
        Result(
            task_id=f"{team}-{n}",
            status="ok",
            team=team,
            duration_s=by_team.get(team, normal_s) + jitter_s * ((n * 7) % 11 - 5) / 5,
            started_at=1_700_000_000.0 + (late_s if n else 0.0),
        )
        for team in TEAMS
        for n in range(49)
    ]


def isolation(before: list[Result], beside: list[Result], after: list[Result]) -> dict[str, Verdict]:
    found = judge_isolation(compare([before, after], [beside], slow_team="c", factor=10.0))
    return {verdict.criterion: verdict for verdict in found}


def test_a_slow_team_that_nobody_notices_is_isolated() -> None:
    found = isolation(timed(0.2), timed(0.201, c=2.0), timed(0.202))
    assert all(verdict.passed for verdict in found.values()), [str(verdict) for verdict in found.values()]


def test_a_team_that_was_not_slowed_proves_nothing() -> None:
    found = isolation(timed(0.2), timed(0.2), timed(0.2))
    assert not found["team c is slowed"].passed
    assert not found["noise against what a coupled team would show"].passed


def test_another_team_whose_tasks_take_longer_is_named() -> None:
    verdict = isolation(timed(0.2), timed(0.2, c=2.0, d=0.3), timed(0.2))["other teams' median task time"]
    assert not verdict.passed
    assert "team d: 200 ms -> 300 ms" in str(verdict)


def test_tasks_handed_out_late_show_in_the_finish_time_alone() -> None:
    found = isolation(timed(0.2), timed(0.2, c=2.0, late_s=0.9), timed(0.2))
    assert found["other teams' median task time"].passed
    assert not found["other teams' median finish time"].passed


def test_what_two_normal_runs_differ_by_is_noise() -> None:
    found = isolation(timed(0.2), timed(0.3, c=2.0), timed(0.35))
    assert found["other teams' median task time"].passed


def test_noise_as_large_as_the_effect_proves_nothing() -> None:
    found = isolation(timed(0.2), timed(1.0, c=2.0), timed(1.9))
    assert not found["noise against what a coupled team would show"].passed


def test_harm_in_one_round_of_three_is_chance_and_harm_in_two_is_harm() -> None:
    normal = [timed(0.2)] * 4
    harmed, fine = timed(0.4, c=2.0), timed(0.2, c=2.0)
    for beside, unchanged in (([harmed, fine, fine], True), ([harmed, harmed, fine], False)):
        found = compare(normal, beside, slow_team="c", factor=10.0)
        assert found.worst(found.task).unchanged is unchanged


def test_runs_with_different_teams_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different teams"):
        compare([timed(0.2), timed(0.2)], [timed(0.2)[49:]], slow_team="c", factor=10.0)
    with pytest.raises(ValueError, match="2 results say no start"):
        bare = [replace(result, started_at=None) for result in timed(0.2)[:2]]
        compare([timed(0.2), timed(0.2)], [[*bare, *timed(0.2)[2:]]], slow_team="c", factor=10.0)


def test_tasks_are_only_told_apart_by_id() -> None:
    twice = Task(task_id="x")
    trial = replace(good_trial("flat-10"), tasks=[twice], expected={"x": {}}, results=[])
    assert trial.unanswered == ["x"] == trial.wrong
