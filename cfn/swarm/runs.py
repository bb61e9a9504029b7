"""Where runs keep what must outlive the bus: ``<state>/runs/<run>/`` with tasks, ledger, report and large outputs.

The ledger is a JSONL file: result lines in the order in which they were gathered, and ``{"event": ...}`` lines between them.
It is appended to by the master alone; a line is whole once its newline is there. ``<state>/live/<run>`` is locked by the master
for as long as it lives and names the bus: a free lock tells the next cfn command that a run died with all its processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cfn.bus.capabilities import LockKind, probe
from cfn.bus.files import Lock, lock_held
from cfn.errors import NoSuchRun, UnfitPlace
from cfn.message import dump_json, load_json
from cfn.settings import Settings, state_dir


def new_run_id() -> str:
    """Ten characters, not in use: a letter and 9 hex digits."""
    return "r" + os.urandom(5).hex()[:9]


class RunFolder:
    """One run's folder."""

    def __init__(self, settings: Settings, run: str) -> None:
        self.run = run
        self._state = state_dir(settings)
        self.path = self._state / "runs" / run
        self.outputs = self.path / "outputs"
        self.ledger = self.path / "ledger.jsonl"
        self.report = self.path / "report.json"
        self.live = self._state / "live" / run

    def make(self, tasks: Iterable[dict[str, Any]], facts: dict[str, Any]) -> None:
        """Raises: UnfitPlace where the state folder cannot be written."""
        try:
            self.outputs.mkdir(mode=0o700, parents=True)
            self.live.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "tasks.jsonl").write_bytes(b"".join(dump_json(task) + b"\n" for task in tasks))
            (self.path / "run.json").write_bytes(dump_json(facts))
            self.ledger.touch(mode=0o600)
        except OSError as error:
            raise UnfitPlace(
                f"cannot keep the run in {self.path}: {error.strerror}; set CFN_STATE_DIR to a folder that can be written",
                path=str(self.path),
            ) from None

    def hold(self, bus_root: str) -> Lock | None:
        """Say that this run lives here, for as long as this process does."""
        kind = _lock_kind(self._state)
        lock = Lock.take(str(self.live), kind)
        if lock is not None:
            os.write(lock.fd, os.fsencode(bus_root))
        return lock

    def let_go(self, lock: Lock | None) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.live.unlink()
        if lock is not None:
            lock.close()

    def write_report(self, report: dict[str, Any]) -> None:
        """Whole or not at all: who is killed while writing leaves no report, and is counted as dead."""
        part = self.report.with_suffix(".part")
        part.write_bytes(dump_json(report))
        os.replace(part, self.report)

    def read_report(self) -> dict[str, Any] | None:
        try:
            report: dict[str, Any] = load_json(self.report.read_bytes())
        except FileNotFoundError:
            return None
        return report

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def dead_runs(settings: Settings) -> Iterator[tuple[str, str]]:
    """Runs whose master died without a word, with the bus that each ran on."""
    folder = state_dir(settings) / "live"
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    if not entries:
        return
    try:
        kind = _lock_kind(folder.parent)
    except OSError:
        return
    for run in entries:
        path = folder / run
        with contextlib.suppress(OSError):
            if lock_held(str(path), kind) is False:
                yield run, os.fsdecode(path.read_bytes())


def find(settings: Settings, run: str) -> RunFolder:
    """Raises: NoSuchRun."""
    folder = RunFolder(settings, run)
    if "/" in run or os.sep in run or not folder.path.is_dir():
        raise NoSuchRun(f"no run {run!r} is recorded here; `cfn ps` shows the living ones", run=run)
    return folder


def _lock_kind(folder: Path) -> LockKind:
    """Never asked of live/, where every entry is a run: another command would take what a probe leaves there for a dead one."""
    return probe(str(folder)).lock
