"""Measurements in pairs: floor, cfn, floor, cfn ... so that whatever else the machine does falls on both sides.

A sample is one block's values by figure. The ratio of a figure is the median of the ratios of its pairs, not the ratio of
its medians: a pair was measured within seconds, and on a busy machine only that comparison holds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of what was measured."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])

    def __str__(self) -> str:
        return f"{digits(self.median)} ({digits(self.least)}-{digits(self.most)})"


@dataclass(kw_only=True)
class Figure:
    """One line of the report. A pair has None where this machine cannot measure that side; `floor_is` says why then."""

    section: str
    key: str
    what: str
    unit: str
    floor_is: str
    pairs: list[tuple[float | None, float | None]] = field(default_factory=list)

    def take(self, ours: float | None, floor: float | None, scale: float = 1.0) -> None:
        """Add one pair, each value times `scale`."""
        self.pairs.append((None if ours is None else ours * scale, None if floor is None else floor * scale))

    @property
    def ours(self) -> list[float]:
        return [ours for ours, _ in self.pairs if ours is not None]

    @property
    def floor(self) -> list[float]:
        return [floor for _, floor in self.pairs if floor is not None]

    @property
    def ratios(self) -> list[float]:
        return [ours / floor for ours, floor in self.pairs if ours is not None and floor]

    def to_dict(self) -> dict[str, Any]:
        return {
            "section": self.section,
            "key": self.key,
            "what": self.what,
            "unit": self.unit,
            "floor_is": self.floor_is,
            "cfn": _to_dict(self.ours),
            "floor": _to_dict(self.floor),
            "ratio": _to_dict(self.ratios),
        }


def _to_dict(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    spread = Spread.of(values)
    return {"median": spread.median, "min": spread.least, "max": spread.most, "values": values}


def interleave(pairs: int, floor: Callable[[], Sample], ours: Callable[[], Sample]) -> list[tuple[Sample, Sample]]:
    """(ours, floor) of each pair; the floor is measured first."""
    taken = []
    for _ in range(pairs):
        below = floor()
        taken.append((ours(), below))
    return taken


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them lie, by the nearest rank."""
    known = sorted(values)
    return known[max(0, math.ceil(share * len(known)) - 1)]


def digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"
