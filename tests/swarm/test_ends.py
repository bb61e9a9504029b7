"""How runs end when something is killed, stopped or cancelled: partial results, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from cfn import Swarm, Task
from cfn.bus.filebus import FileBus
from cfn.settings import Settings, state_dir
from cfn.swarm import janitor, runs

Left = Callable[[str], None]


def naps(n: int, s: float = 60) -> list[Task]:
    return [Task(task_id=f"t{i}", payload={"s": s}) for i in range(n)]


def pid_of(root: str, settings: Settings, agent: str) -> int:
    with FileBus(root, settings) as bus:
        return bus.agent(agent).pid


def test_a_worker_that_is_killed_has_its_task_done_again(
    tmp_path: Path, swarm_settings: Settings, nothing_left: Left
) -> None:
    swarm = Swarm(function="swarm_bodies:die_once", topology="flat", agents=2, settings=swarm_settings)
    with swarm.run([Task(task_id=f"t{i}", payload={"mark": str(tmp_path / str(i))}) for i in range(2)]) as run:
        results = list(run)
    assert {r.status for r in results} == {"ok"}
    assert {r.attempt for r in results} == {2}
    assert run.report is not None
    assert run.report.workers_lost == 2
    nothing_left(run.run_id)


def test_a_task_that_kills_its_workers_is_given_up_as_lost(swarm_settings: Settings, nothing_left: Left) -> None:
    with Swarm(function="swarm_bodies:die", topology="flat", agents=1, settings=swarm_settings).run(
        [Task(task_id="t")]
    ) as run:
        (result,) = list(run)
    assert (result.status, result.attempt) == ("lost", 3)
    assert "signal 9" in (result.reason or "")
    nothing_left(run.run_id)


def test_a_hung_worker_is_known_and_replaced(swarm_settings: Settings, nothing_left: Left) -> None:
    quick = swarm_settings.replace(heartbeat=0.2)
    with Swarm(function="swarm_bodies:stop", topology="flat", agents=1, settings=quick).run([Task(task_id="t")]) as run:
        (result,) = list(run)
    assert result.status == "lost"
    nothing_left(run.run_id)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_coordinator_means_partial_results(
    signum: int, bus_root: str, swarm_settings: Settings, nothing_left: Left
) -> None:
    quick = swarm_settings.replace(heartbeat=0.2)
    swarm = Swarm(function="swarm_bodies:sleep", topology="hybrid", coordinators=2, agents=4, settings=quick)
    with swarm.run([Task(task_id=f"t{i}", payload={"s": 2.0}) for i in range(4)]) as run:
        until(lambda: bool(run.poll() or run.progress.alive))
        os.kill(pid_of(bus_root, quick, f"{run.run_id}.coord-a"), signum)
        results = list(run)
    report = run.report
    assert report is not None
    assert report.coordinators_lost == [f"{run.run_id}.coord-a"]
    assert report.exit_code == 4
    assert len(results) == 2
    assert {r.team for r in results} == {"b"}
    assert len(report.missing) == 2
    assert all("coord-a" in entry["reason"] for entry in report.missing)
    nothing_left(run.run_id)


def test_cancel_ends_a_run_within_two_seconds(swarm_settings: Settings, nothing_left: Left) -> None:
    swarm = Swarm(command=["sleep", "60"], topology="hybrid", coordinators=2, agents=8, settings=swarm_settings)
    with swarm.run(naps(20)) as run:
        until(lambda: bool(run.poll() or run.progress.alive))
        began = time.monotonic()
        run.cancel()
        results = list(run)
        assert time.monotonic() - began < 2.0
    assert run.report is not None
    assert run.report.ended == "cancelled"
    assert run.report.exit_code == 130
    assert {r.status for r in results} <= {"cancelled"}
    assert {r.task_id for r in results} | {m["task_id"] for m in run.report.missing} == {f"t{i}" for i in range(20)}
    nothing_left(run.run_id)


def test_survivors_of_a_killed_master_leave_nothing_behind(
    bus_root: str, swarm_settings: Settings, nothing_left: Left
) -> None:
    swarm = Swarm(command=["sleep", "60"], topology="hybrid", coordinators=2, agents=6, settings=swarm_settings)
    with swarm.run(naps(6)) as run:
        until(lambda: bool(run.poll() or run.progress.alive))
        until(lambda: len(janitor.processes_of(run.run_id)) >= 6)
        os.kill(pid_of(bus_root, swarm_settings, f"{run.run_id}.master"), signal.SIGKILL)
        nothing_left(run.run_id)
        list(run)
    assert run.report is not None
    assert run.report.exit_code == 4


_CALLER = """
import sys
from cfn import Swarm, Task, settings
found = settings.load({"message_base_dir": sys.argv[1], "state_dir": sys.argv[2]}, env={})
run = Swarm(command=["sleep", "60"], topology="hybrid", coordinators=2, agents=6, settings=found).run(
    [Task(task_id=f"t{i}") for i in range(6)]
)
print(run.run_id, flush=True)
list(run)
"""


@contextlib.contextmanager
def _caller(bus_root: str, settings: Settings):  # type: ignore[no-untyped-def]
    process = subprocess.Popen(
        [sys.executable, "-c", _CALLER, bus_root, str(state_dir(settings))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        run = process.stdout.readline().strip()
        until(lambda: len(janitor.processes_of(run)) >= 6)
        yield process, run
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_killed_caller_takes_its_swarm_along(bus_root: str, swarm_settings: Settings, nothing_left: Left) -> None:
    with _caller(bus_root, swarm_settings) as (process, run):
        process.kill()
        process.wait()
        nothing_left(run)


def test_when_all_died_at_once_the_next_command_clears_up(
    bus_root: str, swarm_settings: Settings, nothing_left: Left
) -> None:
    with _caller(bus_root, swarm_settings) as (process, run):
        with FileBus(bus_root, swarm_settings) as bus:
            pids = {info.agent: info.pid for info in bus.agents() if info.run == run}
        workers = [pid for agent, pid in pids.items() if ".w" in agent]
        leaders = [pid for agent, pid in pids.items() if ".coord-" in agent and ".w" not in agent]
        leaders += [pids[f"{run}.master"], process.pid]
        assert (len(workers), len(leaders)) == (6, 2 + 1 + 1)
        for pid in leaders:
            os.kill(pid, signal.SIGSTOP)  # so that none can act on the death of another
        for pid in [*workers, *leaders]:  # children first: a stopped orphan would get SIGHUP, and its command with it
            os.kill(pid, signal.SIGKILL)
        process.wait()
        until(lambda: any(dead == run for dead, _ in runs.dead_runs(swarm_settings)))
        assert janitor.processes_of(run), "the commands were meant to survive"
        assert janitor.clear_dead_runs(swarm_settings) == [run]
        nothing_left(run)
        assert not list(runs.dead_runs(swarm_settings))


def test_a_lost_coordinator_deep_in_a_tree_is_told_to_the_master(
    bus_root: str, swarm_settings: Settings, nothing_left: Left
) -> None:
    swarm = Swarm(function="swarm_bodies:sleep", topology="tree", coordinators=2, agents=8, settings=swarm_settings)
    with swarm.run([Task(task_id=f"t{i}", payload={"s": 2.0}) for i in range(8)]) as run:
        until(lambda: bool(run.poll() or run.progress.alive))
        for sub in ("a.a", "a.b"):
            os.kill(pid_of(bus_root, swarm_settings, f"{run.run_id}.coord-{sub}"), signal.SIGKILL)
        results = list(run)
    report = run.report
    assert report is not None
    assert sorted(report.coordinators_lost) == [f"{run.run_id}.coord-a.a", f"{run.run_id}.coord-a.b"]
    assert report.exit_code == 4
    assert {r.team for r in results if r.status == "ok"} == {"b"}
    assert {r.status for r in results if r.team == "a"} == {"lost"}
    assert len(results) == 8
    nothing_left(run.run_id)


def test_a_run_leaves_no_word_of_its_own_among_the_dead_letters(bus_root: str, swarm_settings: Settings) -> None:
    """ "cancel" to a worker that has just left is no letter that anybody must look at; what others wrote is kept."""
    with FileBus(bus_root, swarm_settings) as bus:
        master = bus.register("r1.master")
        stranger = bus.register("stranger")
        for worker in ("r1.w001", "r1.w002", "r12.w001"):
            bus.register(worker)
            master.send(worker, "cancel", {}, priority="control")
        stranger.send("r1.w002", "cancel", {}, priority="control")
        master.send("r1.w002", "task", {})
        for worker in ("r1.w001", "r1.w002", "r12.w001"):
            bus.remove(worker)
        bus.forget_control("r1")
        kept = [(letter.agent, letter.sender, letter.message.type) for letter in bus.dead() if letter.message]
        assert sorted(kept) == [
            ("r1.w002", "r1.master", "task"),
            ("r1.w002", "stranger", "cancel"),
            ("r12.w001", "r1.master", "cancel"),
        ]
        for letter in bus.dead():
            os.unlink(os.path.join(bus.root, ".cfn", "dead", letter.letter))
        for _ in range(3):
            with Swarm(command=["true"], agents=4, topology="flat", pool=True, settings=swarm_settings).run(
                [Task(task_id=f"t{n}") for n in range(200)]
            ) as run:
                next(run)
                run.cancel()
                list(run)
        assert bus.dead() == []
