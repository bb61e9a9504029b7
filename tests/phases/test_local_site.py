"""The local site: real swarms of real processes, and masters that misbehave."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from staged_site import answer

from cfn.bus.filebus import FileBus
from cfn.errors import RunError, UnfitHost, UsageError
from cfn.rollout import leftovers, master, sites, steps, work
from cfn.rollout.phases import run_phase
from cfn.rollout.sites import LocalSite, StepPlan, new_run_id, pick_site, read_answer
from cfn.rollout.steps import Slowed, Step
from cfn.settings import Settings, load
from cfn.swarm.task import Report, Result, Task

PLAN = StepPlan(
    topology="hybrid",
    agents=6,
    coordinators=2,
    workers_per_coordinator=3,
    depth=2,
    function="cfn.rollout.work:digest",
    deadline_s=60.0,
    run_id="r1",
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A bus and a state folder of this test's own; the masters that it starts inherit them."""
    monkeypatch.setenv("CFN_STATE_DIR", str(tmp_path / "state"))
    return load({"message_base_dir": str(tmp_path / "bus")})


# ---------------------------------------------------------------- end to end


def test_small_swarms_of_every_shape_hold_every_criterion(settings: Settings) -> None:
    shapes = (
        Step(name="flat-5", topology="flat", total=5),
        Step(name="hybrid-12", topology="hybrid", total=12, coordinators=3),
        Step(name="tree-16", topology="tree", total=16, coordinators=2, fan=2),
    )
    phase = replace(
        steps.phase("phase3"), coordination_s=60.0, steps=shapes
    )  # what counts here is not this machine's speed
    said: list[str] = []
    with LocalSite(settings) as site:
        outcome = run_phase(phase, shapes, site, said.append)
    assert outcome.passed, "\n".join(said)
    assert [trial.report.planned for judged in outcome.judged for trial in judged.trials] == [5, 12, 16]
    with FileBus(settings=settings) as bus:
        assert bus.agents() == []


def test_a_slowed_team_is_measured_slow_in_a_real_swarm(settings: Settings) -> None:
    step = Step(name="isolation", topology="hybrid", total=11, coordinators=2, slowed=Slowed(factor=10.0, pause_s=0.1))
    phase = replace(steps.phase("phase2"), coordination_s=60.0, steps=(step,))
    with LocalSite(settings) as site:
        outcome = run_phase(phase, (step,), site, print)
    judged = outcome.judged[0]
    assert len(judged.trials) in (3, 5, 7)  # a round, and more where the machine was restless
    assert judged.isolation is not None
    assert judged.isolation.task[judged.isolation.slow_team].beside_s > 0.9
    assert {verdict.criterion for verdict in judged.verdicts if verdict.criterion.startswith("other teams")}


# ---------------------------------------------------------------- masters that misbehave

posix = pytest.mark.skipif(os.name != "posix", reason="the false interpreters are shell scripts")


def false_interpreter(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@posix
@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        ("kill -9 $$", RunError, "ended with signal 9: it said nothing"),
        (
            "echo first >&2; echo 'NoSuchRun: the last line' >&2; exit 3",
            RunError,
            "exit code 3: NoSuchRun: the last line",
        ),
        ("echo 'UnfitHost: raise nofile' >&2; exit 5", UnfitHost, "raise nofile"),
        ("echo no JSON", RunError, "cannot be read"),
        ("exit 0", RunError, "cannot be read"),
        ("echo '[]'", RunError, "cannot be read"),
    ],
)
def test_a_master_that_fails_is_told_with_its_ending_and_its_last_words(
    tmp_path: Path, script: str, error: type[Exception], told: str
) -> None:
    site = LocalSite(interpreter=false_interpreter(tmp_path, f"cat > /dev/null; {script}"))
    with pytest.raises(error, match=told):
        site.run_step(PLAN, work.tasks(2, ["ast.py"]))


@posix
def test_an_interrupted_master_interrupts_the_rollout(tmp_path: Path) -> None:
    site = LocalSite(interpreter=false_interpreter(tmp_path, "exit 130"))
    with pytest.raises(KeyboardInterrupt):
        site.run_step(PLAN, [])


@posix
def test_a_master_that_does_not_end_is_ended(tmp_path: Path) -> None:
    site = LocalSite(
        interpreter=false_interpreter(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600"), overtime_s=0.2
    )
    with pytest.raises(RunError, match="did not end within"):
        site.run_step(replace(PLAN, deadline_s=0.8), [])
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


# ---------------------------------------------------------------- the master's side


class OneRun:
    """A swarm that gives what it was given."""

    def __init__(self, results: list[Result], report: Report | None) -> None:
        self.report = report
        self._results = results

    def run(self, tasks: Iterable[Task]) -> OneRun:
        return self

    def __enter__(self) -> OneRun:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)


def test_what_a_master_writes_is_read_back_whole() -> None:
    tasks = work.tasks(6, ["ast.py"])
    results, report = answer(PLAN, tasks)
    out = io.StringIO()
    master.conduct(OneRun(results, report), tasks, out)
    again, same, (used, limit) = read_answer(out.getvalue())
    assert (again, same) == (results, report)
    assert 0 < used < limit


def test_a_run_without_a_report_is_an_error() -> None:
    with pytest.raises(RunError, match="without a report"):
        master.conduct(OneRun([], None), [], io.StringIO())


def test_the_fullest_table_counts_open_files(tmp_path: Path) -> None:
    before, limit = master.fullest_table()
    files = [(tmp_path / str(n)).open("w") for n in range(25)]
    try:
        assert master.fullest_table() == (before + 25, limit)
    finally:
        for file in files:
            file.close()


def test_run_ids_leave_room_for_the_names_of_agents() -> None:
    made = {new_run_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(run_id) <= 12 and run_id[0].isalpha() for run_id in made)


# ---------------------------------------------------------------- what is left over


def until(true: Callable[[], bool], what: str, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


@posix
def test_a_process_that_was_orphaned_is_found_by_the_environment_that_it_was_started_with() -> None:
    run_id = new_run_id()
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, time\nif os.fork() == 0:\n    os.environ.clear()\n    os.setsid()\n    time.sleep(600)",
        ],
        env={**os.environ, leftovers.VARIABLE: run_id},
    )
    assert starter.wait(30) == 0
    found = leftovers.left(run_id, None, grace_s=0.0)
    assert len(found) == 1, found
    pid = int(found[0].split()[1])
    psutil.Process(pid).kill()
    until(lambda: leftovers.processes(run_id) == [], f"process {pid} is gone")


def test_a_mailbox_of_the_run_is_found_and_one_of_another_run_is_not(settings: Settings) -> None:
    with FileBus(settings=settings) as bus:
        bus.register("r1.w001", run="r1")
        bus.register("r2.w001", run="r2")
        assert leftovers.left("r1", bus, grace_s=0.0) == ["mailbox r1.w001"]
        bus.remove("r1.w001")
        assert leftovers.left("r1", bus, grace_s=0.0) == []


def test_what_vanishes_within_the_grace_is_not_left_over(settings: Settings) -> None:
    now = [0.0]
    with FileBus(settings=settings) as bus:
        bus.register("r1.w001", run="r1")
        bus.register("r2.w001", run="r2")

        def sleep(seconds: float) -> None:
            now[0] += seconds
            if now[0] > 1.0:
                bus.remove("r1.w001")

        assert leftovers.left("r1", bus, clock=lambda: now[0], sleep=sleep) == []
        assert 1.0 < now[0] < leftovers.GRACE_S
        assert leftovers.left("r2", bus, clock=lambda: now[0], sleep=sleep) == ["mailbox r2.w001"]


# ---------------------------------------------------------------- who is picked


class NoContainers:
    def __init__(self, *args: object) -> None:
        raise UnfitHost("no container engine answers: install one")


def test_a_site_that_was_asked_for_and_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfn.rollout.site_containers.ContainerSite", NoContainers)
    with pytest.raises(UnfitHost, match="no container engine answers"):
        pick_site("containers", print)


def test_an_unset_site_falls_back_to_local_and_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfn.rollout.site_containers.ContainerSite", NoContainers)
    said: list[str] = []
    assert pick_site(None, said.append).name == "local"
    assert said == ["no containers here (no container engine answers: install one): the site is local"]


def test_an_unset_site_is_containers_where_they_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object()
    monkeypatch.setattr("cfn.rollout.site_containers.ContainerSite", lambda *args: made)
    said: list[str] = []
    assert pick_site(None, said.append) is made
    assert said == []


def test_an_unknown_site_is_named() -> None:
    with pytest.raises(UsageError, match="--site 'moon' is not known: use local or containers"):
        pick_site("moon", print)
    assert pick_site("local", print).name == "local"
    assert isinstance(LocalSite(), sites.SeesFiles)
