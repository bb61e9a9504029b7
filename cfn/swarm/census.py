"""Counting the living and what they weigh, from outside: by their locks and by the kernel's books."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cfn.bus.registry import read_record

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

#: Processes that are weighed; the rest is taken to weigh the same. 0.2 ms each.
_SAMPLE: Final = 40


def living_agents(bus: FileBus, run: str) -> list[str]:
    """Agents of the run whose `alive` lock is held now. 8 µs each."""
    return [agent for agent in bus.agent_ids() if agent.startswith(f"{run}.") and bus.is_alive(agent)]


def memory_bytes(bus: FileBus, agents: list[str]) -> int | None:
    """Proportional set size (proc_pid_smaps(5)) of all these agents' processes, from a sample; None where it cannot be had."""
    if not agents or not os.path.exists("/proc/self/smaps_rollup"):
        return None
    host = os.uname().nodename
    step = max(1, len(agents) // _SAMPLE)
    sizes: list[int] = []
    for agent in agents[::step]:
        try:
            record = read_record(bus.agent_path(agent))
            if record["host"] == host:
                sizes.append(_pss(int(record["pid"])))
        except (OSError, ValueError, KeyError):
            continue
    return round(sum(sizes) / len(sizes) * len(agents)) if sizes else None


def _pss(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss of {pid}")
