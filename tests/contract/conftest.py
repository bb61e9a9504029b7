"""One stage for every transport. A failed test prints what lay on its bus."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cfn.bus.protocol import Bus

from .history import History
from .stage import TRANSPORTS, FileStage, HandClock, MemoryStage, Stage

_SHM = Path("/dev/shm")
_STAGE = pytest.StashKey[Stage]()


@pytest.fixture(params=TRANSPORTS)
def stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from make_stage(request, request.param, tmp_path, monkeypatch)


@pytest.fixture(params=[transport for transport in TRANSPORTS if transport != "memory"])
def file_stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from make_stage(request, request.param, tmp_path, monkeypatch)


def make_stage(
    request: pytest.FixtureRequest, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    private: Path | None = None
    root: Path | None = tmp_path / "bus"
    if transport == "file-on-tmpfs":
        if not os.access(_SHM, os.W_OK):
            pytest.skip("this host has no /dev/shm to put a bus on")
        private = Path(tempfile.mkdtemp(prefix="cfn-test-", dir=_SHM))
        root = private / "bus"
    elif transport == "file-without-shm":
        runtime = tmp_path / "runtime"
        runtime.mkdir(mode=0o700)
        for variable in ("XDG_RUNTIME_DIR", "HOME", "TMPDIR", "LOCALAPPDATA"):
            monkeypatch.setenv(variable, str(runtime))
        root = None  # the bus finds its place itself: the user's runtime folder, because it may not use /dev/shm
    stage = MemoryStage(transport) if transport == "memory" else FileStage(transport, root)
    request.node.stash[_STAGE] = stage
    try:
        yield stage
    finally:
        stage.end()
        if private is not None:
            shutil.rmtree(private)


@pytest.fixture
def bus(stage: Stage) -> Bus:
    return stage.open()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def history(bus: Bus) -> History:
    return History(bus)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    stage = item.stash.get(_STAGE, None)
    if stage is not None and report.when == "call" and report.failed:
        try:
            report.sections.append(("what lay on the bus", stage.evidence()))
        except Exception as error:  # noqa: BLE001 - the evidence must not hide the failure
            report.sections.append(("what lay on the bus", f"could not be read: {error!r}"))
    return report
