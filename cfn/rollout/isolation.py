"""Is a team left alone when another one is slow? Three runs, compared team by team.

The same tasks go to the same teams three times: normal, with one team slowed, normal again. Two times are looked at, each by
its median over a team's tasks: how long a task took (**task time**), and when it was finished, counted from the first task
of the run (**finish time**: a dispatcher held up by the slow team would show here and not in the task time).

Noise is what two equal runs differ by, so it is measured, not assumed. For a team and a time, with a1, a2 the medians of the
normal runs, b the one beside the slow team:

* shift = b - mean(a1, a2); only a positive shift is harm.
* noise = max(|a1 - a2|, 3 standard errors of the shift). The standard error of a median is 1.2533 sigma / sqrt(n), and
  sigma is taken from the median absolute deviation (x 1.4826), which outliers on a busy machine do not move.
* allowed = max(noise, `RATIO` x mean(a1, a2)).

That proves something only if the slow team *is* slow, and if what is allowed is small against what it was slowed by:
:attr:`Isolation.slowdown` and :attr:`Isolation.resolution` are criteria as much as the shifts are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any, Final

from cfn.swarm.task import Result

#: A shift below this part of the normal median is no harm, however quiet the machine was.
RATIO: Final = 0.25
_MAD_TO_SIGMA: Final = 1.4826  # for a normal distribution
_MEDIAN_ERROR: Final = 1.2533  # sqrt(pi / 2): efficiency of the median against the mean
_ERRORS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One team's median in the three runs, seconds."""

    team: str
    before_s: float
    beside_s: float  # while another team was slow
    after_s: float
    noise_s: float

    @property
    def normal_s(self) -> float:
        return fmean((self.before_s, self.after_s))

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
    """What the three runs say. `task` and `finish` hold every team, the slow one too."""

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
    before: Sequence[Result], beside: Sequence[Result], after: Sequence[Result], *, slow_team: str, factor: float
) -> Isolation:
    """Compare three runs of the same tasks, `beside` being the one with the slow team.

    Raises: ValueError where a team is missing in a run or tasks carry no start: nothing can be compared then.
    """
    runs = (before, beside, after)
    task = [_by_team(run, [result.duration_s for result in run]) for run in runs]
    finish = [_by_team(run, _finished(run)) for run in runs]
    teams = sorted(task[0])
    if slow_team not in teams or len(teams) < 2:
        raise ValueError(
            f"team {slow_team!r} and another one are needed; the first run had {', '.join(teams) or 'none'}"
        )
    for named in task[1:]:
        if sorted(named) != teams:
            raise ValueError(f"the runs had different teams: {', '.join(teams)} and {', '.join(sorted(named))}")
    return Isolation(
        slow_team=slow_team,
        factor=factor,
        task={team: _shift(team, *(times[team] for times in task)) for team in teams},
        finish={team: _shift(team, *(times[team] for times in finish)) for team in teams},
    )


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


def _shift(team: str, before: list[float], beside: list[float], after: list[float]) -> Shift:
    normal_error = max(_error(before), _error(after))
    return Shift(
        team=team,
        before_s=median(before),
        beside_s=median(beside),
        after_s=median(after),
        noise_s=max(abs(median(before) - median(after)), _ERRORS * math.hypot(normal_error, _error(beside))),
    )


def _error(times: list[float]) -> float:
    """Standard error of the median, robustly."""
    middle = median(times)
    deviation = median([abs(time_s - middle) for time_s in times])
    return _MEDIAN_ERROR * _MAD_TO_SIGMA * deviation / math.sqrt(len(times))


def _plain(shift: Shift) -> dict[str, Any]:
    plain = {name: round(value, 6) for name, value in asdict(shift).items() if name != "team"}
    return {
        **plain,
        "shift_s": round(shift.shift_s, 6),
        "allowed_s": round(shift.allowed_s, 6),
        "unchanged": shift.unchanged,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
