"""Where a step's swarm runs: the :class:`Site` protocol, the local site, and who is picked.

A site runs one swarm at a time and answers for its own interpreter: which modules it has, what the direct computation of a
list of tasks is, and what a run has left behind there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, runtime_checkable

from cfn.errors import Exit, RunError, UnfitHost, UsageError
from cfn.rollout import leftovers, work
from cfn.swarm.task import Report, Result, Task

if TYPE_CHECKING:
    from cfn.settings import Settings

SITES: Final = ("local", "containers")
#: Beyond a run's own deadline, before its master is taken for hung: it has to gather what it has and to tidy up.
_OVERTIME_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One swarm to run. `agents` counts workers; `depth` counts coordinating levels, the master's included."""

    topology: str
    agents: int
    coordinators: int | None  # of the first level
    workers_per_coordinator: int | None
    depth: int
    function: str  # "module:name", called with a Task in the agent
    deadline_s: float
    run_id: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def new_run_id() -> str:
    """Ten characters: it stands in front of every agent's name, which leaves it twelve."""
    return f"p{uuid.uuid4().hex[:9]}"


class Site(Protocol):
    """A place for swarms; a context manager that leaves nothing behind."""

    name: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def modules(self) -> Sequence[str]:
        """Modules of the standard library that the agents of this site see (:func:`cfn.rollout.work.modules` there)."""

    def run_step(self, plan: StepPlan, tasks: Sequence[Task]) -> tuple[list[Result], Report]:
        """Run the swarm to its end. Raises: UnfitHost; RunError when the swarm could not run or its master was lost."""

    def expected(self, tasks: Sequence[Task]) -> dict[str, work.Digest]:
        """The direct computation, without the bus, by the interpreter of this site's agents: task id -> answer."""

    def orphans(self, run_id: str) -> list[str]:
        """Processes and mailboxes of a run that has ended, after a grace of two seconds."""


@runtime_checkable
class SeesFiles(Protocol):
    """A site that can look into the descriptor tables of its coordinators."""

    def open_files(self, run_id: str) -> tuple[int, int] | None:
        """Most descriptors that one coordinating process of the run was seen with, and the limit of that process."""


class LocalSite:
    """Swarms as processes of this host.

    Each swarm's master is a fresh interpreter (``python -m cfn.rollout.master``) with ``CFN_RUN`` in its environment: the
    agents are forks of a small process, as they are when a user starts a swarm, and whatever is left of the run can be told
    from everything else on the host by the environment that it was started with.
    """

    name = "local"

    def __init__(
        self, settings: Settings | None = None, *, interpreter: str = sys.executable, overtime_s: float = _OVERTIME_S
    ) -> None:
        self._settings = settings
        self._interpreter = interpreter
        self._overtime_s = overtime_s
        self._open_files: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def modules(self) -> Sequence[str]:
        return work.modules()

    def expected(self, tasks: Sequence[Task]) -> dict[str, work.Digest]:
        return work.expected(tasks)

    def run_step(self, plan: StepPlan, tasks: Sequence[Task]) -> tuple[list[Result], Report]:
        asked = json.dumps({"plan": plan.to_dict(), "tasks": [task.to_dict() for task in tasks]})
        master = subprocess.Popen(
            [self._interpreter, "-m", "cfn.rollout.master"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **self._where(), leftovers.VARIABLE: plan.run_id},
            encoding="utf-8",
        )
        try:
            answer, complaint = master.communicate(asked, timeout=plan.deadline_s + self._overtime_s)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"the master of run {plan.run_id} did not end within {plan.deadline_s + self._overtime_s:g} s",
                run=plan.run_id,
            ) from None
        finally:
            _end(master)
        sys.stderr.write(complaint)  # of agents too, and worth seeing whatever became of the run
        if master.returncode == Exit.INTERRUPTED:
            raise KeyboardInterrupt
        if master.returncode != 0:
            kind = UnfitHost if master.returncode == Exit.UNFIT else RunError
            raise kind(
                f"the master of run {plan.run_id} ended with {_ending(master.returncode)}: {_last_line(complaint)}",
                run=plan.run_id,
            )
        results, report, self._open_files[plan.run_id] = read_answer(answer)
        return results, report

    def open_files(self, run_id: str) -> tuple[int, int] | None:
        return self._open_files.get(run_id)

    def orphans(self, run_id: str) -> list[str]:
        from cfn.bus.filebus import FileBus

        with FileBus(settings=self._settings) as bus:
            return leftovers.left(run_id, bus)

    def _where(self) -> dict[str, str]:
        """The bus that was asked for; everything else the master reads from the same sources as we do."""
        root = self._settings.message_base_dir if self._settings is not None else None
        return {} if root is None else {"CFN_MESSAGE_BASE_DIR": root}


def read_answer(text: str) -> tuple[list[Result], Report, tuple[int, int]]:
    """What ``cfn.rollout.master`` printed: a result a line, then the report. Raises: RunError where it is not that."""
    try:
        lines = [json.loads(line) for line in text.splitlines()]
        last = lines.pop()
        results = [Result.from_dict(line["result"]) for line in lines]
        report = Report.from_dict(last["report"])
        used, limit = last["open_files"]
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"the master's answer cannot be read: {error!r}") from None
    return results, report, (used, limit)


def pick_site(name: str | None, say: Callable[[str], None], settings: Settings | None = None) -> Site:
    """The site of that name; None: containers where an engine answers, else local, saying so in one line.

    Raises: :class:`~cfn.errors.UnfitHost` when a site that was asked for cannot be had; UsageError for an unknown name.
    """
    if name == "local":
        return LocalSite(settings)
    if name not in (None, "containers"):
        raise UsageError(f"--site {name!r} is not known: use {' or '.join(SITES)}")
    from cfn.rollout.site_containers import ContainerSite

    try:
        return ContainerSite(settings, say)
    except UnfitHost as error:
        if name is not None:
            raise
        say(f"no containers here ({error}): the site is local")
        return LocalSite(settings)


def _end(master: subprocess.Popen[str]) -> None:
    """End the master if it still runs: politely first, so that it takes its agents with it. Closes its pipes."""
    if master.poll() is None:
        master.terminate()
        try:
            master.communicate(timeout=5.0)
        except subprocess.TimeoutExpired:
            master.kill()
            master.communicate()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
