"""The shape of a swarm: a pure function from sizes to a plan.

Three shapes, told by their depth, the number of coordinating levels with the master included:

* **flat** (1): the master is the one coordinator, all workers directly below it.
* **hybrid** (2): the master and a mesh of N coordinators, a team each; workers spread evenly, at most one apart.
* **tree** (3 and more): the coordinators of the first level are the mesh and the teams, as in hybrid; below them are
  coordinators at every level, and workers only at the leaves, at most one apart.

**auto** is flat to 100 agents, hybrid to 1000, tree above: the reference recommends flat for "2-100 agents", hybrid for
"100-708 agents", and to scale "width (more coordinators) before depth"; with 100 workers a team, 1000 agents are 10
coordinators, still inside its mesh limit of 15-20. Naming teams or several coordinators makes auto at least hybrid.

Fan-out of a tree: N coordinators on top (the setting, 7; not more than a quarter of the agents), then the smallest
number of children at each level below, from 2 to 20, for which no leaf has more than 50 workers; when depth 3 is not
enough the top is widened to 20, and then a level is added. 2000 agents are 7 teams of 6 leaves of 47-48 workers: 2050
processes.

Names are made here and nowhere else. On the bus an agent is ``<run>.<name>``; with a run id of up to 12 characters
that is a legal agent id, unique without regard to case. Cost: 2 µs a coordinator; workers are numbers until somebody
asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cfn.errors import UsageError
from cfn.message import check_agent_id
from cfn.settings import TABLE, Settings

MASTER: Final = "master"
#: Room for ``<run>.`` in front of a name; an agent id has 64 characters.
RUN_ID_LENGTH: Final = 12
_NAME_LENGTH: Final = 64 - RUN_ID_LENGTH - 1
#: Limits of `auto`, from the reference ("Method 1", "Method 2", "Mesh Limit").
FLAT_AGENTS: Final = 100
HYBRID_AGENTS: Final = 1000
#: Most children of a coordinator in a tree: the reference's mesh limit ("15-20 coordinators maximum").
FAN_OUT: Final = 20
#: Most workers of a leaf in a tree, where nobody asked for another number.
LEAF_WORKERS: Final = 50
#: No host carries more; it keeps a slip of the finger from building a plan of a billion.
MOST_AGENTS: Final = 100_000
_TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Node:
    """One coordinator. `workers` counts those directly below it; `team` is None for the master alone."""

    name: str
    team: str | None
    children: tuple[Node, ...]
    workers: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for a coordinator that joins from outside."""
        return {
            "name": self.name,
            "team": self.team,
            "workers": self.workers,
            "children": [c.to_dict() for c in self.children],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Node:
        return cls(data["name"], data["team"], tuple(cls.from_dict(c) for c in data["children"]), data["workers"])

    def walk(self) -> Iterator[Node]:
        """This node and all coordinators below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def agents(self) -> int:
        """Workers below this node, at any depth."""
        return sum(node.workers for node in self.walk())


@dataclass(frozen=True, slots=True)
class Plan:
    """Who there will be."""

    topology: str  # flat, hybrid or tree
    root: Node
    agents: int  # workers
    coordinators: int  # without the master

    @property
    def planned(self) -> int:
        """Processes that live at once: the master, the coordinators, the workers."""
        return 1 + self.coordinators + self.agents

    @property
    def depth(self) -> int:
        """Coordinating levels, the master's included."""
        return _depth(self.root)

    @property
    def teams(self) -> tuple[str, ...]:
        """The teams in order; empty in a flat swarm."""
        return tuple(child.team for child in self.root.children if child.team is not None)

    def walk(self) -> Iterator[Node]:
        """The master and all coordinators, parents first."""
        return self.root.walk()

    def workers(self) -> Iterator[tuple[Node, str]]:
        """Every worker's name with the coordinator that it belongs to."""
        for node in self.walk():
            for n in range(1, node.workers + 1):
                yield node, worker_name(node, n)


def worker_name(node: Node, n: int) -> str:
    """Name of the `n`-th worker (from 1) of a coordinator: ``coord-a.w001``; of a flat swarm's master: ``w001``."""
    return f"w{n:03d}" if node.name == MASTER else f"{node.name}.w{n:03d}"


def letters(index: int) -> str:
    """Names of teams and of sub-coordinators: 0 is a, 25 is z, 26 is aa."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def plan(
    agents: int,
    topology: str = "auto",
    coordinators: int | None = None,
    workers_per_coordinator: int | None = None,
    teams: Sequence[str] | None = None,
    depth: int | None = None,
    settings: Settings | None = None,
) -> Plan:
    """The plan for `agents` workers.

    What is given explicitly holds; what is None comes from `settings` (None: the defaults of the table) and gives
    way: the default number of coordinators is lowered to the number of agents and raised until no team has more than
    `workers_per_coordinator`. More coordinators than agents are never made, whoever asked: an idle coordinator helps
    nobody. ``max_agents`` is a limit where somebody set it; its default bounds only how many agents a run gets that
    asks for no number.

    Raises: :class:`~cfn.errors.UsageError` for numbers below 1, numbers that contradict each other, and names of
    teams that are illegal, repeated, or more than there are agents.
    """
    agents = _count("agents", agents)
    coordinators = None if coordinators is None else _count("coordinators", coordinators)
    most = None if workers_per_coordinator is None else _count("workers-per-coordinator", workers_per_coordinator)
    names = None if teams is None else _team_names(teams)
    _check_limit(agents, settings)
    if names is not None:
        if coordinators is not None and coordinators != len(names):
            raise UsageError(
                f"--coordinators {coordinators} contradicts the {len(names)} names of --teams: give one of them"
            )
        if len(names) > agents:
            raise UsageError(
                f"--teams names {len(names)} teams, --agents {agents} cannot staff them: each needs one agent"
            )
        coordinators = len(names)
    shape, depth = _shape(topology, agents, coordinators, names, depth)
    if shape == "flat":
        root = Node(MASTER, None, (), agents)
    elif shape == "hybrid":
        width = _hybrid_width(agents, coordinators, most, settings)
        root = _master(agents, names or _named(width), [])
    else:
        width, fans = _tree_fans(agents, coordinators, most, depth, settings)
        root = _master(agents, names or _named(width), fans)
    made = Plan(shape, root, agents, sum(1 for _ in root.walk()) - 1)
    _check_names(made)
    return made


# ---------------------------------------------------------------- sizes


def _shape(
    topology: str, agents: int, coordinators: int | None, teams: Sequence[str] | None, depth: int | None
) -> tuple[str, int | None]:
    """The shape asked for or chosen, and the depth where one was asked for and is 3 or more."""
    if depth is not None:
        depth = _count("depth", depth)
    shape = {"extended": "tree"}.get(topology, topology)
    several = teams is not None or (coordinators or 1) > 1
    if shape == "auto":
        if depth is not None:
            shape = {1: "flat", 2: "hybrid"}.get(depth, "tree")
        elif agents > HYBRID_AGENTS:
            shape = "tree"
        else:
            shape = "hybrid" if several or agents > FLAT_AGENTS else "flat"
    if shape == "flat" and several:
        what = "--teams" if teams is not None else f"--coordinators {coordinators}"
        raise UsageError(f"{what} does not fit a flat swarm, which has one coordinator: use --topology hybrid")
    fits = {"flat": (1, 1), "hybrid": (2, 2), "tree": (3, 8)}.get(shape)
    if fits is None:
        raise UsageError(f"--topology {topology!r} is not known: use flat, hybrid, tree or auto")
    if depth is not None and not fits[0] <= depth <= fits[1]:
        raise UsageError(f"--depth {depth} does not fit --topology {shape}: flat is 1, hybrid 2, tree 3 to 8")
    return shape, depth if shape == "tree" else None


def _hybrid_width(agents: int, coordinators: int | None, most: int | None, settings: Settings | None) -> int:
    if coordinators is not None:
        if most is not None and coordinators * most < agents:
            raise UsageError(
                f"--coordinators {coordinators} with at most {most} workers each (--workers-per-coordinator) carry "
                f"{coordinators * most} agents, not {agents}: raise one of them"
            )
        return min(coordinators, agents)
    limit = most if most is not None else _setting("workers_per_coordinator", settings)
    return min(agents, max(_setting("coordinators", settings), _ceil(agents, limit)))


def _tree_fans(
    agents: int, coordinators: int | None, most: int | None, depth: int | None, settings: Settings | None
) -> tuple[int, list[int]]:
    """Width of the first level, and the fan-out of each level from there down to the leaves."""
    leaf = most if most is not None else min(LEAF_WORKERS, _setting("workers_per_coordinator", settings))
    if coordinators is not None:
        width, widest = min(coordinators, agents), min(coordinators, agents)
    else:
        width = min(_setting("coordinators", settings), max(1, agents // 4))
        widest = max(width, FAN_OUT)
    levels = (depth or 3) - 2
    while depth is None and widest * FAN_OUT**levels * leaf < agents:
        levels += 1
    if width * FAN_OUT**levels * leaf < agents:
        width = min(widest, _ceil(agents, FAN_OUT**levels * leaf))
    fan = 2
    while fan < FAN_OUT and width * fan**levels * leaf < agents:
        fan += 1
    if most is not None and width * fan**levels * leaf < agents:
        raise UsageError(
            f"a tree of depth {levels + 2} with {width} coordinators on top and at most {most} workers a leaf "
            f"(--workers-per-coordinator) carries {width * fan**levels * leaf} agents, not {agents}: "
            "raise --depth or one of them"
        )
    return width, [fan] * levels


# ---------------------------------------------------------------- nodes


def _master(agents: int, teams: Sequence[str], fans: list[int]) -> Node:
    shares = _spread(agents, len(teams))
    children = tuple(_branch(f"coord-{team}", team, share, fans) for team, share in zip(teams, shares, strict=True))
    return Node(MASTER, None, children, 0)


def _branch(name: str, team: str, agents: int, fans: list[int]) -> Node:
    if not fans:
        return Node(name, team, (), agents)
    shares = _spread(agents, min(fans[0], agents))
    children = tuple(_branch(f"{name}.{letters(n)}", team, share, fans[1:]) for n, share in enumerate(shares))
    return Node(name, team, children, 0)


def _spread(agents: int, parts: int) -> list[int]:
    """`agents` in `parts`, at most one apart, the larger ones first."""
    base, more = divmod(agents, parts)
    return [base + 1] * more + [base] * (parts - more)


def _named(width: int) -> list[str]:
    return [letters(n) for n in range(width)]


def _depth(node: Node) -> int:
    return 1 + max((_depth(child) for child in node.children), default=0)


# ---------------------------------------------------------------- what is accepted


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_AGENTS:
        raise UsageError(f"--{name} {value!r} does not fit: use a whole number from 1 to {MOST_AGENTS}")
    return value


def _team_names(teams: Sequence[str]) -> list[str]:
    if isinstance(teams, str) or not teams:
        raise UsageError(f"--teams {teams!r} does not fit: give a list of one name or more")
    seen: dict[str, str] = {}
    for team in teams:
        if not _TEAM.match(team):
            raise UsageError(
                f"--teams: {str(team)[:60]!r} is not a name for a team: use 1-32 of A-Z a-z 0-9 _ -, "
                "starting with a letter or digit"
            )
        if team.lower() in seen:
            raise UsageError(
                f"--teams: {team!r} is there twice ({seen[team.lower()]!r} is the same without regard to case)"
            )
        seen[team.lower()] = team
    return list(teams)


def _check_limit(agents: int, settings: Settings | None) -> None:
    if settings is None:
        return
    source = next(value.source for setting, value in settings.explain() if setting.name == "max_agents")
    if source != "default" and agents > settings.max_agents:
        raise UsageError(
            f"--agents {agents} is above the limit of {settings.max_agents} agents a run "
            f"(max_agents, from {source}): raise one of them"
        )


def _check_names(made: Plan) -> None:
    """The longest name of each coordinator stands for all: its last worker's."""
    for node in made.walk():
        name = worker_name(node, max(1, node.workers))
        if len(name) > _NAME_LENGTH:
            raise UsageError(
                f"the agent name {name!r} has {len(name)} characters, above {_NAME_LENGTH}: "
                "use shorter --teams or a smaller --depth"
            )
        check_agent_id(f"{'r' * RUN_ID_LENGTH}.{name}")


def _setting(name: str, settings: Settings | None) -> int:
    if settings is not None:
        return int(getattr(settings, name))
    return int(next(setting.default for setting in TABLE if setting.name == name))


def _ceil(number: int, by: int) -> int:
    return -(-number // by)
