"""A swarm on a host that has no room, no descriptor or no time for a while: it goes on when there is, and loses nothing."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from cfn import Swarm, Task
from cfn.bus import registry
from cfn.bus.filebus import FileBus
from cfn.bus.files import Folder
from cfn.settings import Settings
from cfn.swarm import coordinator

#: More than one look at an inbox takes.
AGENTS = 70
Left = Callable[[str], None]


def refuse(*args: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("topology", ["flat", "hybrid"])
def test_a_bus_that_is_full_for_a_while_loses_no_result(
    topology: str, tmp_path: Path, swarm_settings: Settings, nothing_left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tenth write of every process finds no room."""
    create = Folder.create
    calls = 0

    def sometimes(self: Folder, name: str, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls % 10 in (1, 2):
            refuse()
        create(self, name, data)

    monkeypatch.setattr(Folder, "create", sometimes)
    swarm = Swarm(function="swarm_bodies:echo", topology=topology, agents=6, deadline_s=30, settings=swarm_settings)
    run = swarm.run([Task(task_id=f"t{i}") for i in range(30)])
    results = list(run)
    assert run.report is not None
    assert run.report.ended == "finished"
    assert {r.status for r in results} == {"ok"}
    assert {r.attempt for r in results} == {1}
    nothing_left(run.run_id)


@pytest.mark.parametrize("step", ["register", "record the pid"])
def test_agents_that_find_no_room_at_first_are_started_later(
    step: str, swarm_settings: Settings, nothing_left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third agent finds no room, once: those prepared before it are taken back, and their names are free again."""
    calls = 0
    module, name = (FileBus, "prepare") if step == "register" else (registry, "_write")
    real = getattr(module, name)

    def sometimes(*args: Any, **options: Any) -> Any:
        nonlocal calls
        ours = step == "register" or ("/new/" in str(args[0]) and not str(args[0]).endswith("/agent.json"))
        calls += ours
        return refuse() if ours and calls == 3 else real(*args, **options)

    monkeypatch.setattr(module, name, sometimes)
    swarm = Swarm(function="swarm_bodies:echo", topology="flat", agents=8, deadline_s=30, settings=swarm_settings)
    with swarm.run([Task(task_id=f"t{i}") for i in range(8)]) as run:
        results = list(run)
    assert run.report is not None
    assert run.report.ended == "finished"
    assert {r.status for r in results} == {"ok"}
    assert run.report.peak_living == 9
    nothing_left(run.run_id)


def test_results_that_were_sent_before_their_workers_ended_are_read_before_the_dead_are_judged(
    bus_root: str, tmp_path: Path, swarm_settings: Settings, nothing_left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(task: Task) -> None:
        (tmp_path / f"begun-{task.task_id}").touch()
        time.sleep(2.0)

    monkeypatch.setattr(coordinator, "_READ", 2)
    swarm = Swarm(function=body, topology="flat", agents=AGENTS, deadline_s=30, settings=swarm_settings)
    with swarm.run([Task(task_id=f"t{i}") for i in range(AGENTS)]) as run:
        until(lambda: len(list(tmp_path.glob("begun-*"))) == AGENTS)
        with FileBus(bus_root, swarm_settings) as bus:
            master = bus.agent(f"{run.run_id}.master").pid
            os.kill(master, signal.SIGSTOP)
            until(lambda: bus.agent_ids() == [f"{run.run_id}.master"])
            os.kill(master, signal.SIGCONT)
        results = list(run)
    assert run.report is not None
    assert [r.attempt for r in results] == [1] * AGENTS
    assert run.report.workers_lost == 0
    nothing_left(run.run_id)


def test_a_coordinator_that_slept_through_its_leases_does_nothing_twice(
    swarm_settings: Settings, nothing_left: Left
) -> None:
    swarm = Swarm(function="swarm_bodies:echo", topology="flat", agents=1, deadline_s=30, settings=swarm_settings)
    master_handle = coordinator.Coordinator._handle

    def slow(self: Any, delivery: Any) -> None:
        if delivery.message.type == "result" and delivery.attempt == 1:
            delivery.renew(0.001)
            time.sleep(0.01)
            self.bus.sweep()
        master_handle(self, delivery)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator.Coordinator, "_handle", slow)
        with swarm.run([Task(task_id="t")]) as run:
            results = list(run)
    assert [r.status for r in results] == ["ok"]
    assert run.report is not None
    assert (run.report.ended, run.report.duplicates) == ("finished", 0)
    nothing_left(run.run_id)


def test_an_agent_that_stops_before_it_is_ready_is_known(
    swarm_settings: Settings, nothing_left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = coordinator.forked_worker
    mark = tmp_path / "mark"

    def stopped(*args: Any) -> None:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        real(*args)

    monkeypatch.setattr(coordinator, "forked_worker", stopped)
    quick = swarm_settings.replace(heartbeat=0.2)
    swarm = Swarm(function="swarm_bodies:echo", topology="flat", agents=2, deadline_s=20, settings=quick)
    with swarm.run([Task(task_id="a"), Task(task_id="b")]) as run:
        results = list(run)
    assert {r.status for r in results} == {"ok"}
    nothing_left(run.run_id)


def test_an_agent_that_died_takes_no_retry_from_its_task(tmp_path: Path, swarm_settings: Settings) -> None:
    def body(task: Task) -> str:
        tries = len(list(tmp_path.glob("try*")))
        (tmp_path / f"try{tries}").touch()
        if tries == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if tries == 1:
            raise ValueError
        return "done"

    swarm = Swarm(function=body, topology="flat", agents=1, retries=1, settings=swarm_settings)
    with swarm.run([Task(task_id="t")]) as run:
        (result,) = list(run)
    assert (result.status, result.attempt) == ("ok", 3)
