"""How many agents a host carries now, and how many a run gets that names no number.

What one agent costs stands in :mod:`cfn.swarm.footprint`.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Final

from cfn.settings import Settings
from cfn.swarm import footprint

#: Commands of agents mostly wait (for a model, a compiler, a network): several fit on a core.
AGENTS_A_CORE: Final = 8


def default_agents(tasks: int, settings: Settings) -> int:
    """The number of workers of a run that names none: min(tasks, 8 a core, the host's capacity, ``max_agents``), at least 1."""
    cores = os.cpu_count() or 1
    return max(1, min(tasks, AGENTS_A_CORE * cores, capacity(), int(settings.max_agents)))


def capacity() -> int:
    """Agents that memory and the limits on processes allow now."""
    return max(1, min(_by_memory(), _by_processes()))


def default_deadline_s(agents: int, tasks: int, timeout_s: float | None, settings: Settings) -> float:
    """``max_coordination_time`` for coordination, 0.1 s an agent to start, and an hour (or the task's timeout) a round of tasks."""
    rounds = max(1, math.ceil(tasks / max(1, agents)))
    return float(settings.max_coordination_time + 0.1 * agents + rounds * (3600.0 if timeout_s is None else timeout_s))


def _by_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024 // footprint.MEMORY_BYTES
    except OSError:
        pass
    import psutil

    return int(psutil.virtual_memory().available) // footprint.MEMORY_BYTES


def _by_processes() -> int:
    limits = [limit for limit in (_rlimit(), _cgroup_pids()) if limit is not None]
    return min(limits) // footprint.PIDS if limits else 1 << 20


def _rlimit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return None if soft == resource.RLIM_INFINITY or os.geteuid() == 0 else soft


def _cgroup_pids() -> int | None:
    try:
        with open("/sys/fs/cgroup/pids.max", encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
