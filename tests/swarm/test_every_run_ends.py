"""Runs that nobody would end by themselves: each of these once waited for its deadline, or for ever."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from waiting import until

from cfn import Swarm, Task
from cfn.bus.filebus import FileBus
from cfn.settings import Settings
from cfn.swarm import children, janitor

Left = Callable[[str], None]
FAR_S = 30.0


@pytest.fixture
def no_worker_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = children.fork_child

    def refuse(name: str, *args: Any) -> Any:
        if ("coord" in name and ".w" not in name) or name == "master":
            return fork(name, *args)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(children, "fork_child", refuse)


def test_nothing_to_do_for_many_agents(swarm_settings: Settings, nothing_left: Left) -> None:
    swarm = Swarm(function="swarm_bodies:echo", topology="flat", agents=20, settings=swarm_settings)
    with swarm.run([]) as run:
        until(lambda: bool(run.poll(0.1) or run.report), FAR_S)
    assert run.report is not None
    assert run.report.ended == "finished"
    nothing_left(run.run_id)


def test_a_coordinator_that_never_joins(swarm_settings: Settings, nothing_left: Left) -> None:
    swarm = Swarm(
        command=["true"],
        topology="hybrid",
        coordinators=2,
        agents=2,
        deadline_s=0.5,
        join=True,
        settings=swarm_settings,
    )
    with swarm.run([Task(task_id="t")]) as run:
        until(lambda: bool(run.poll(0.1) or run.report), FAR_S)
    assert run.report is not None
    assert run.report.ended == "deadline"
    nothing_left(run.run_id)


def test_the_deadline_holds_for_what_a_halt_let_run(swarm_settings: Settings, nothing_left: Left) -> None:
    def body(task: Task) -> None:
        if task.task_id == "long":
            time.sleep(60)
        raise ValueError

    swarm = Swarm(
        function=body, topology="flat", agents=2, halt=("soon", 1), deadline_s=4.0, settings=swarm_settings
    )  # fmt: skip
    with swarm.run([Task(task_id="bad"), Task(task_id="long")]) as run:
        until(lambda: bool(run.report or (run.poll(0.1) and run.report)), FAR_S)
    assert run.report is not None
    assert run.report.ended == "halted"
    assert run.report.counts == {"failed": 1, "cancelled": 1}
    nothing_left(run.run_id)


@pytest.mark.usefixtures("no_worker_can_be_forked")
@pytest.mark.parametrize("topology", ["flat", "hybrid"])
def test_a_system_that_starts_no_agent(topology: str, swarm_settings: Settings, nothing_left: Left) -> None:
    swarm = Swarm(
        function="swarm_bodies:echo", topology=topology, agents=2, deadline_s=FAR_S, settings=swarm_settings
    )  # fmt: skip
    with swarm.run([Task(task_id="a"), Task(task_id="b")]) as run:
        results = list(run)
    report = run.report
    assert report is not None
    assert report.ended != "deadline"
    assert report.exit_code in (1, 4)
    assert len(results) + len(report.missing) == 2
    assert all("no agent could be started" in (r.reason or "") for r in results)
    nothing_left(run.run_id)


def test_a_coordinator_that_is_told_to_leave(
    bus_root: str, swarm_settings: Settings, nothing_left: Left
) -> None:  # fmt: skip
    swarm = Swarm(
        command=["sleep", "0.2"], topology="hybrid", coordinators=2, agents=4, deadline_s=FAR_S, settings=swarm_settings
    )
    with swarm.run([Task(task_id=f"t{i}") for i in range(12)]) as run:
        results = run.poll(5.0)
        until(lambda: bool(results.extend(run.poll(0.1)) or results), FAR_S)
        with FileBus(bus_root, swarm_settings) as bus:
            mailbox = bus.register("operator")
            mailbox.send(f"{run.run_id}.coord-a", "shutdown", {}, priority="control")
            mailbox.remove()
        results += list(run)
    report = run.report
    assert report is not None
    assert report.ended == "coordinator-lost"
    assert report.coordinators_lost == [f"{run.run_id}.coord-a"]
    assert len(results) + len(report.missing) == 12
    nothing_left(run.run_id)


def test_a_bus_that_is_removed_under_a_run(
    bus_root: str, swarm_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    swarm = Swarm(command=["sleep", "60"], topology="hybrid", coordinators=2, agents=4, settings=swarm_settings)
    with swarm.run([Task(task_id=f"t{i}") for i in range(4)]) as run:
        until(lambda: bool(run.poll(0.1) or run.progress.alive), FAR_S)
        shutil.rmtree(bus_root, ignore_errors=True)
        results = list(run)
    report = run.report
    assert report is not None
    assert len(results) + len(report.missing) == 4
    assert report.exit_code in (4, 130)
    assert janitor.processes_of(run.run_id) == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_program_that_ignores_its_children(swarm_settings: Settings) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Swarm(function="swarm_bodies:echo", topology="flat", agents=2, settings=swarm_settings).run(
            [Task(task_id="t")]
        ) as run:
            assert [result.status for result in run] == ["ok"]
    finally:
        signal.signal(signal.SIGCHLD, before)
