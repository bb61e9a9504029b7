"""What holds for every test: a world of its own, and tests marked `containers` in one xdist group.

The tools are set in pyproject.toml: warnings are errors, markers are declared, no test outlives its timeout.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Last, so that an installed wheel wins over the checkout: scripts in ci/ and containers/ are imported from there.
sys.path.append(str(ROOT))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("containers") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("containers"))


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A private folder of this test process, on tmpfs where there is one: a bus outside it would be the user's own."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="cfn-tests-", dir=shm if os.access(shm, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_world(
    request: pytest.FixtureRequest, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No setting of the person who runs the tests reaches a test, and nothing of a test reaches that person's bus or ledger."""
    for name in list(os.environ):
        if name.startswith("CFN_") or name == "MESSAGE_BASE_DIR":
            monkeypatch.delenv(name)
    bus = Path(tempfile.mkdtemp(dir=scratch), "bus")
    monkeypatch.setenv("CFN_MESSAGE_BASE_DIR", str(bus))
    monkeypatch.setenv("CFN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    shutil.rmtree(bus.parent, ignore_errors=True)


@pytest.fixture
def bus_root(scratch: Path) -> Iterator[str]:
    """A folder for one bus: private, and on tmpfs where there is one."""
    root = tempfile.mkdtemp(dir=scratch)
    yield root
    shutil.rmtree(root, ignore_errors=True)
