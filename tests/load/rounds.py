"""Figures of whole swarms: every agent its own process, all alive before the first task, one task each.

Marks of a round, in seconds after the first fork: all alive; the last result in the ledger (what a report calls
coordination time); everybody ended and every mailbox gone. The floor has the same marks: forks of a warm process, a byte to
each and a byte back, all reaped. Where each agent runs a command, the floor is the plain way to run as many: xargs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from pairs import Figure, Sample, interleave
from scene import Scene

from cfn.bus.capabilities import can_fork
from cfn.errors import RunError, UnfitHost
from cfn.rollout.steps import Step

_MARKS: Final = {
    "alive": "all alive",
    "results": "last result in the ledger",
    "ended": "all ended",
}
_FORKS: Final = {
    "alive": "as many forks of a warm Python process, all alive",
    "results": "the same, a byte to each and a byte back",
    "ended": "the same, all reaped",
    "memory": "the same, at its barrier",
}


def hybrid(scene: Scene) -> list[Figure]:
    return _round(scene, "hybrid", scene.sizes.hybrid, scene.sizes.hybrid_pairs)


def tree(scene: Scene) -> list[Figure]:
    return _round(scene, "tree", scene.sizes.tree, scene.sizes.tree_pairs)


def _round(scene: Scene, section: str, step: Step, pairs: int) -> list[Figure]:
    forks = can_fork(scene.settings.without)
    name = f"{section}, {step.total} agents"
    figures = {
        mark: Figure(section=section, key=f"{section}-{mark}", what=f"{name}: {meaning}", unit="s",
                     floor_is=_FORKS[mark] if forks else "none here: no fork")
        for mark, meaning in _MARKS.items()
    }  # fmt: skip
    figures["memory"] = Figure(
        section=section, key=f"{section}-memory", what=f"{name}: memory of one (PSS)", unit="MB",
        floor_is=_FORKS["memory"] if forks else "none here: no fork",
    )  # fmt: skip

    def below() -> Sample:
        return _known(scene.ask("fork_round.py", processes=step.total)) if forks else {}

    for ours, floor in interleave(pairs, below, lambda: _swarm(scene, step, function="swarm_round:nothing")):
        for mark, figure in figures.items():
            figure.take(ours.get(mark), floor.get(mark), 1e-6 if mark == "memory" else 1.0)
    return list(figures.values())


def commands(scene: Scene) -> list[Figure]:
    """Each worker of the hybrid runs `true`."""
    step, at_a_time = scene.sizes.hybrid, max(2, os.cpu_count() or 1)
    true = shutil.which("true")
    if true is None:
        raise UnfitHost("there is no command `true` here")
    plain = _plain(true, at_a_time, scene.say)
    figures = {
        name: Figure(
            section="commands", key=f"commands-{name}", unit="s",
            what=f"hybrid, {step.total} agents, each runs `true`: last result in the ledger",
            floor_is=f"{name}, {step.workers} of them, {at_a_time} at a time",
        )
        for name in plain
    }  # fmt: skip

    def below() -> Sample:
        return {name: _timed(line, step.workers) for name, line in plain.items()}

    for ours, floor in interleave(scene.sizes.hybrid_pairs, below, lambda: _swarm(scene, step, command=[true])):
        for name, figure in figures.items():
            figure.take(ours["results"], floor[name])
    return list(figures.values())


def _plain(command: str, at_a_time: int, say: Callable[[str], None]) -> dict[str, list[str]]:
    """The ways to run a command once a line of stdin that this machine has. Raises: UnfitHost when there is none."""
    xargs, parallel = shutil.which("xargs"), _gnu_parallel()
    plain = {}
    if xargs is not None:
        plain["xargs"] = [xargs, "-n1", f"-P{at_a_time}", command]
    if parallel is not None:
        plain["GNU parallel"] = [parallel, f"-j{at_a_time}", command, "{}"]
    else:
        say("GNU parallel is not installed: the floor of commands is xargs alone")
    if not plain:
        raise UnfitHost("there is neither xargs nor GNU parallel here, so commands have no floor")
    return plain


def _timed(command: list[str], jobs: int) -> float:
    began = time.perf_counter()
    lines = "".join(f"{number}\n" for number in range(jobs))
    subprocess.run(command, input=lines, check=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _gnu_parallel() -> str | None:
    """Another program of that name (moreutils) takes other arguments."""
    found = shutil.which("parallel")
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return found if "GNU parallel" in said.stdout else None


def _known(answer: dict[str, Any]) -> Sample:
    return {key: float(value) for key, value in answer.items() if value is not None}


def _swarm(scene: Scene, step: Step, **body: Any) -> Sample:
    """One round. Raises: RunError when it was not whole: its times would say nothing."""
    report = scene.ask(
        "swarm_round.py",
        tasks=step.workers,
        agents=step.workers,
        topology=step.topology,
        coordinators=step.coordinators,
        workers_per_coordinator=step.workers_per_coordinator,
        deadline_s=scene.sizes.limit_s,
        **body,
    )
    whole = {"planned": step.total, "peak_living": step.total, "delivered": step.workers, "ended": "finished"}
    for name, wanted in whole.items():
        if report[name] != wanted:
            raise RunError(f"a round of {step.total} agents was not whole: {name} is {report[name]!r}, not {wanted!r}")
    if report["counts"] != {"ok": step.workers}:
        raise RunError(f"a round of {step.total} agents did not end well: {report['counts']}")
    memory = report["peak_memory_bytes"]
    return _known(
        {
            "alive": report["spawned_s"],
            "results": report["coordination_s"],
            "ended": report["wall_s"],
            "memory": memory / report["peak_living"] if memory else None,
        }
    )
