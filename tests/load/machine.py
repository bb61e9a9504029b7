"""On what it was measured, and how much else that machine had to do."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

import cfn
from cfn.bus import place

#: Share of the cores that others may use before absolute figures are called into question.
_OTHERS: Final = 0.1


@dataclass(kw_only=True)
class Machine:
    """The machine line. Loads are averages over a minute, None where the system keeps none."""

    cfn: str
    python: str
    system: str
    cores: int
    file_system: str
    folder: str
    date: str
    load_start: float | None
    load_end: float | None = None
    others_cores: float | None = None  # cores that were busy with something else while we measured

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warning": self.warning}

    @property
    def line(self) -> str:
        load = f"load {_number(self.load_start)} at the start, {_number(self.load_end)} at the end"
        others = f", other work on {self.others_cores:.1f} cores" if self.others_cores is not None else ""
        return (
            f"cfn {self.cfn}, {self.python}, {self.cores} cores, {self.system}, {self.file_system}, "
            f"{self.date}, {load}{others}"
        )

    @property
    def warning(self) -> str | None:
        """Why seconds must not be quoted from this run; None on a quiet machine.

        The load at the end counts only together with work of others: a round of 2000 agents is a load by itself.
        """
        busy = self.others_cores is None or self.others_cores > self.cores * _OTHERS
        loads = [self.load_start, self.load_end if busy else None]
        high = max((load for load in loads if load is not None), default=0.0)
        if high > self.cores:
            return f"the load was {high:.1f} on {self.cores} cores: only the ratios mean something"
        if self.others_cores is not None and busy:
            return f"other work took {self.others_cores:.1f} of {self.cores} cores: only the ratios mean something"
        return None


class Watch:
    """Looks at the machine when it is made, and again when it is asked to finish."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(
            cfn=cfn.__version__,
            python=f"{platform.python_implementation()} {platform.python_version()}",
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
            file_system=place.filesystem(str(folder)),
            folder=str(folder),
            date=time.strftime("%Y-%m-%d"),
            load_start=_load(),
        )
        self._began = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def finish(self) -> Machine:
        passed_s = time.monotonic() - self._began
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        self.machine.load_end = _load()
        self.machine.others_cores = max(0.0, others_s / passed_s) if passed_s > 0 else None
        return self.machine


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _busy_s() -> float:
    """Seconds that all cores together were not idle, since the machine started."""
    times = psutil.cpu_times()._asdict()
    guests = times.get("guest", 0.0) + times.get("guest_nice", 0.0)  # counted in user and nice as well
    idle = times["idle"] + times.get("iowait", 0.0)
    return float(sum(times.values()) - guests - idle)


def _own_s() -> float:
    """Seconds of this process and of all below it that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
