"""Tasks go in, results come out: the two records that every part of a swarm shares.

A task line is a JSON object. ``task_id``, ``team`` (or ``role``), ``priority`` and ``timeout_s`` are read; every other key is
payload and reaches the agent unchanged. A task without an id gets ``t<line>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Final, Literal

from cfn.errors import UsageError

Status = Literal["ok", "failed", "timeout", "lost", "cancelled"]
STATUSES: Final[tuple[Status, ...]] = ("ok", "failed", "timeout", "lost", "cancelled")
Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of work. `task_id` is the idempotency key: a task may run again after a kill, with the same id."""

    task_id: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    team: str | None = None
    priority: Priority = "normal"
    timeout_s: float | None = None
    number: int = 0  # 1-based position in the input; what `{#}` prints

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one task. Times are Unix seconds, durations seconds."""

    task_id: str
    status: Status
    result: Any = None  # JSON of the agent, or its text; None where it went to `output_path`
    exit_code: int | None = None  # of a command; negative: the signal that ended it
    attempt: int = 1
    agent: str | None = None
    team: str | None = None
    duration_s: float = 0.0
    started_at: float | None = None
    stderr_tail: str = ""
    reason: str | None = None  # why it is not ok, in one line
    output_path: str | None = None  # output above the message limit: where it lies ...
    output_sha256: str | None = None  # ... and its digest
    output_bytes: int | None = None
    number: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The result line: the documented fields always, the rest where it says something."""
        out: dict[str, Any] = {
            "task_id": self.task_id,
            "status": self.status,
            "result": self.result,
            "exit_code": self.exit_code,
            "attempt": self.attempt,
            "agent": self.agent,
            "team": self.team,
            "duration_s": self.duration_s,
            "stderr_tail": self.stderr_tail,
        }
        for name in ("reason", "started_at", "output_path", "output_sha256", "output_bytes"):
            value = getattr(self, name)
            if value is not None:
                out[name] = value
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """A result out of a result line. Raises: :class:`~cfn.errors.UsageError` naming what is missing or wrong."""
        if data.get("status", "ok") not in STATUSES:
            raise UsageError(f"not a result: the status {data['status']!r} is none of {', '.join(STATUSES)}")
        return cls(**_known(cls, data, "result"))


@dataclass(slots=True, kw_only=True)
class TeamReport:
    """One team in a run's report."""

    team: str
    coordinator: str
    agents: int = 0
    tasks: int = 0
    ok: int = 0
    failed: int = 0  # every status but ok
    median_s: float | None = None  # of the durations of its tasks
    first_at: float | None = None  # seconds after the first fork: first task started
    last_at: float | None = None  # seconds after the first fork: last result in the ledger

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TeamReport:
        """Raises: :class:`~cfn.errors.UsageError` naming what is missing."""
        return cls(**_known(cls, data, "team report"))


@dataclass(slots=True, kw_only=True)
class Report:
    """A run in numbers. Durations are seconds; `*_at` are seconds after the first fork."""

    run: str
    topology: str
    agents: int  # workers
    coordinators: int  # without the master
    planned: int  # processes planned to live at once: 1 + coordinators + workers
    peak_living: int = 0  # `alive` locks found held when the barrier fell
    tasks: int = 0  # ids counted from the input
    delivered: int = 0  # distinct ids in the ledger, whatever their status
    delivery_rate: float = 0.0  # delivered / tasks
    counts: dict[str, int] = field(default_factory=dict)  # status -> tasks
    spawned_s: float | None = None  # first fork to all alive
    coordination_s: float | None = None  # first fork to the last entry of the ledger
    wall_s: float | None = None  # the whole call
    deadline_s: float | None = None
    mesh_pings: int = 0  # coordinator-to-coordinator pings sent: N(N-1)
    mesh_answered: int = 0
    teams: dict[str, TeamReport] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)  # task_id, status, reason (the first 1000)
    missing: list[dict[str, Any]] = field(default_factory=list)  # task_id, reason: ids that are not in the ledger
    coordinators_lost: list[str] = field(default_factory=list)
    workers_lost: int = 0
    duplicates: int = 0  # results of ids that the ledger already had (not counted)
    gaps: int = 0
    peak_memory_bytes: int | None = None  # proportional set size of all processes at the barrier, where it can be had
    ended: str = "finished"  # finished | deadline | cancelled | halted | coordinator-lost
    results_per_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """A report out of the JSON of another process. Raises: :class:`~cfn.errors.UsageError` naming what is missing."""
        known = _known(cls, data, "report")
        known["teams"] = {name: TeamReport.from_dict(team) for name, team in data.get("teams", {}).items()}
        return cls(**known)

    @property
    def exit_code(self) -> int:
        """0 all ok; 1 some failed; 4 partial (deadline, a halt, a lost part); 130 cancelled by a signal."""
        if self.ended == "cancelled":
            return 130
        if self.missing or self.ended in ("deadline", "coordinator-lost"):
            return 4
        if self.ended == "halted" and self.counts.get("cancelled"):
            return 4
        return 0 if self.counts.get("ok", 0) == self.tasks else 1


def _known(kind: type[Result] | type[TeamReport] | type[Report], data: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of `data` that `kind` has; what a newer cfn added is left out."""
    for field_ in fields(kind):
        if field_.name not in data and field_.default is MISSING and field_.default_factory is MISSING:
            raise UsageError(f"not a {what}: the field {field_.name!r} is missing")
    return {field_.name: data[field_.name] for field_ in fields(kind) if field_.name in data}
