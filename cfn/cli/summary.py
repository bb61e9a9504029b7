"""What a run came to, for a person: a few lines on stderr after the last result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cfn.swarm.task import STATUSES, Report

_MOST_REASONS: Final = 10
_MOST_IDS: Final = 3  # spelled out per reason
_MOST_TEAMS: Final = 20
_ENDED: Final = {
    "deadline": "the deadline of {deadline_s} s passed: these results are partial (--deadline sets it)",
    "cancelled": "the run was cancelled: these results are partial",
    "halted": "the run was halted (--halt)",
    "coordinator-lost": "a coordinator was lost: these results are partial",
}


def lines(report: Report) -> Iterator[str]:
    """The summary."""
    counts = ", ".join(f"{report.counts[status]} {status}" for status in STATUSES if report.counts.get(status))
    yield (
        f"{report.delivered} of {many(report.tasks, 'task')} delivered ({rate(report)}): {counts or 'no result'}; "
        f"coordination {_seconds(report.coordination_s)}, wall {_seconds(report.wall_s)}"
        + (f", {report.results_per_s:.1f} results/s" if report.results_per_s else "")
    )
    living = f"{report.peak_living} of {report.planned} processes alive"
    spawned = f" after {_seconds(report.spawned_s)}" if report.spawned_s is not None else ""
    shape = f"{report.topology}: {many(report.agents, 'agent')}, {many(report.coordinators, 'coordinator')}"
    mesh = f", mesh {report.mesh_answered}/{report.mesh_pings}" if report.mesh_pings else ""
    lost = f", {many(report.workers_lost, 'agent')} lost" if report.workers_lost else ""
    yield f"run {report.run}: {shape}; {living}{spawned}{mesh}{lost}"
    yield from _teams(report)
    yield from _reasons("failed", [(str(f["task_id"]), f"{f['status']}: {f['reason']}") for f in report.failures])
    yield from _reasons("missing", [(str(m["task_id"] or ""), str(m["reason"])) for m in report.missing])
    for agent in report.coordinators_lost:
        yield f"lost: coordinator {agent}"
    if report.ended in _ENDED:
        yield _ENDED[report.ended].format(deadline_s=plain(report.deadline_s or 0.0))


def rate(report: Report) -> str:
    """The delivery rate; never rounded up to 100."""
    text = f"{report.delivery_rate * 100:.3f}"
    if text == "100.000" and report.delivered < report.tasks:
        text = "99.999"
    return f"{text} %"


def _teams(report: Report) -> Iterator[str]:
    if len(report.teams) < 2:
        return
    teams = list(report.teams.values())
    for team in teams[:_MOST_TEAMS]:
        median = f", median {_seconds(team.median_s)}" if team.median_s is not None else ""
        yield (
            f"team {team.team}: {many(team.agents, 'agent')}, {many(team.tasks, 'task')}, "
            f"{team.ok} ok, {team.failed} not ok{median}"
        )
    if len(teams) > _MOST_TEAMS:
        yield f"... and {len(teams) - _MOST_TEAMS} more teams (--report has them)"


def _reasons(what: str, entries: list[tuple[str, str]]) -> Iterator[str]:
    """Grouped by reason, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for task_id, reason in entries:
        groups.setdefault(reason, []).append(task_id)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    for reason, ids in ordered[:_MOST_REASONS]:
        more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
        who = f"{', '.join(ids[:_MOST_IDS])}{more}: " if any(ids) else ""  # a dead master named none
        yield f"{what}: {who}{' '.join(reason.split())[:300]}"
    if len(ordered) > _MOST_REASONS:
        yield f"... and {len(ordered) - _MOST_REASONS} more reasons (--report has them)"


def many(count: int, noun: str, plural: str | None = None) -> str:
    """The count with its noun."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def plain(seconds: float) -> str:
    """A number of seconds without an exponent: 0.004, 61.1, 4500060."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"
