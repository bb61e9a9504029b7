"""The site `containers`: a step's master in one container, each of its teams in another, one tmpfs volume as their bus.

Guarantees: a step's containers and its volume are gone when :meth:`ContainerSite.run_step` returns or raises. What the
run left behind inside them (processes and mailboxes) was looked for before that, and :meth:`ContainerSite.orphans` tells.

Steps: all containers are started; ``cfn run --join`` in the master's and ``cfn coordinate`` in every team's; the master
ends with its report; the teams have a grace to end by themselves; leftovers are counted in every container. Everything
between this process and a container is an ``exec`` and two files, so the engine may run on another machine.

Cost beside the run itself: 1.6 s for eight containers, 0.3 s to look for leftovers; making the image, once a change of
cfn, 10 s (and 25 s more for the base image, once).
"""

from __future__ import annotations

import concurrent.futures
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cfn.errors import RunError, UnfitHost
from cfn.rollout import engine, fleet, image
from cfn.swarm import topology
from cfn.swarm.task import Report, Result, Task

if TYPE_CHECKING:
    from cfn.rollout.sites import StepPlan
    from cfn.settings import Settings

MASTER: Final = "master"
TASKS: Final = "/job/tasks.jsonl"
REPORT: Final = "/job/report.json"
#: The mark that tells a run's processes from others; cfn.rollout.leftovers looks for it.
RUN_VARIABLE: Final = "CFN_RUN"
#: Beyond a run's own deadline, before its master is taken for hung: it has to gather what it has and to tidy up.
OVERTIME_S: Final = 30.0
#: Where a container's control group tells its peak: version 2, version 1.
PEAKS: Final = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")
#: How long coordinators may take to end after their master has (promise 7: survivors are done within 2 s).
GRACE_S: Final = 5.0
#: One-shot computations in the image: parsing the whole standard library takes 2 s.
COMPUTE_TIMEOUT_S: Final = 300.0


class ContainerSite:
    """Swarms in containers of this host's engine. A context manager; a ``Site`` of :mod:`cfn.rollout.sites`.

    Making one makes sure that it can work: Raises :class:`~cfn.errors.UnfitHost` where testcontainers is not installed,
    no engine answers, or the image cannot be made.
    """

    name = "containers"

    def __init__(self, settings: Settings | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        fleet.check()
        self._image = image.ensure(say)
        self._say = say
        self._settings = settings
        self._label = f"site-{uuid.uuid4().hex[:12]}"
        self._orphans: dict[str, list[str]] = {}
        self._modules: tuple[str, ...] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine.sweep(run=self._label)

    def modules(self) -> Sequence[str]:
        """Modules of the standard library in the image."""
        if self._modules is None:
            self._modules = tuple(json.loads(self._compute(["modules"])))
        return self._modules

    def expected(self, tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
        """The direct computation by the image's interpreter: task id -> answer."""
        lines = "".join(json.dumps(task.to_dict()) + "\n" for task in tasks)
        answer: dict[str, dict[str, Any]] = json.loads(self._compute(["expected"], lines.encode()))
        return answer

    def orphans(self, run_id: str) -> list[str]:
        """What the run left in its containers when it had ended."""
        if run_id not in self._orphans:
            raise RunError(f"run {run_id} did not end here, so nothing is known of what it left", run=run_id)
        return self._orphans[run_id]

    def run_step(self, plan: StepPlan, tasks: Sequence[Task]) -> tuple[list[Result], Report]:
        """Run the swarm to its end. Raises: RunError (master lost, hung or refused), EngineError."""
        teams = _teams(plan)
        limit_s = plan.deadline_s + OVERTIME_S
        with fleet.Fleet(plan.run_id, self._image, timeout_s=limit_s) as crew:
            crew.start(MASTER, *(f"team-{team}" for team in teams))
            crew.put(MASTER, TASKS, _task_lines(tasks))
            with concurrent.futures.ThreadPoolExecutor(1 + len(teams)) as pool:
                try:
                    ended = self._conduct(crew, pool, plan, teams, limit_s)
                    answer = crew.execute(MASTER, ["cat", REPORT])
                    self._orphans[plan.run_id] = _leftovers(crew)
                    memory_bytes = _peak_memory(crew)
                finally:
                    crew.kill()  # the pool waits for what still runs in them
        if answer.exit_code != 0:
            raise RunError(
                f"the master of run {plan.run_id} ended with exit code {ended.exit_code} and no report: "
                f"{ended.last_words}",
                run=plan.run_id,
            )
        results, report = _read(plan.run_id, ended.stdout, answer.stdout)
        report.peak_memory_bytes = memory_bytes
        return results, report

    def _conduct(
        self,
        crew: fleet.Fleet,
        pool: concurrent.futures.Executor,
        plan: StepPlan,
        teams: Sequence[str],
        limit_s: float,
    ) -> fleet.Ran:
        """The master to its end, and its teams; what became of the master. A team that stays is found as left over."""
        mark = {RUN_VARIABLE: plan.run_id}
        master = pool.submit(crew.execute, MASTER, _master(plan, bool(teams)), mark)
        coordinators = {
            team: pool.submit(crew.execute, f"team-{team}", _coordinator(plan.run_id, team), mark) for team in teams
        }
        try:
            ended = master.result(limit_s)
        except TimeoutError:
            raise RunError(
                f"the master of run {plan.run_id} did not end within {limit_s:g} s", run=plan.run_id
            ) from None
        concurrent.futures.wait(coordinators.values(), GRACE_S)
        for team, running in coordinators.items():
            if not running.done():
                self._say(f"team {team} of run {plan.run_id} did not end with its master")
            elif (ran := running.result()).exit_code != 0:
                self._say(f"team {team} of run {plan.run_id} ended with exit code {ran.exit_code}: {ran.last_words}")
        return ended

    def _compute(self, arguments: Sequence[str], stdin: bytes = b"") -> str:
        labels = {engine.OWNER_LABEL: engine.OWNER, engine.RUN_LABEL: self._label}
        try:
            return engine.docker(
                *("run", "--rm", "--interactive", "--network", "none"),
                *(f"--label={name}={value}" for name, value in labels.items()),
                *(self._image, "python", "-m", "cfn.rollout.work", *arguments),
                stdin=stdin,
                timeout_s=COMPUTE_TIMEOUT_S,
            )
        except engine.EngineError as error:
            raise UnfitHost(f"the image {self._image} cannot compute what agents should answer: {error}") from None


def _teams(plan: StepPlan) -> tuple[str, ...]:
    """The teams by name, as the master will plan them; none in a flat swarm, whose workers are the master's own."""
    return topology.plan(plan.agents, plan.topology, plan.coordinators, plan.workers_per_coordinator).teams


def _master(plan: StepPlan, join: bool) -> list[str]:
    options: Mapping[str, object] = {
        "run-id": plan.run_id,
        "topology": plan.topology,
        "agents": plan.agents,
        "coordinators": plan.coordinators,
        "workers-per-coordinator": plan.workers_per_coordinator,
        "deadline": f"{plan.deadline_s:g}",
        "call": plan.function,
        "tasks": TASKS,
        "report": REPORT,
    }
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return ["cfn", "run", *(["--join"] if join else []), *given]


def _coordinator(run_id: str, team: str) -> list[str]:
    return ["cfn", "coordinate", "--run", run_id, "--team", team]


def _task_lines(tasks: Sequence[Task]) -> bytes:
    """Task lines as `cfn run` reads them: the payload's keys beside the task's own."""
    lines = []
    for task in tasks:
        own = {name: value for name, value in task.to_dict().items() if name not in ("payload", "number")}
        lines.append(json.dumps({**task.payload, **own}))
    return "".join(f"{line}\n" for line in lines).encode()


def _leftovers(crew: fleet.Fleet) -> list[str]:
    """Processes of the run in each container that still runs, and its mailboxes on the bus that they share."""
    found: dict[str, None] = {}
    for name, ran in crew.every(["python", "-m", "cfn.rollout.leftovers", crew.run]).items():
        if ran.exit_code != 0:
            found[f"container {name}, which could not be looked into: {ran.last_words}"] = None
            continue
        for what in json.loads(ran.stdout):
            found[what if what.startswith("mailbox ") else f"{what} in container {name}"] = None
    return list(found)


def _peak_memory(crew: fleet.Fleet) -> int | None:
    """The most memory that each container ever had, by its control group, added up: an upper bound of what all had at once.

    The master cannot know: it sees the processes of its own container. Files of the bus are in it. None where the kernel
    does not tell (version 2 of control groups before Linux 5.19).
    """
    peaks = crew.every(["sh", "-c", f"cat {' '.join(PEAKS)} 2>/dev/null | head -n 1"])
    found = [int(ran.stdout) for ran in peaks.values() if ran.stdout.strip().isdigit()]
    return sum(found) if found and len(found) == len(peaks) else None


def _read(run_id: str, lines: str, report: str) -> tuple[list[Result], Report]:
    try:
        results = [Result.from_dict(json.loads(line)) for line in lines.splitlines()]
        return results, Report.from_dict(json.loads(report))
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"the answer of run {run_id} cannot be read: {error}", run=run_id) from None
