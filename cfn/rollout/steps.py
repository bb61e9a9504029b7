"""The three phases as data: which swarms are tried, in which order, and the bounds they are held to.

Counts are totals, as the reference counts them: 708 agents are 1 master + 7 coordinators + 700 workers, and 100 flat agents
are 1 coordinator + 99 workers. Every worker gets one task. What is measured on a step is in ``cfn/rollout/criteria.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cfn.errors import UsageError

Topology = Literal["flat", "hybrid", "tree"]
Source = Literal["reference", "ours"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowed:
    """One team made slow, to see whether the others notice."""

    factor: float = 10.0
    #: What a normal task of this step lasts beyond its work. Where 250 agents start at once on two cores, each waits 20-400 ms
    #: for its turn; ten times this much in one team stands out from that in any other that had to wait for it.
    pause_s: float = 0.5
    #: Rounds of (slow, normal) at most. One is enough on a machine of one's own; where other work comes and goes between
    #: the runs, the first says "harm" now and then.
    rounds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One swarm to try. `total` counts every agent: master, coordinators, workers."""

    name: str
    topology: Topology
    total: int
    coordinators: int = 0  # of the first level, the master not counted: the mesh
    fan: int = 0  # coordinators below each of those (tree)
    slowed: Slowed | None = None

    @property
    def all_coordinators(self) -> int:
        """Coordinators of every level, the master not counted."""
        return self.coordinators * (1 + self.fan)

    @property
    def workers(self) -> int:
        """What is left for workers; one task each."""
        return self.total - 1 - self.all_coordinators

    @property
    def depth(self) -> int:
        """Coordinating levels, the master's included."""
        return 1 + (self.coordinators > 0) + (self.fan > 0)

    @property
    def workers_per_coordinator(self) -> int:
        """The most workers that one coordinator leads."""
        leaves = self.coordinators * max(1, self.fan) if self.coordinators else 1
        return -(-self.workers // leaves)

    def describe(self) -> str:
        """``1 master + 7 coordinators + 292 workers``."""
        parts = ["1 coordinator" if not self.coordinators else "1 master"]
        if self.coordinators:
            parts.append(f"{self.coordinators} coordinators")
        if self.fan:
            parts.append(f"{self.coordinators * self.fan} sub-coordinators")
        text = " + ".join([*parts, f"{self.workers} workers"])
        return f"{text}, one team slowed {self.slowed.factor:g}x" if self.slowed else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A row of the rollout's table: its steps in order and the reference's bounds."""

    name: str
    title: str
    delivery: float  # the reference's; ours is 1.0 everywhere
    coordination_s: float  # the reference's bound, first fork to last result
    stated_for: tuple[int, ...]  # totals for which the reference states both; ours for the others
    limits: bool  # memory and descriptors are criteria
    steps: tuple[Step, ...]

    def source(self, step: Step) -> Source:
        """Whose bounds those are at this size: the reference names some sizes, and we hold the others to them too."""
        return "reference" if step.total in self.stated_for else "ours"


PHASES: Final = (
    Phase(
        name="phase1",
        title="flat, to 100 agents",
        delivery=0.95,
        coordination_s=5.0,
        stated_for=(10, 50, 100),
        limits=False,
        steps=(
            Step(name="flat-10", topology="flat", total=10),
            Step(name="flat-50", topology="flat", total=50),
            Step(name="flat-100", topology="flat", total=100),
        ),
    ),
    Phase(
        name="phase2",
        title="hybrid, to 300 agents",
        delivery=0.90,
        coordination_s=12.0,
        stated_for=(150, 250, 300),
        limits=False,
        steps=(
            Step(name="hybrid-150", topology="hybrid", total=150, coordinators=3),
            Step(name="hybrid-250", topology="hybrid", total=250, coordinators=5),
            Step(name="hybrid-300", topology="hybrid", total=300, coordinators=7),
            Step(name="isolation-250", topology="hybrid", total=250, coordinators=5, slowed=Slowed()),
        ),
    ),
    Phase(
        name="phase3",
        title="hybrid, to 708 agents, and a tree of 2000",
        delivery=0.90,
        coordination_s=25.0,
        stated_for=(708,),
        limits=True,
        steps=(
            Step(name="hybrid-500", topology="hybrid", total=500, coordinators=7),
            Step(name="hybrid-600", topology="hybrid", total=600, coordinators=7),
            Step(name="hybrid-708", topology="hybrid", total=708, coordinators=7),
            Step(name="tree-2000", topology="tree", total=2000, coordinators=7, fan=6),
        ),
    ),
)


def phase(name: str) -> Phase:
    """The phase of that name (``phase2``; ``2`` too). Raises: :class:`~cfn.errors.UsageError`."""
    for candidate in PHASES:
        if name in (candidate.name, candidate.name.removeprefix("phase")):
            return candidate
    raise UsageError(f"there is no phase {name!r}: use {', '.join(candidate.name for candidate in PHASES)}")


def choose(steps: Sequence[Step], wanted: str | None) -> tuple[Step, ...]:
    """The steps named in `wanted` (numbers from 1, or names, separated by commas), in the phase's order; None: all.

    Raises: :class:`~cfn.errors.UsageError` naming the part that is no step, and what there is.
    """
    if wanted is None:
        return tuple(steps)
    known = {str(number): step for number, step in enumerate(steps, 1)} | {step.name: step for step in steps}
    chosen = []
    for part in (part.strip() for part in wanted.split(",")):
        if part not in known:
            there = ", ".join(f"{number} ({step.name})" for number, step in enumerate(steps, 1))
            raise UsageError(f"--steps {wanted!r}: there is no step {part!r}; there are {there}")
        chosen.append(known[part])
    return tuple(step for step in steps if step in chosen)
