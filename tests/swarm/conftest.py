"""Swarms in tests: a private bus and state folder each, and a look at what is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cfn import settings
from cfn.bus.filebus import FileBus
from cfn.settings import Settings
from cfn.swarm import janitor


@pytest.fixture
def swarm_settings(bus_root: str, tmp_path: Path) -> Settings:
    return settings.load({"message_base_dir": bus_root, "state_dir": str(tmp_path / "state")}, env={}, cwd=tmp_path)


@pytest.fixture
def nothing_left(bus_root: str, swarm_settings: Settings) -> Callable[[str], None]:
    """Assert that a run left no process and no mailbox, within the two seconds that survivors have."""

    def check(run: str) -> None:
        end = time.monotonic() + 2.0
        while True:
            processes = janitor.processes_of(run)
            with FileBus(bus_root, swarm_settings) as bus:
                mailboxes = [agent for agent in bus.agent_ids() if agent.startswith(f"{run}.")]
            if not processes and not mailboxes:
                return
            assert time.monotonic() < end, f"left of {run}: processes {processes}, mailboxes {mailboxes}"
            time.sleep(0.02)

    return check
