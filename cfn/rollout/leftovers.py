"""What a run left behind: processes and mailboxes, found from outside.

A process belongs to a run when ``CFN_RUN=<run>`` is in the environment that it was *started* with: the kernel shows that one
to others, and a fork keeps it, whatever it does to its own environment later. So a site starts the master of a run with the
variable set, and then every descendant carries it, also one that was orphaned, changed its session or its name.

A process that belongs to another user cannot be asked and is not ours. Zombies are not left over: they have ended, and it is
their parent who has not looked. ``python -m cfn.rollout.leftovers RUN`` prints the list as JSON, for a site that looks from
inside a container. Cost: 20-50 µs a process of the host.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cfn.bus.protocol import Bus

#: The mark of a run in the environment of its processes.
VARIABLE: Final = "CFN_RUN"
#: How long a run's last processes may take to vanish after its master ended (promise 7 of the design).
GRACE_S: Final = 2.0
_POLL_S: Final = 0.05


def processes(run_id: str) -> list[str]:
    """Living processes of the run, this one excepted: ``process 4711 (python3 -m ...)``."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get(VARIABLE) != run_id:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid} ({' '.join(process.cmdline())[:100] or process.name()})")
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


def mailboxes(run_id: str, bus: Bus) -> list[str]:
    """Mailboxes of the run that are still on the bus: ``mailbox r1.coord-a.w001``."""
    return [f"mailbox {agent.agent}" for agent in bus.agents() if agent.run == run_id]


def left(
    run_id: str,
    bus: Bus | None,
    *,
    grace_s: float = GRACE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """What is left of the run once `grace_s` was given to it; returns as soon as there is nothing."""
    until = clock() + grace_s
    while True:
        found = [*processes(run_id), *(mailboxes(run_id, bus) if bus is not None else [])]
        if not found or clock() >= until:
            return found
        sleep(_POLL_S)


def main(arguments: Sequence[str]) -> int:
    """``python -m cfn.rollout.leftovers RUN``: the list as JSON on stdout."""
    if len(arguments) != 1:
        print("usage: python -m cfn.rollout.leftovers RUN", file=sys.stderr)
        return 2
    from cfn.bus.filebus import FileBus
    from cfn.settings import load

    with FileBus(settings=load()) as bus:
        json.dump(left(arguments[0], bus), sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
