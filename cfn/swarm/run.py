"""A swarm and its runs, as a program sees them.

    with Swarm(command=["wc", "-l", "{path}"], agents=300).run(tasks) as run:
        for result in run:
            ...
    print(run.report.delivery_rate)

The master is a child process; this side only reads the ledger that it writes. When this process ends, however it ends, the
kernel closes the master's lifeline and the whole swarm goes with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cfn.bus.capabilities import can_fork
from cfn.bus.filebus import FileBus
from cfn.errors import AgentGone, CfnError, InboxFull, TaskError, UsageError
from cfn.message import check_agent_id, load_json
from cfn.settings import Settings, load
from cfn.swarm import capacity, children, janitor, topology
from cfn.swarm.body import Body
from cfn.swarm.children import Child, Lifeline
from cfn.swarm.master import Master, Policy
from cfn.swarm.runs import RunFolder, new_run_id
from cfn.swarm.task import Report, Result, Task

_LOOK_S: Final = 0.02  # where the ledger's growth cannot wake us
_CLEAR_S: Final = 2.0  # survivors of a killed master remove processes and mailboxes within this time


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is now."""

    total: int
    done: int
    failed: int  # of done: every status but ok
    alive: int  # agents at the barrier; 0 before it
    planned: int
    elapsed_s: float

    @property
    def left(self) -> int:
        return self.total - self.done

    @property
    def rate(self) -> float:
        """Results a second so far."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0


class Swarm:
    """What to run, and with how many. Numbers that are not given come from the settings and the tasks; see docs/run.md.

    `command`: arguments with placeholders. `function`: a callable of one Task, or ``module:name``. Exactly one of the two.
    `halt`: ``("now" | "soon", failures)``. `results_dir`: keeps every task's stdout and stderr in ``<dir>/<task id>/``.
    `plain`: a command's result is its text exactly, not parsed. `join`: the coordinators of the first level join from outside.
    Raises: UsageError for what contradicts itself.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] | None = None,
        function: Callable[[Task], Any] | str | None = None,
        shell: bool = False,
        topology: str = "auto",
        agents: int | None = None,
        coordinators: int | None = None,
        workers_per_coordinator: int | None = None,
        teams: Sequence[str] | None = None,
        depth: int | None = None,
        pool: bool = False,
        batch: int | None = None,
        timeout_s: float | None = None,
        retries: int = 0,
        halt: tuple[str, int] | None = None,
        rate: float | None = None,
        deadline_s: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        results_dir: str | None = None,
        plain: bool = False,
        bus_dir: str | None = None,
        settings: Settings | None = None,
        run_id: str | None = None,
        join: bool = False,
    ) -> None:
        if (command is None) == (function is None):
            raise UsageError("give a swarm either a command or a function")
        if command is not None and not command:
            raise UsageError("the command is empty: give its program and arguments")
        if join and callable(function):
            raise UsageError("coordinators that join from outside need the function by name: 'module:function'")
        for name, value in (("timeout_s", timeout_s), ("rate", rate), ("deadline_s", deadline_s)):
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value!r} does not fit: use a number above 0")
        if retries < 0:
            raise UsageError(f"retries={retries!r} does not fit: use 0 or more")
        self._settings = load() if settings is None else settings
        self._body = Body(
            command=None if command is None else tuple(command),
            function=function,
            shell=shell,
            pool=pool,
            batch=self._settings.batch if batch is None else batch,
            timeout_s=timeout_s,
            retries=retries,
            env=dict(env or {}),
            cwd=cwd,
            results_dir=results_dir,
            plain=plain,
        )
        self._shape = (topology, coordinators, workers_per_coordinator, teams, depth)
        self._agents = agents
        self._policy = (deadline_s, rate, halt, join)
        self._bus_dir = bus_dir
        self._run_id = run_id

    def plan(self, tasks: Sequence[Task]) -> topology.Plan:
        """Who there will be for these tasks. Raises: UsageError."""
        shape, coordinators, most, teams, depth = self._shape
        named = {task.team for task in tasks if task.team is not None}
        agents = self._agents or max(capacity.default_agents(len(tasks), self._settings), len(named), len(teams or ()))
        if teams is None and named:
            shape = "hybrid" if shape in ("auto", "flat") else shape
            teams = _teams_for(sorted(named), agents, coordinators, self._settings)
            coordinators = None
        planned = topology.plan(agents, shape, coordinators, most, teams, depth, self._settings)
        for task in tasks:
            if task.team is not None and task.team not in planned.teams:
                raise TaskError(
                    f"task {task.task_id!r} is for team {task.team!r}, which is not among the teams {', '.join(planned.teams)}",
                    line=task.number,
                    source=None,
                )
        return planned

    def run(self, tasks: Iterable[Task]) -> Run:
        """Start; iterate over what comes back for the results, as they complete.

        Raises: UsageError (plan, duplicate ids), UnfitPlace, BusFull. Nothing was started then.
        """
        work = _numbered(tasks)
        plan = self.plan(work)
        deadline_s, rate, halt, join = self._policy
        if deadline_s is None:
            deadline_s = capacity.default_deadline_s(plan.agents, len(work), self._body.timeout_s, self._settings)
        policy = Policy(
            deadline_s=deadline_s, rate=rate, halt=halt, join=join, measure=bool(self._settings.metrics_enabled)
        )
        run_id = check_agent_id(self._run_id or new_run_id())
        return Run(plan, run_id, self._body, policy, work, self._bus_dir, self._settings)


class Run(Iterator[Result]):
    """One run: an iterator of results in completion order, and a context manager that cancels what is not finished."""

    def __init__(
        self,
        plan: topology.Plan,
        run_id: str,
        body: Body,
        policy: Policy,
        tasks: list[Task],
        bus_dir: str | None,
        settings: Settings,
    ) -> None:
        self.run_id = run_id
        self.plan = plan
        self.deadline_s = policy.deadline_s
        self.report: Report | None = None  # once the iterator has ended
        self._settings = settings
        self._total = len(tasks)
        self._done = self._failed = self._alive = 0
        self._ready: deque[Result] = deque()
        self._tail = b""
        self._offset = 0
        janitor.clear_dead_runs(settings)
        self._bus = FileBus(bus_dir, settings)
        self._folder = RunFolder(settings, run_id)
        if self._folder.path.exists():
            raise UsageError(
                f"--run-id {run_id}: a run of that name is recorded in {self._folder.path}; choose another"
            )
        self._folder.make(
            (task.to_dict() for task in tasks), {"run": run_id, "bus": self._bus.root, "tasks": len(tasks)}
        )
        body = body.replace(spill_dir=str(self._folder.outputs))
        self._began = time.monotonic()
        self._lifeline: Lifeline | None = None
        self._wake_fd: int | None = None
        self._child = self._start(plan, body, policy, tasks)
        self._children = {self._child.pid: self._child}

    def _start(self, plan: topology.Plan, body: Body, policy: Policy, tasks: list[Task]) -> Child:
        args = (plan, self.run_id, body, policy, tasks, self._folder, self._began)
        fork = can_fork(self._settings.without)
        if fork and threading.active_count() == 1:
            body = _warmed(body, plan, policy)
            self._lifeline = Lifeline()
            self._wake_fd, wake = os.pipe()
            os.set_blocking(wake, False)
            try:
                return children.fork_child(
                    "master", self._lifeline, forked_master, self._bus, wake, plan, self.run_id, body, *args[3:]
                )
            finally:
                os.close(wake)
        try:
            return children.spawn_child("master", spawned_master, self._bus.root, self._settings, fork, *args)
        except (AttributeError, TypeError) as error:  # what pickle says of a lambda or a local function
            raise UsageError(
                f"this process has threads or cannot fork, so the function must be importable by name ({error})"
            ) from None

    # ------------------------------------------------------------ results

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Result:
        while not self._ready:
            if self.report is not None:
                raise StopIteration
            self._wait()
        return self._ready.popleft()

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        """Results that came since the last call, after at most `timeout_s`; look at `report` for the end."""
        if not self._ready and self.report is None:
            self._wait(timeout_s)
        ready = list(self._ready)
        self._ready.clear()
        return ready

    @property
    def progress(self) -> Progress:
        return Progress(
            self._total, self._done, self._failed, self._alive, self.plan.planned, time.monotonic() - self._began
        )

    def _wait(self, timeout_s: float = 0.25) -> None:
        ended = False
        if self._wake_fd is not None:
            if select.select([self._wake_fd], [], [], timeout_s)[0]:
                ended = not os.read(self._wake_fd, 4096)
        else:
            time.sleep(min(_LOOK_S, timeout_s))
        if not self._lives():
            ended = True
        self._read()
        if ended:
            self._end()

    def _read(self) -> None:
        """Whole new lines of the ledger."""
        with open(self._folder.ledger, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            entry = load_json(line)
            if "event" in entry:
                if entry["event"] == "alive":
                    self._alive = entry["living"]
                continue
            result = Result(**entry)
            self._done += 1
            self._failed += result.status != "ok"
            self._ready.append(result)

    def _end(self) -> None:
        if self._children:
            for child in children.wait_for_end(self._children, _CLEAR_S):
                self._child = child
        self._read()
        found = self._folder.read_report()
        self.report = Report.from_dict(found) if found is not None else self._report_of_the_dead()
        self._release()

    def _report_of_the_dead(self) -> Report:
        """The master died without a report: its survivors clear the house, we count what the ledger has."""
        end = time.monotonic() + _CLEAR_S
        while time.monotonic() < end and any(a.startswith(f"{self.run_id}.") for a in self._bus.agent_ids()):
            time.sleep(_LOOK_S)
        janitor.clear_run(self.run_id, self._bus.root, self._settings)
        elapsed_s = time.monotonic() - self._began
        return Report(
            run=self.run_id,
            topology=self.plan.topology,
            agents=self.plan.agents,
            coordinators=self.plan.coordinators,
            planned=self.plan.planned,
            tasks=self._total,
            delivered=self._done,
            delivery_rate=self._done / self._total if self._total else 1.0,
            counts={"ok": self._done - self._failed},
            missing=[
                {
                    "task_id": None,
                    "reason": f"the master died (exit code {self._child.code}); {self._total - self._done} tasks",
                }
            ],
            coordinators_lost=[f"{self.run_id}.master"],
            wall_s=round(elapsed_s, 6),
            ended="coordinator-lost",
        )

    # ------------------------------------------------------------ the end

    def cancel(self) -> None:
        """End the run now; go on iterating for what was finished. Harmless when it has ended."""
        if self.report is None:
            with contextlib.suppress(AgentGone):  # it ended by itself this instant
                send_cancel(self._bus, self.run_id, self._lives)

    def _lives(self) -> bool:
        children.reap_only(self._children)
        return bool(self._children)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is not finished and wait for its end (2 s)."""
        if self.report is None:
            with contextlib.suppress(CfnError, OSError):  # what cannot be told is killed
                self.cancel()
            end = time.monotonic() + 2 * _CLEAR_S
            while self.report is None and time.monotonic() < end:
                self._wait(0.1)
            if self.report is None:
                self._child.kill()
                self._end()
        self._release()

    def _release(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        if self._wake_fd is not None:
            os.close(self._wake_fd)
            self._wake_fd = None
        self._bus.close()


def send_cancel(bus: FileBus, run_id: str, lives: Callable[[], bool]) -> None:
    """Tell the master of a run to cancel; while `lives`, a master that is not registered yet is waited for (2 s).

    Raises: AgentGone when there is no such master.
    """
    caller = f"canceller-{os.urandom(4).hex()}"
    mailbox = bus.register(caller, role="canceller")
    try:
        end = time.monotonic() + 2.0
        while True:
            try:
                mailbox.send(f"{run_id}.master", "cancel", {}, priority="control", timeout_s=1.0)
                return
            except (AgentGone, InboxFull):
                if not lives() or time.monotonic() >= end:
                    raise
            time.sleep(_LOOK_S)
    finally:
        mailbox.remove()


def _numbered(tasks: Iterable[Task]) -> list[Task]:
    import dataclasses

    out: list[Task] = []
    seen: set[str] = set()
    for place, task in enumerate(tasks, 1):
        if not isinstance(task, Task):
            raise UsageError(f"tasks must be cfn.Task objects, number {place} is {type(task).__name__}")
        if task.task_id in seen:
            raise TaskError(
                f"the task id {task.task_id!r} is there twice; ids are idempotency keys", line=place, source=None
            )
        seen.add(task.task_id)
        out.append(task if task.number else dataclasses.replace(task, number=place))
    return out


def _teams_for(named: list[str], agents: int, coordinators: int | None, settings: Settings) -> list[str]:
    """The teams that tasks name, and lettered ones up to the number of coordinators."""
    width = max(len(named), min(coordinators or settings.coordinators, agents))
    others = (topology.letters(n) for n in range(width + len(named)))
    taken = {name.lower() for name in named}
    return [*named, *[name for name in others if name not in taken][: width - len(named)]]


def _warmed(body: Body, plan: topology.Plan, policy: Policy) -> Body:
    """With the function imported, so that forks inherit it; for coordinators that join from outside it stays a name."""
    warm = body.warm()  # a name that cannot be imported is the caller's error in either case
    return body if policy.join and plan.root.children else warm


def forked_master(
    lifeline: int, bus: FileBus, wake_fd: int, plan: topology.Plan, run: str, body: Body, policy: Policy, tasks: list[Task],
    folder: RunFolder, began: float,
) -> None:  # fmt: skip
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # an agent's stdin is its task; the caller's stays the caller's
    os.dup2(2, 1)  # the caller's stdout is the stream of results: what agents print goes to stderr
    os.close(null)
    _lead(lifeline, bus.reborn(), wake_fd, True, plan, run, body, policy, tasks, folder, began)


def spawned_master(
    lifeline: int, root: str, settings: Settings, fork: bool, plan: topology.Plan, run: str, body: Body, policy: Policy,
    tasks: list[Task], folder: RunFolder, began: float,
) -> None:  # fmt: skip
    os.dup2(2, 1)
    warm = _warmed(body, plan, policy) if fork else body
    _lead(lifeline, FileBus(root, settings), None, fork, plan, run, warm, policy, tasks, folder, began)


def _lead(
    lifeline: int, bus: FileBus, wake_fd: int | None, fork: bool, plan: topology.Plan, run: str, body: Body, policy: Policy,
    tasks: list[Task], folder: RunFolder, began: float,
) -> None:  # fmt: skip
    held = folder.hold(bus.root)
    master = Master(
        bus, plan, run, body, policy, tasks, folder, began=began, lifeline=lifeline, wake_fd=wake_fd, fork=fork
    )
    master.lead()
    master.finish_report()
    folder.let_go(held)
    with contextlib.suppress(OSError):
        bus.close()
