"""Whole runs: shapes, results, teams, retries, limits."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cfn import Result, Swarm, Task
from cfn.errors import TaskError, UsageError
from cfn.settings import Settings

Left = Callable[[str], None]


def tasks(n: int, **payload: Any) -> list[Task]:
    return [Task(task_id=f"t{i}", payload=payload) for i in range(n)]


def run_all(swarm: Swarm, work: list[Task]) -> tuple[list[Result], Any]:
    with swarm.run(work) as run:
        results = list(run)
    assert run.report is not None
    return results, run.report


@pytest.mark.parametrize(
    ("shape", "agents", "planned"),
    [("flat", 12, 13), ("hybrid", 12, 13 + 3), ("tree", 12, 13 + 3 + 6)],
)
def test_every_shape_delivers_every_task_once_with_all_agents_alive_first(
    shape: str, agents: int, planned: int, swarm_settings: Settings, nothing_left: Left
) -> None:
    coordinators = {"flat": None, "hybrid": 3, "tree": 3}[shape]
    swarm = Swarm(
        function="swarm_bodies:echo", topology=shape, agents=agents, coordinators=coordinators, settings=swarm_settings
    )
    results, report = run_all(swarm, tasks(12))
    assert Counter(r.task_id for r in results) == Counter(f"t{i}" for i in range(12))
    assert {r.status for r in results} == {"ok"}
    assert len({r.result["pid"] for r in results}) == 12, "an agent a task, each its own process"
    assert (report.peak_living, report.planned) == (planned, planned)
    assert report.delivery_rate == 1.0
    assert report.duplicates == report.gaps == report.workers_lost == 0
    if shape != "flat":
        assert report.mesh_pings == report.mesh_answered == 3 * 2
    nothing_left(report.run)


def test_more_tasks_than_agents_are_run_by_fresh_agents(swarm_settings: Settings, nothing_left: Left) -> None:
    results, report = run_all(
        Swarm(function="swarm_bodies:echo", topology="flat", agents=4, settings=swarm_settings), tasks(20)
    )
    assert len(results) == 20
    assert len({r.result["pid"] for r in results}) == 20
    nothing_left(report.run)


def test_a_pool_runs_many_tasks_in_few_processes(swarm_settings: Settings, nothing_left: Left) -> None:
    swarm = Swarm(
        function="swarm_bodies:echo", topology="hybrid", coordinators=2, agents=4, pool=True, settings=swarm_settings
    )
    results, report = run_all(swarm, tasks(200))
    assert len({r.task_id for r in results}) == 200
    assert 1 < len({r.result["pid"] for r in results}) <= 4
    nothing_left(report.run)


def test_a_command_gets_its_task_and_its_identity(swarm_settings: Settings, nothing_left: Left) -> None:
    script = """read line; printf '{"stdin": %s, "id": "%s", "agent": "%s", "to": "%s", "bus": "%s", "arg": "%s"}' \
        "$line" "$CFN_TASK_ID" "$CFN_AGENT_ID" "$CFN_COORDINATOR" "$CFN_MESSAGE_BASE_DIR" "$1" """
    swarm = Swarm(command=["sh", "-c", script, "sh", "{n}"], topology="flat", agents=2, settings=swarm_settings)
    results, report = run_all(swarm, [Task(task_id=f"t{i}", payload={"n": i}) for i in range(2)])
    for result in results:
        assert result.status == "ok", result
        got = result.result
        assert got["stdin"]["n"] == int(got["arg"])
        assert got["id"] == got["stdin"]["task_id"] == result.task_id
        assert got["agent"] == result.agent
        assert got["to"] == f"{report.run}.master"
        assert got["bus"] == swarm_settings.message_base_dir
    nothing_left(report.run)


def test_a_failed_command_is_a_failed_task_with_its_stderr(swarm_settings: Settings) -> None:
    swarm = Swarm(command=["sh", "-c", "echo why >&2; exit 3"], topology="flat", agents=1, settings=swarm_settings)
    (result,), report = run_all(swarm, tasks(1))
    assert (result.status, result.exit_code, result.stderr_tail) == ("failed", 3, "why\n")
    assert report.failures[0]["task_id"] == "t0"
    assert report.exit_code == 1


def test_tasks_go_to_the_team_that_they_name(swarm_settings: Settings) -> None:
    work = [Task(task_id=f"{team}{i}", team=team) for team in ("front", "back") for i in range(6)]
    swarm = Swarm(
        function="swarm_bodies:echo",
        topology="hybrid",
        teams=["front", "back", "rest"],
        agents=6,
        settings=swarm_settings,
    )
    results, report = run_all(swarm, work)
    assert all(r.task_id.startswith(r.team or "?") for r in results)
    assert report.teams["front"].tasks == report.teams["back"].tasks == 6
    assert report.teams["rest"].tasks == 0


def test_a_task_for_an_unknown_team_is_refused_before_anything_starts(swarm_settings: Settings) -> None:
    swarm = Swarm(function="swarm_bodies:echo", topology="hybrid", teams=["a", "b"], agents=2, settings=swarm_settings)
    with pytest.raises(TaskError, match="'c'"):
        swarm.run([Task(task_id="t", team="c")])


def test_equal_task_ids_are_refused(swarm_settings: Settings) -> None:
    with pytest.raises(UsageError, match="twice"):
        Swarm(function="swarm_bodies:echo", settings=swarm_settings).run([Task(task_id="t"), Task(task_id="t")])


def test_a_failing_task_is_tried_again_as_often_as_asked(tmp_path: Path, swarm_settings: Settings) -> None:
    swarm = Swarm(function="swarm_bodies:fail_until", topology="flat", agents=2, retries=2, settings=swarm_settings)
    work = [
        Task(task_id="third", payload={"mark": str(tmp_path / "a"), "tries": 3}),
        Task(task_id="never", payload={"mark": str(tmp_path / "b"), "tries": 9}),
    ]
    results, _ = run_all(swarm, work)
    by_id = {r.task_id: r for r in results}
    assert (by_id["third"].status, by_id["third"].attempt) == ("ok", 3)
    assert (by_id["never"].status, by_id["never"].attempt) == ("failed", 3)
    assert by_id["never"].reason == "RuntimeError: try 3"


@pytest.mark.parametrize("body", ["command", "function"])
def test_a_task_above_its_time_ends_as_timeout(body: str, swarm_settings: Settings, nothing_left: Left) -> None:
    what: Any = {"command": ["sleep", "60"]} if body == "command" else {"function": "swarm_bodies:sleep"}
    swarm = Swarm(**what, topology="flat", agents=1, timeout_s=0.3, settings=swarm_settings)
    (result,), report = run_all(swarm, tasks(1))
    assert result.status == "timeout"
    nothing_left(report.run)


def test_a_command_that_ignores_sigterm_is_ended(swarm_settings: Settings, nothing_left: Left) -> None:
    swarm = Swarm(
        command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
        topology="flat", agents=1, timeout_s=0.2, settings=swarm_settings,
    )  # fmt: skip
    (result,), report = run_all(swarm, tasks(1))
    assert result.status == "timeout"
    nothing_left(report.run)


def test_a_large_output_goes_to_a_file_with_its_digest(swarm_settings: Settings) -> None:
    import hashlib

    swarm = Swarm(command=["sh", "-c", "head -c 3000000 /dev/zero"], topology="flat", agents=1, settings=swarm_settings)
    (result,), _ = run_all(swarm, tasks(1))
    assert result.status == "ok"
    assert result.output_path is not None
    data = Path(result.output_path).read_bytes()
    assert len(data) == 3_000_000 == result.output_bytes
    assert hashlib.sha256(data).hexdigest() == result.output_sha256


def test_halt_soon_lets_the_running_ones_finish(swarm_settings: Settings) -> None:
    swarm = Swarm(function="swarm_bodies:fail", topology="flat", agents=1, halt=("soon", 2), settings=swarm_settings)
    results, report = run_all(swarm, tasks(10))
    assert report.ended == "halted"
    assert 2 <= len(results) < 10
    assert len(report.missing) == 10 - len(results)
    assert "halted" in report.missing[0]["reason"]


def test_rate_spreads_the_starts(swarm_settings: Settings) -> None:
    swarm = Swarm(function="swarm_bodies:echo", topology="flat", agents=10, rate=20, settings=swarm_settings)
    results, report = run_all(swarm, tasks(10))
    starts = sorted(r.started_at or 0 for r in results)
    assert starts[-1] - starts[0] >= 0.4, "10 tasks at 20 a second"
    assert report.counts == {"ok": 10}


def test_priority_decides_who_is_first(swarm_settings: Settings) -> None:
    work = [Task(task_id="low", priority="low"), Task(task_id="normal"), Task(task_id="high", priority="high")]
    swarm = Swarm(function="swarm_bodies:echo", topology="flat", agents=1, settings=swarm_settings)
    results, _ = run_all(swarm, work)
    assert [r.task_id for r in results] == ["high", "normal", "low"]


def test_a_deadline_gives_what_is_there_and_says_what_is_missing(swarm_settings: Settings, nothing_left: Left) -> None:
    work = [Task(task_id="quick", payload={"s": 0}), *(Task(task_id=f"long{i}", payload={"s": 60}) for i in range(3))]
    swarm = Swarm(function="swarm_bodies:sleep", topology="flat", agents=2, deadline_s=1.0, settings=swarm_settings)
    began = time.monotonic()
    results, report = run_all(swarm, work)
    assert time.monotonic() - began < 1.0 + 2.0 + 1.0
    assert report.ended == "deadline"
    assert report.exit_code == 4
    assert {r.task_id: r.status for r in results}["quick"] == "ok"
    missing = {entry["task_id"]: entry["reason"] for entry in report.missing}
    assert missing
    assert all("deadline" in reason for reason in missing.values())
    assert {r.task_id for r in results} | set(missing) == {task.task_id for task in work}
    nothing_left(report.run)


def test_an_empty_run_ends_at_once(swarm_settings: Settings, nothing_left: Left) -> None:
    results, report = run_all(Swarm(function="swarm_bodies:echo", agents=1, settings=swarm_settings), [])
    assert results == []
    assert report.ended == "finished"
    nothing_left(report.run)


def test_where_nothing_can_be_forked_processes_are_spawned(swarm_settings: Settings, nothing_left: Left) -> None:
    spawned = swarm_settings.replace(without="fork")
    swarm = Swarm(function="swarm_bodies:echo", topology="hybrid", coordinators=2, agents=2, settings=spawned)
    results, report = run_all(swarm, tasks(2))
    assert {r.status for r in results} == {"ok"}
    assert report.peak_living == report.planned == 5
    assert os.getpid() not in {r.result["pid"] for r in results}
    nothing_left(report.run)
