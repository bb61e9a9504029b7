"""The benchmark measures what it says and leaves nothing behind. No second is asserted: only that figures are there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

BENCH = Path(__file__).with_name("bench.py")
DOCUMENT = BENCH.parent.parent.parent / "docs" / "performance.md"
needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the floor of a round is forks, and there is no fork here"
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where it measures, and where its temporary folders are: both must be empty afterwards."""
    (tmp_path / "place").mkdir(mode=0o700)
    (tmp_path / "temporary").mkdir()
    return tmp_path / "place"


def bench(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(place, *arguments), capture_output=True, encoding="utf-8", env=world(place) | environment, timeout=100
    )
    nothing_left(place)
    return done


def command(place: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(BENCH), "--dir", str(place), *arguments]


def world(place: Path) -> dict[str, str]:
    temporary = str(place.with_name("temporary"))
    return {**os.environ, "TMPDIR": temporary, "TEMP": temporary, "TMP": temporary, "PYTHONUTF8": "1"}


def nothing_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    assert list(place.with_name("temporary").iterdir()) == []
    until(lambda: not processes_on(place))


def processes_on(place: Path) -> list[str]:
    """Processes whose bus is in that place."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(place) in process.environ().get("CFN_MESSAGE_BASE_DIR", ""):
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What it printed, by key; every figure whole and consistent in itself."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == {}
    for figure in found["figures"]:
        for side in (figure["cfn"], figure["floor"], figure["ratio"]):
            assert 0 < side["min"] <= side["median"] <= side["max"], figure
        for ours, floor, ratio in zip(*(figure[side]["values"] for side in ("cfn", "floor", "ratio")), strict=True):
            assert ratio == pytest.approx(ours / floor)
    return {figure["key"]: figure for figure in found["figures"]}


def test_a_quick_send_gives_one_figure_beside_its_floor(place: Path) -> None:
    done = bench(place, "--quick", "--only", "send", "--rounds", "2", "--json")
    found = figures(done)
    assert list(found) == ["send"]
    assert found["send"]["unit"] == "µs"
    assert len(found["send"]["cfn"]["values"]) == 2
    machine = json.loads(done.stdout)["machine"]
    assert machine["cores"] >= 1 and machine["folder"] == str(place)


def test_without_a_compiler_the_floor_is_python_and_says_so(place: Path) -> None:
    done = bench(place, "--quick", "--only", "claim,batch", "--rounds", "1", "--json", CC="no-such-compiler")
    found = figures(done)
    assert list(found) == ["claim", "batch"]
    assert "the floor is bare Python" in done.stderr
    assert all("bare Python" in figure["floor_is"] for figure in found.values())


@needs_fork
def test_waking_and_a_round_are_measured_with_memory(place: Path) -> None:
    done = bench(place, "--quick", "--only", "wake,hybrid", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = {figure["key"]: figure for figure in json.loads(done.stdout)["figures"]}
    marks = ["hybrid-alive", "hybrid-results", "hybrid-ended"]
    assert list(found) == ["wake-p50", "wake-p99", *marks, "hybrid-memory"]
    for side in ("cfn", "floor"):
        alive, results, ended = (found[mark][side]["median"] for mark in marks)
        assert 0 < alive <= results <= ended
    if os.path.exists("/proc/self/smaps_rollup"):
        assert found["hybrid-memory"]["cfn"]["median"] > 0


def test_the_table_goes_between_the_marks_of_a_document_and_nowhere_else(place: Path, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_bytes(DOCUMENT.read_bytes())
    done = bench(place, "--quick", "--only", "send", "--rounds", "1", "--markdown", str(document))
    assert done.returncode == 0, done.stderr
    assert "send one message" in done.stdout
    old, new = DOCUMENT.read_text("utf-8"), document.read_text("utf-8")
    first, last = "<!-- figures:", "<!-- end of figures -->"
    assert new.partition(first)[0] == old.partition(first)[0]
    assert new.partition(last)[2] == old.partition(last)[2]
    rows = [line for line in new.partition(first)[2].splitlines() if line.startswith("| send one message | µs |")]
    assert len(rows) == 1 and rows[0].count("|") == 7


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "send,sned"], "there is no section 'sned'; there are send, claim,"),
        (["--rounds", "0"], "--rounds '0' does not fit: use a whole number from 1"),
        (["--rounds", "two"], "--rounds 'two' does not fit"),
        (["--markdown", __file__], "it has no place for figures"),
        (["--markdown", "no/such/folder/file.md"], "there is no folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_measured(
    place: Path, arguments: list[str], complaint: str
) -> None:
    done = bench(place, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert complaint in done.stderr and len(done.stderr.splitlines()) == 1


@needs_fork
def test_when_it_is_terminated_in_a_round_nothing_is_left(place: Path) -> None:
    running = subprocess.Popen(
        command(place, "--quick", "--only", "hybrid", "--rounds", "1000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=world(place),
    )
    try:
        assert running.stderr is not None
        while "measuring hybrid" not in (line := running.stderr.readline()):
            assert line, "it ended by itself"
        running.send_signal(signal.SIGTERM)
        _, complaint = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 130
    assert "interrupted" in complaint
    nothing_left(place)
