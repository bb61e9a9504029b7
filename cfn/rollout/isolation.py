"""Is a team left alone when another one is slow? Runs with and without a slow team, compared team by team.

The same tasks go to the same teams in turn: normal, with one team slowed, normal again. Two times are looked at, each by its
median over a team's tasks: how long a task took (**task time**), and when it was finished, counted from the first task of
the run (**finish time**: a dispatcher held up by the slow team would show here and not in the task time).

Noise is what equal runs differ by, so it is measured, not assumed. For a team and a time, with the medians of the runs:

* normal = their median over the normal runs, beside = the same over the runs beside the slow team.
* shift = beside - normal; only a positive shift is harm.
* noise = max(range of the normal runs, 3 standard errors of the shift). The standard error of a median is
  1.2533 sigma / sqrt(n), and sigma is taken from the median absolute deviation (x 1.4826), which outliers on a busy
  machine do not move.
* allowed = max(noise, `RATIO` x normal).

That proves something only if the slow team *is* slow, and if what is allowed is small against what it was slowed by:
:attr:`Isolation.slowdown` and :attr:`Isolation.resolution` are criteria as much as the shifts are. Where the load of the
machine changes between the runs, more rounds (slow, normal) tell chance from harm: a run is added, none is ever left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from cfn.swarm.task import Result

#: A shift below this part of the normal median is no harm, however quiet the machine was.
RATIO: Final = 0.25
_MAD_TO_SIGMA: Final = 1.4826  # for a normal distribution
_MEDIAN_ERROR: Final = 1.2533  # sqrt(pi / 2): efficiency of the median against the mean
_ERRORS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One team's medians, seconds, a run each."""

    team: str
    normal: tuple[float, ...]
    beside: tuple[float, ...]  # while another team was slow
    noise_s: float

    @property
    def normal_s(self) -> float:
        return median(self.normal)

    @property
    def beside_s(self) -> float:
        return median(self.beside)

    @property
    def shift_s(self) -> float:
        return self.beside_s - self.normal_s

    @property
    def allowed_s(self) -> float:
        return max(self.noise_s, RATIO * self.normal_s)

    @property
    def unchanged(self) -> bool:
        return self.shift_s <= self.allowed_s

    def __str__(self) -> str:
        return f"team {self.team}: {_ms(self.normal_s)} -> {_ms(self.beside_s)}, allowed +{_ms(self.allowed_s)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What the runs say. `task` and `finish` hold every team, the slow one too."""

    slow_team: str
    factor: float
    task: dict[str, Shift]
    finish: dict[str, Shift]

    def others(self, shifts: dict[str, Shift]) -> list[Shift]:
        return [shift for team, shift in shifts.items() if team != self.slow_team]

    def worst(self, shifts: dict[str, Shift]) -> Shift:
        """The other team that moved most against what is allowed."""
        return max(self.others(shifts), key=lambda shift: shift.shift_s - shift.allowed_s)

    @property
    def slowdown(self) -> float:
        """How many times longer the slow team's median task took."""
        own = self.task[self.slow_team]
        return own.beside_s / own.normal_s if own.normal_s > 0 else math.inf

    @property
    def resolution(self) -> float:
        """The largest shift that would still be allowed another team, as a part of what the slow team was slowed by."""
        own = self.task[self.slow_team].shift_s
        allowed = [shift.allowed_s for shifts in (self.task, self.finish) for shift in self.others(shifts)]
        return max(allowed) / own if own > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        return {
            "slow_team": self.slow_team,
            "factor": self.factor,
            "slowdown": round(self.slowdown, 3) if math.isfinite(self.slowdown) else None,
            "resolution": round(self.resolution, 3) if math.isfinite(self.resolution) else None,
            "task": {team: _plain(shift) for team, shift in self.task.items()},
            "finish": {team: _plain(shift) for team, shift in self.finish.items()},
        }


def compare(
    normal: Sequence[Sequence[Result]], beside: Sequence[Sequence[Result]], *, slow_team: str, factor: float
) -> Isolation:
    """Compare runs of the same tasks: `normal` ones (two or more) and those `beside` the slow team (one or more).

    Raises: ValueError where a team is missing in a run or tasks carry no start: nothing can be compared then.
    """
    teams = sorted({result.team or "" for result in normal[0]})
    if slow_team not in teams or len(teams) < 2:
        raise ValueError(
            f"team {slow_team!r} and another one are needed; the first run had {', '.join(teams) or 'none'}"
        )
    for run in (*normal, *beside):
        named = sorted({result.team or "" for result in run})
        if named != teams:
            raise ValueError(f"the runs had different teams: {', '.join(teams)} and {', '.join(named)}")
    return Isolation(
        slow_team=slow_team,
        factor=factor,
        task=_shifts(teams, normal, beside, lambda run: [result.duration_s for result in run]),
        finish=_shifts(teams, normal, beside, _finished),
    )


def _shifts(
    teams: Sequence[str],
    normal: Sequence[Sequence[Result]],
    beside: Sequence[Sequence[Result]],
    times_of: Callable[[Sequence[Result]], list[float]],
) -> dict[str, Shift]:
    split = [[_by_team(run, times_of(run)) for run in runs] for runs in (normal, beside)]
    return {team: _shift(team, *([times[team] for times in runs] for runs in split)) for team in teams}


def _finished(results: Sequence[Result]) -> list[float]:
    starts = [result.started_at for result in results]
    known = [start for start in starts if start is not None]
    if len(known) < len(starts):
        raise ValueError(f"{len(starts) - len(known)} results say no start")
    first = min(known, default=0.0)
    return [start - first + result.duration_s for start, result in zip(known, results, strict=True)]


def _by_team(results: Sequence[Result], times: Iterable[float]) -> dict[str, list[float]]:
    teams: dict[str, list[float]] = {}
    for result, time_s in zip(results, times, strict=True):
        teams.setdefault(result.team or "", []).append(time_s)
    return teams


def _shift(team: str, normal: list[list[float]], beside: list[list[float]]) -> Shift:
    medians = tuple(median(times) for times in normal)
    errors = (max(_error(times) for times in runs) for runs in (normal, beside))
    return Shift(
        team=team,
        normal=medians,
        beside=tuple(median(times) for times in beside),
        noise_s=max(max(medians) - min(medians), _ERRORS * math.hypot(*errors)),
    )


def _error(times: list[float]) -> float:
    """Standard error of the median, robustly."""
    middle = median(times)
    deviation = median([abs(time_s - middle) for time_s in times])
    return _MEDIAN_ERROR * _MAD_TO_SIGMA * deviation / math.sqrt(len(times))


def _plain(shift: Shift) -> dict[str, Any]:
    return {
        "normal": [round(run_s, 6) for run_s in shift.normal],
        "beside": [round(run_s, 6) for run_s in shift.beside],
        "normal_s": round(shift.normal_s, 6),
        "beside_s": round(shift.beside_s, 6),
        "noise_s": round(shift.noise_s, 6),
        "shift_s": round(shift.shift_s, 6),
        "allowed_s": round(shift.allowed_s, 6),
        "unchanged": shift.unchanged,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
