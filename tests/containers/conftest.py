"""Tests that start containers: one xdist group, because they share one engine; swept before and after.

Without an engine or testcontainers they skip and say so; in CI, where both are promised, that is a failure.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfn.errors import UnfitHost
from cfn.rollout import fleet, image

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.xdist_group("containers"))
            item.add_marker(pytest.mark.timeout(600))  # the first one makes the images: 40 s on two idle cores


@pytest.fixture(scope="session")
def answering_engine() -> None:
    """An engine that answers."""
    try:
        fleet.check()
    except UnfitHost as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def agent_image(answering_engine: None) -> str:
    """The tag of the image with this cfn."""
    return image.ensure()


@pytest.fixture
def run_id() -> str:
    """Nobody else's: other checkouts may test on this engine at the same time."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def crew(agent_image: str, run_id: str) -> Iterator[fleet.Fleet]:
    """Two containers, `left` and `right`, on one bus."""
    with fleet.Fleet(run_id, agent_image) as made:
        made.start("left", "right")
        yield made
