"""What is left when a run's processes all died at once: its commands, which the kernel kept, and its mailboxes.

A forked worker dies with its coordinator, and a coordinator with its master (their lifelines). Only when all of them are killed
in the same instant does anything remain: the commands that they had started. These carry ``CFN_RUN`` in their environment,
so they are found by name, not by a number that another process may have by now.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from cfn.errors import CfnError
from cfn.settings import Settings
from cfn.swarm import runs

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus


def clear_dead_runs(settings: Settings) -> list[str]:
    """Clean up after every run whose master died; their names. One directory listing where there is none."""
    cleared = []
    for run, root in list(runs.dead_runs(settings)):
        clear_run(run, root, settings)
        cleared.append(run)
    return cleared


def clear_run(run: str, root: str, settings: Settings) -> None:
    """End the processes and mailboxes of a dead run. Idempotent; two may do it at once."""
    from cfn.bus.filebus import FileBus

    kill_processes(run)
    with contextlib.suppress(CfnError, OSError), FileBus(root, settings, create=False) as bus:
        remove_mailboxes(bus, run)
    with contextlib.suppress(OSError):
        runs.RunFolder(settings, run).live.unlink()


def remove_mailboxes(bus: FileBus, run: str) -> None:
    """Those whose agent is dead; a coordinator that is still clearing its own team is left to it."""
    for agent in bus.agent_ids():
        if agent.startswith(f"{run}.") and not bus.is_alive(agent):
            bus.remove(agent)


def processes_of(run: str) -> list[int]:
    """Processes other than this one that carry the run in their environment."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get("CFN_RUN") == run:
                found.append(process.pid)
    return found


def kill_processes(run: str, within_s: float = 1.0) -> None:
    import psutil

    end = time.monotonic() + within_s
    while pids := processes_of(run):
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        if time.monotonic() > end:
            return
        time.sleep(0.01)
