"""A phase from its first step to its report, on a site that answers at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from staged_site import StagedSite, report_with

from cfn.errors import Exit, RunError, UnfitHost, UnfitPlace
from cfn.rollout import record, steps
from cfn.rollout.phases import Outcome, describe, run_phase
from cfn.rollout.sites import StepPlan
from cfn.swarm.task import Report, Result


def rolled_out(name: str, site: StagedSite) -> tuple[Outcome, list[str]]:
    phase = steps.phase(name)
    said: list[str] = []
    return run_phase(phase, phase.steps, site, said.append), said


@pytest.mark.parametrize("name", ["phase1", "phase2", "phase3"])
def test_a_phase_in_which_everything_holds_passes(name: str) -> None:
    site = StagedSite()
    outcome, said = rolled_out(name, site)
    assert outcome.passed, outcome.verdict
    assert outcome.exit_code == Exit.OK
    assert len(said) == 1 + len(steps.phase(name).steps)  # the head of the table, and a line a step
    assert len({plan.run_id for plan in site.plans}) == len(site.plans)
    assert all(len(plan.run_id) <= 12 for plan in site.plans)


def test_plans_carry_the_shape_of_the_step() -> None:
    site = StagedSite()
    rolled_out("phase3", site)
    tree = site.plans[-1]
    assert (tree.topology, tree.agents, tree.coordinators, tree.workers_per_coordinator, tree.depth) == (
        "tree",
        1950,
        7,
        47,
        3,
    )
    assert tree.function == "cfn.rollout.work:digest"
    assert tree.deadline_s >= 60


def test_the_phase_stops_at_the_first_step_that_fails_and_says_which_criterion() -> None:
    def late(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        return results, replace(report, coordination_s=14.2 if plan.agents == 244 else 0.5)

    site = StagedSite(late)
    outcome, said = rolled_out("phase2", site)
    assert [judged.step.name for judged in outcome.judged] == ["hybrid-150", "hybrid-250"]
    assert len(site.plans) == 2
    assert outcome.exit_code == Exit.ERROR
    told = "coordination time: wanted < 12 s (reference), measured 14.20 s (the whole call took 0.8 s)"
    assert outcome.verdict == f"phase2 failed at step hybrid-250: {told}"
    assert said[-1] == f"  FAILED {told}"


def test_a_master_that_crashes_fails_the_step() -> None:
    def crash(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        raise RunError("the master ended with signal 9")

    outcome, _ = rolled_out("phase1", StagedSite(crash))
    assert outcome.exit_code == Exit.ERROR
    assert "the swarm runs: wanted to its end (reference), measured the master ended with signal 9" in outcome.verdict
    assert json.dumps(record.to_dict(outcome))


def test_a_host_that_cannot_carry_it_ends_with_5_and_what_was_measured_is_kept() -> None:
    def unfit(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        if plan.agents > 20:
            raise UnfitHost("nofile is 64: raise it")
        return results, report

    outcome, _ = rolled_out("phase1", StagedSite(unfit))
    assert outcome.exit_code == Exit.UNFIT
    assert [judged.passed for judged in outcome.judged] == [True]
    assert "nofile is 64" in outcome.verdict
    assert not outcome.passed


def test_an_interrupt_keeps_the_steps_that_ended() -> None:
    def interrupt(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        if plan.agents > 20:
            raise KeyboardInterrupt
        return results, report

    outcome, _ = rolled_out("phase1", StagedSite(interrupt))
    assert outcome.exit_code == Exit.INTERRUPTED
    assert "interrupted: 1 of 3 steps passed" in outcome.verdict


def test_the_isolation_step_runs_three_times_and_slows_one_team_in_the_second() -> None:
    site = StagedSite()
    outcome, _ = rolled_out("phase2", site)
    before, beside, after = site.tasks[-3:]
    assert not any("slow" in task.payload for task in (*before, *after))
    slowed = [task for task in beside if "slow" in task.payload]
    assert {task.team for task in slowed} == {"c"}
    assert len(slowed) in (48, 49)
    assert [task.team for task in beside] == [task.team for task in after]
    assert outcome.judged[-1].isolation is not None


def test_teams_that_wait_for_the_slow_one_fail_the_phase() -> None:
    def coupled(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        if any(result.duration_s > 1.0 for result in results):
            results = [
                replace(result, started_at=(result.started_at or 0) + 1.5 * (n > 0)) for n, result in enumerate(results)
            ]
        return results, report

    outcome, _ = rolled_out("phase2", StagedSite(coupled))
    assert len(outcome.judged[-1].trials) == 7, "harm is looked at in three rounds"
    assert outcome.failed is not None
    assert (outcome.failed[0].name, outcome.failed[1].criterion) == ("isolation-250", "other teams' median finish time")


def test_a_run_that_lost_a_team_is_not_compared_but_fails_by_what_it_lost() -> None:
    def lossy(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        if any(result.duration_s > 1.0 for result in results):
            results = [result for result in results if result.team != "b"]
        return results, report

    site = StagedSite(lossy)
    outcome, _ = rolled_out("phase2", site)
    judged = outcome.judged[-1]
    assert len(judged.trials) == 2
    assert judged.isolation is None
    assert judged.failed is not None
    assert judged.failed.criterion == "delivery"


def test_results_without_teams_cannot_prove_isolation() -> None:
    def teamless(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        return [replace(result, team=None) for result in results], report

    outcome, _ = rolled_out("phase2", StagedSite(teamless))
    assert outcome.failed is not None
    assert "two are needed" in outcome.failed[1].measured


def test_what_is_left_behind_fails_the_step() -> None:
    outcome, _ = rolled_out("phase1", StagedSite(left=["process 4711 (python3)"]))
    assert outcome.failed is not None
    assert "process 4711" in outcome.verdict


def test_the_record_survives_json_and_names_the_failure(tmp_path: Path) -> None:
    outcome, _ = rolled_out("phase1", StagedSite(report_with(gaps=2)))
    as_json, as_page = record.write(record.to_dict(outcome), tmp_path)
    stored = json.loads(as_json.read_text("utf-8"))
    assert stored["failed"]["criterion"] == "sequence gaps"
    assert stored["passed"] is False
    assert stored["steps"][0]["runs"][0]["expected"] == stored["steps"][0]["runs"][0]["measured"]
    assert as_page.read_text("utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_folder_that_cannot_hold_a_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnfitPlace, match="choose another --report-dir"):
        record.make_folder(tmp_path / "file" / "reports")


def test_describing_a_phase_runs_nothing() -> None:
    phase = steps.phase("phase3")
    described = describe(phase, phase.steps[2:])
    assert [(step["number"], step["shape"]) for step in described["steps"]] == [
        (3, "1 master + 7 coordinators + 700 workers"),
        (4, "1 master + 7 coordinators + 42 sub-coordinators + 1950 workers"),
    ]
