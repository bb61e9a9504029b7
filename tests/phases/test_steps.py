"""The table of phases: its arithmetic, and choosing from it."""

from __future__ import annotations

import pytest

from cfn.errors import UsageError
from cfn.rollout import steps

STEPS = {step.name: step for phase in steps.PHASES for step in phase.steps}


@pytest.mark.parametrize(
    ("name", "total", "first_level", "all_coordinators", "workers", "depth"),
    [
        ("flat-10", 10, 0, 0, 9, 1),
        ("flat-100", 100, 0, 0, 99, 1),
        ("hybrid-150", 150, 3, 3, 146, 2),
        ("hybrid-250", 250, 5, 5, 244, 2),
        ("hybrid-300", 300, 7, 7, 292, 2),
        ("hybrid-708", 708, 7, 7, 700, 2),
        ("tree-2000", 2000, 7, 49, 1950, 3),
    ],
)
def test_totals_count_master_coordinators_and_workers(
    name: str, total: int, first_level: int, all_coordinators: int, workers: int, depth: int
) -> None:
    step = STEPS[name]
    assert (step.total, step.coordinators, step.all_coordinators, step.workers, step.depth) == (
        total,
        first_level,
        all_coordinators,
        workers,
        depth,
    )


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_the_stated_width_carries_all_workers(step: steps.Step) -> None:
    leaves = max(1, step.coordinators * max(1, step.fan))
    assert leaves * step.workers_per_coordinator >= step.workers > leaves * (step.workers_per_coordinator - 1)


def test_the_phases_are_those_of_the_reference() -> None:
    assert [[step.total for step in phase.steps if not step.slowed] for phase in steps.PHASES] == [
        [10, 50, 100],
        [150, 250, 300],
        [500, 600, 708, 2000],
    ]
    assert [(phase.delivery, phase.coordination_s) for phase in steps.PHASES] == [
        (0.95, 5.0),
        (0.90, 12.0),
        (0.90, 25.0),
    ]


def test_steps_are_chosen_by_number_or_name_in_the_order_of_the_phase() -> None:
    phase = steps.phase("phase1")
    assert [step.name for step in steps.choose(phase.steps, None)] == ["flat-10", "flat-50", "flat-100"]
    assert [step.name for step in steps.choose(phase.steps, "flat-100, 1")] == ["flat-10", "flat-100"]


@pytest.mark.parametrize("wanted", ["4", "0", "", "flat", "1,,2", "hybrid-150"])
def test_a_step_that_is_not_there_is_named_with_those_that_are(wanted: str) -> None:
    with pytest.raises(UsageError, match=r"there are 1 \(flat-10\), 2 \(flat-50\), 3 \(flat-100\)"):
        steps.choose(steps.phase("phase1").steps, wanted)


def test_an_unknown_phase_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="'phase9': use phase1, phase2, phase3"):
        steps.phase("phase9")
