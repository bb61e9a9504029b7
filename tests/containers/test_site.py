"""The site `containers`: what it makes of a step, and of a master or a team that goes wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

import pytest

from cfn.errors import Exit, RunError, UnfitHost
from cfn.rollout import engine, fleet, site_containers, work
from cfn.rollout.site_containers import ContainerSite
from cfn.rollout.sites import Site, StepPlan
from cfn.swarm.task import Report, Task

#: Nobody else's: other checkouts may test on this engine at the same time.
RUN = f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def site(agent_image: str, said: list[str]) -> Iterator[Site]:
    with ContainerSite(say=said.append) as made:
        yield made
    assert left() == []


def left() -> list[str]:
    """Containers and volumes of the test's run."""
    label = f"label={engine.RUN_LABEL}={RUN}"
    return [
        *engine.docker("container", "ls", "--all", "--quiet", "--filter", label).split(),
        *engine.docker("volume", "ls", "--quiet", "--filter", label).split(),
    ]


def plan(topology: str = "hybrid", agents: int = 6, coordinators: int | None = 2, deadline_s: float = 60.0) -> StepPlan:
    return StepPlan(
        topology=topology,
        agents=agents,
        coordinators=coordinators,
        workers_per_coordinator=None,
        depth=2 if coordinators else 1,
        function="cfn.rollout.work:digest",
        deadline_s=deadline_s,
        run_id=RUN,
    )


# ---------------------------------------------------------------- the interpreter in the image


def test_the_site_answers_for_the_interpreter_of_its_agents(site: Site) -> None:
    names = site.modules()
    assert "json/decoder.py" in names
    tasks = work.tasks(5, names)
    expected = site.expected(tasks)
    assert list(expected) == [task.task_id for task in tasks]
    assert [answer["module"] for answer in expected.values()] == list(names[:5])
    assert all(len(answer["sha256"]) == 64 for answer in expected.values())


def test_task_lines_are_what_a_person_would_write() -> None:
    task = Task(task_id="t1", payload={"module": "abc.py", "slow": 10}, team="b", timeout_s=5.0, number=7)
    assert json.loads(site_containers._task_lines([task])) == {
        "task_id": "t1", "team": "b", "priority": "normal", "timeout_s": 5.0, "module": "abc.py", "slow": 10,
    }  # fmt: skip


# ---------------------------------------------------------------- a swarm


#: Says in which container an agent works; laid into every container beside cfn.
WHERE = b"""
import os, time
def host(task):
    time.sleep(task.payload.get("pause_s", 0))
    return os.uname().nodename
"""
LIBRARY = "/opt/cfn/lib/python3.11/site-packages"


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> str:
    """A function that answers with the name of the container that its agent is in."""
    start = fleet.Fleet.start

    def start_with_it(crew: fleet.Fleet, *names: str) -> None:
        start(crew, *names)
        for name in names:
            crew.put(name, f"{LIBRARY}/where_am_i.py", WHERE)

    monkeypatch.setattr(fleet.Fleet, "start", start_with_it)
    return "where_am_i:host"


def test_the_agents_of_a_team_work_in_its_container_and_measure_what_the_image_has(site: Site) -> None:
    tasks = work.tasks(12, site.modules())
    results, report = site.run_step(plan("hybrid", 12, 3), tasks)
    assert {result.task_id: result.result for result in results} == site.expected(tasks)
    assert (report.ended, report.delivery_rate, report.peak_living, report.planned) == ("finished", 1.0, 16, 16)
    assert (report.mesh_pings, report.mesh_answered) == (6, 6)
    assert {name: team.ok for name, team in report.teams.items()} == {"a": 4, "b": 4, "c": 4}
    assert report.peak_memory_bytes is None or report.peak_memory_bytes > 16 << 20
    assert site.orphans(RUN) == []


@pytest.mark.parametrize(
    ("topology", "agents", "coordinators", "hosts"),
    [
        ("hybrid", 6, 2, {"a": {"team-a"}, "b": {"team-b"}}),
        ("tree", 24, 2, {"a": {"team-a"}, "b": {"team-b"}}),
        ("flat", 5, None, {"all": {"master"}}),
    ],
)
def test_each_team_has_a_container_and_a_flat_swarm_is_in_the_masters(
    site: Site, where: str, topology: str, agents: int, coordinators: int | None, hosts: dict[str, set[str]]
) -> None:
    step = dataclasses.replace(plan(topology, agents, coordinators), function=where)
    results, report = site.run_step(step, [Task(task_id=f"t{n}") for n in range(agents)])
    assert report.ended == "finished"
    found: dict[str, set[object]] = {}
    for result in results:
        assert result.status == "ok", result
        found.setdefault(result.team or "all", set()).add(result.result)
    assert found == hosts
    assert site.orphans(RUN) == []


def test_when_a_container_is_killed_the_others_finish_and_the_report_names_what_is_missing(
    site: Site, where: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = fleet.Fleet.execute

    def killed_meanwhile(
        crew: fleet.Fleet, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> fleet.Ran:
        if name == "team-b" and "coordinate" in command:
            killer = threading.Thread(target=kill_when_all_live, args=(crew,))
            killer.start()
            try:
                return execute(crew, name, command, environment)
            finally:
                killer.join()
        return execute(crew, name, command, environment)

    def kill_when_all_live(crew: fleet.Fleet) -> None:
        until = "until cfn agent list --json | grep -c '\"alive\":true' | grep -qx 9; do sleep 0.1; done"
        assert execute(crew, "master", ["timeout", "60", "sh", "-c", until]).exit_code == 0
        crew.kill("team-b")

    monkeypatch.setattr(fleet.Fleet, "execute", killed_meanwhile)
    tasks = [Task(task_id=f"t{n}", team="ab"[n % 2], payload={"pause_s": 3}) for n in range(6)]
    results, report = site.run_step(dataclasses.replace(plan("hybrid", 6, 2), function=where), tasks)
    assert {result.task_id for result in results if result.status == "ok"} == {"t0", "t2", "t4"}
    assert (report.ended, report.exit_code) == ("coordinator-lost", Exit.PARTIAL)
    assert report.coordinators_lost == [f"{RUN}.coord-b"]
    assert {entry["task_id"] for entry in report.missing} == {"t1", "t3", "t5"}
    assert any(line.startswith(f"team b of run {RUN} ended with exit code") for line in said), said
    assert site.orphans(RUN) == []


# ---------------------------------------------------------------- when something goes wrong


def instead(monkeypatch: pytest.MonkeyPatch, master: str, coordinator: str = "true") -> None:
    """Shell scripts in the places of the master's and the coordinators' commands."""
    monkeypatch.setattr(site_containers, "_master", lambda plan, join: ["sh", "-c", master])
    monkeypatch.setattr(site_containers, "_coordinator", lambda run, team: ["sh", "-c", coordinator, team])


REPORTED = f"echo '{json.dumps(Report(run=RUN, topology='hybrid', agents=6, coordinators=2, planned=9).to_dict())}'"


def test_a_master_that_ends_without_a_report_is_told_with_its_last_words(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, "echo first >&2; echo 'the bus is full' >&2; exit 6")
    with pytest.raises(RunError, match=rf"run {RUN} ended with exit code 6 and no report: the bus is full$"):
        site.run_step(plan(), work.tasks(6, ["abc.py"]))
    assert left() == []


def test_a_master_that_hangs_is_ended_beyond_its_deadline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_containers, "OVERTIME_S", 1.0)
    instead(monkeypatch, "exec sleep 600", "exec sleep 600")
    began = time.monotonic()
    with pytest.raises(RunError, match=rf"the master of run {RUN} did not end within 1\.5 s"):
        site.run_step(plan(deadline_s=0.5), work.tasks(6, ["abc.py"]))
    assert time.monotonic() - began < 30
    assert left() == []


def test_a_master_that_dies_is_told_and_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "kill -9 $$", "true")
    with pytest.raises(RunError, match="ended with exit code 137 and no report"):
        site.run_step(plan(), work.tasks(6, ["abc.py"]))


def test_an_answer_that_is_no_result_is_an_error_with_the_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, f"mkdir -p /job; {REPORTED} > /job/report.json; echo nonsense")
    with pytest.raises(RunError, match=f"the answer of run {RUN} cannot be read"):
        site.run_step(plan(), work.tasks(6, ["abc.py"]))


def test_what_a_run_leaves_in_a_container_is_found_before_it_is_taken_away(
    site: Site, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(site_containers, "GRACE_S", 0.5)
    stay = (
        "from cfn.bus.filebus import FileBus; import sys, time\n"
        f"box = FileBus().register('{RUN}.' + sys.argv[1], run='{RUN}'); time.sleep(600)"
    )
    instead(
        monkeypatch,
        f"setsid sleep 601 >/dev/null 2>&1 & {REPORTED} > /job/report.json;"
        f"until test -e /bus/cfn/{RUN}.b; do sleep 0.02; done",
        f'if [ $0 = b ]; then exec python -c "{stay}" b; fi',
    )
    results, report = site.run_step(plan(), work.tasks(6, ["abc.py"]))
    assert results == []
    assert report.run == RUN
    found = sorted(re.sub(r"\d+ \((\w+).*\)", r"N (\1)", line, flags=re.DOTALL) for line in site.orphans(RUN))
    assert found == [
        f"mailbox {RUN}.b",
        "process N (python) in container team-b",
        "process N (sleep) in container master",
    ]
    assert said == [f"team b of run {RUN} did not end with its master"]
    with pytest.raises(RunError, match="run other did not end here"):
        site.orphans("other")


# ---------------------------------------------------------------- when there is nothing to run on


def test_without_testcontainers_the_site_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers", None)
    for name in [name for name in sys.modules if name.startswith("testcontainers.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UnfitHost, match=r"pip install 'cfn-swarm\[containers\]'"):
        ContainerSite()


def test_without_an_engine_the_site_is_unfit_and_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setattr(engine, "status", lambda: engine.Status(False, "nobody there"))
    with pytest.raises(UnfitHost) as caught:
        ContainerSite()
    assert caught.value.exit_code == Exit.UNFIT == 5
    assert "\n" not in str(caught.value)
    assert "python -m cfn.rollout.engine start" in str(caught.value)


def test_a_team_that_fails_is_told_with_its_last_words(
    site: Site, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    instead(monkeypatch, f"{REPORTED} > /job/report.json", "test $0 = a || { echo 'no such run' >&2; exit 3; }")
    site.run_step(plan(), work.tasks(6, ["abc.py"]))
    assert said == [f"team b of run {RUN} ended with exit code 3: no such run"]
    assert site.orphans(RUN) == []


def test_a_container_that_cannot_start_is_one_line(agent_image: str) -> None:
    with (
        fleet.Fleet(RUN, "cfn-no-such-image:1") as crew,
        pytest.raises(engine.EngineError, match="starting a container failed") as caught,
    ):
        crew.start("one")
    assert "\n" not in str(caught.value)
    assert left() == []
