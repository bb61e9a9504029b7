"""The plan of a swarm, over every size: each worker exactly once, sums that add up, names that are legal and unique."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cfn.errors import UsageError
from cfn.message import check_agent_id
from cfn.settings import load
from cfn.swarm.topology import FLAT_AGENTS, HYBRID_AGENTS, Plan, letters, plan, worker_name

SIZES = [*range(1, 60), 99, 100, 101, 148, 300, 499, 700, 708, 999, 1000, 1001, 1500, 2000, 2021, 5000, 20_000, 20_001]
RUN = "r12345678901"


def holds(made: Plan, agents: int) -> None:
    """What is true of every plan, whatever was asked for."""
    nodes = list(made.walk())
    names = [node.name for node in nodes]
    workers = [name for _, name in made.workers()]
    everybody = [f"{RUN}.{name}" for name in (*names, *workers)]
    assert len(workers) == agents == made.agents == made.root.agents
    assert made.coordinators == len(nodes) - 1
    assert made.planned == len(everybody) == 1 + made.coordinators + agents
    assert len({name.lower() for name in everybody}) == len(everybody)
    for name in everybody:
        check_agent_id(name)
    loads = [node.workers for node in nodes if not node.children]
    assert max(loads) - min(loads) <= 1
    assert min(loads) >= 1
    for node in nodes:
        assert not (node.children and node.workers), "workers stand at the leaves only"
        assert node.team == (None if node is made.root else _team(made, node.name))


def _team(made: Plan, name: str) -> str | None:
    return next(child.team for child in made.root.children if name == child.name or name.startswith(child.name + "."))


@pytest.mark.parametrize("topology", ["auto", "flat", "hybrid", "tree", "extended"])
def test_every_plan_holds_at_every_size(topology: str) -> None:
    for agents in SIZES:
        holds(plan(agents, topology), agents)


def test_every_plan_holds_for_explicit_numbers() -> None:
    for agents, coordinators in itertools.product([1, 2, 7, 40, 333], [1, 2, 3, 8, 19, 40]):
        for topology, depth in [("hybrid", None), ("tree", None), ("tree", 4), ("tree", 5)]:
            made = plan(agents, topology, coordinators=coordinators, depth=depth)
            holds(made, agents)
            assert len(made.root.children) == min(coordinators, agents)
            assert made.depth == (depth or {"hybrid": 2, "tree": 3}[topology])


def test_flat_is_the_master_with_all_workers() -> None:
    made = plan(300, "flat")
    assert (made.coordinators, made.planned, made.depth, made.teams) == (0, 301, 1, ())
    assert worker_name(made.root, 1) == "w001"
    assert worker_name(made.root, 1234) == "w1234"


def test_hybrid_counts_like_the_reference() -> None:
    made = plan(700, "hybrid")
    assert (made.planned, made.coordinators) == (708, 7)
    assert made.teams == ("a", "b", "c", "d", "e", "f", "g")
    assert [node.workers for node in made.root.children] == [100] * 7
    assert worker_name(made.root.children[0], 1) == "coord-a.w001"


def test_hybrid_gets_more_coordinators_when_a_team_would_be_too_large() -> None:
    assert plan(701, "hybrid").coordinators == 8
    assert plan(700, "hybrid", workers_per_coordinator=20).coordinators == 35


def test_what_is_given_explicitly_is_not_raised() -> None:
    assert plan(500, "hybrid", coordinators=3).coordinators == 3
    assert [node.workers for node in plan(250, "hybrid", coordinators=5).root.children] == [50] * 5


def test_more_coordinators_than_agents_are_never_made() -> None:
    assert plan(3, "hybrid").coordinators == 3
    assert plan(3, "hybrid", coordinators=20).coordinators == 3


def test_a_tree_of_two_thousand_has_three_levels_and_no_leaf_above_fifty() -> None:
    made = plan(2000, "tree")
    assert made.depth == 3
    assert len(made.root.children) == 7
    assert max(node.workers for node in made.walk()) <= 50
    assert made.root.children[0].children[0].name == "coord-a.a"
    assert worker_name(made.root.children[0].children[0], 7) == "coord-a.a.w007"


def test_a_tree_is_widened_before_it_is_deepened() -> None:
    assert plan(20_000, "tree").depth == 3
    assert plan(20_001, "tree").depth == 4


@pytest.mark.parametrize(
    ("agents", "shape"),
    [
        (1, "flat"),
        (FLAT_AGENTS, "flat"),
        (FLAT_AGENTS + 1, "hybrid"),
        (HYBRID_AGENTS, "hybrid"),
        (HYBRID_AGENTS + 1, "tree"),
    ],
)
def test_auto_goes_by_size(agents: int, shape: str) -> None:
    assert plan(agents).topology == shape


def test_auto_is_hybrid_for_named_teams_and_several_coordinators() -> None:
    assert plan(4, teams=["front", "back"]).topology == "hybrid"
    assert plan(4, coordinators=2).topology == "hybrid"
    assert plan(4, coordinators=1).topology == "flat"
    assert plan(40, depth=3).topology == "tree"


def test_teams_keep_their_names_and_order() -> None:
    made = plan(10, "hybrid", teams=["frontend", "Backend", "x_1"])
    assert made.teams == ("frontend", "Backend", "x_1")
    assert [node.name for node in made.root.children] == ["coord-frontend", "coord-Backend", "coord-x_1"]
    holds(made, 10)


def test_the_letters_of_teams_go_on_after_z() -> None:
    assert [letters(n) for n in (0, 25, 26, 27, 51, 52, 701, 702)] == ["a", "z", "aa", "ab", "az", "ba", "zz", "aaa"]
    assert len({letters(n) for n in range(2000)}) == 2000


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"agents": 0}, "--agents 0"),
        ({"agents": -3}, "--agents -3"),
        ({"agents": True}, "--agents True"),
        ({"agents": 2.5}, "--agents 2.5"),
        ({"agents": 10**9}, "--agents 1000000000"),
        ({"agents": 5, "topology": "star"}, "--topology 'star'"),
        ({"agents": 5, "coordinators": 0}, "--coordinators 0"),
        ({"agents": 5, "topology": "flat", "coordinators": 2}, "--coordinators 2"),
        ({"agents": 5, "topology": "flat", "teams": ["a"]}, "--teams"),
        (
            {"agents": 500, "topology": "hybrid", "coordinators": 3, "workers_per_coordinator": 100},
            "300 agents, not 500",
        ),
        ({"agents": 9, "topology": "hybrid", "depth": 3}, "--depth 3"),
        ({"agents": 9, "topology": "tree", "depth": 2}, "--depth 2"),
        ({"agents": 9, "topology": "tree", "depth": 9}, "--depth 9"),
        ({"agents": 9, "teams": []}, "--teams []"),
        ({"agents": 9, "teams": ["a", "A"]}, "'A' is there twice"),
        ({"agents": 9, "teams": ["a.b"]}, "'a.b'"),
        ({"agents": 9, "teams": ["../x"]}, "'../x'"),
        ({"agents": 9, "teams": ["x" * 33]}, "1-32"),
        ({"agents": 1, "teams": ["a", "b"]}, "2 teams"),
        ({"agents": 9, "teams": ["a", "b"], "coordinators": 3}, "--coordinators 3"),
        ({"agents": 9000, "topology": "tree", "coordinators": 2, "workers_per_coordinator": 10, "depth": 3}, "--depth"),
    ],
)
def test_nonsense_is_one_clear_line(wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as caught:
        plan(**wanted)
    assert named in str(caught.value)


def test_settings_fill_in_what_is_not_given() -> None:
    settings = load(env={"CFN_COORDINATORS": "3", "CFN_WORKERS_PER_COORDINATOR": "20"})
    assert plan(30, "hybrid", settings=settings).coordinators == 3
    assert plan(90, "hybrid", settings=settings).coordinators == 5


def test_max_agents_limits_where_somebody_set_it() -> None:
    with pytest.raises(UsageError, match="CFN_MAX_AGENTS"):
        plan(101, settings=load(env={"CFN_MAX_AGENTS": "100"}))
    assert plan(2000, settings=load(env={})).agents == 2000
