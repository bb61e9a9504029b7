"""``cfn rollout`` as a person meets it: what it prints where, and what it ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from staged_site import Doctor, StagedSite, report_with

from cfn.cli.main import main
from cfn.errors import Exit


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs on a staged site, in an empty working folder."""
    stage(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage(monkeypatch: pytest.MonkeyPatch, doctor: Doctor | None = None) -> None:
    monkeypatch.setattr("cfn.rollout.sites.pick_site", lambda *args: StagedSite(doctor))


def test_a_phase_that_passes_ends_with_0_and_says_where_its_report_is(
    staged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollout", "phase1"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-2:] == [
        "phase1 passed on site staged: 3 of 3 steps passed",
        f"report: {Path('reports', 'phase1-staged', 'report.html')}",
    ]
    assert json.loads((staged / "reports/phase1-staged/report.json").read_text("utf-8"))["passed"] is True
    assert (staged / "reports/phase1-staged/report.html").exists()


def test_a_phase_that_fails_ends_with_1_and_names_criterion_wanted_and_measured(
    staged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(monkeypatch, report_with(mesh_answered=5))
    assert main(["rollout", "phase2", "--report-dir", "out"]) == Exit.ERROR
    assert (
        "phase2 failed at step hybrid-150: mesh pings answered: wanted 6 of 6 (reference), measured 5 of 6"
        in capsys.readouterr().err
    )
    assert json.loads((staged / "out/report.json").read_text("utf-8"))["failed"]["step"] == "hybrid-150"


def test_json_is_the_only_thing_on_stdout(staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "phase3", "--json", "--steps", "hybrid-708"]) == Exit.OK
    report = json.loads(capsys.readouterr().out)
    assert report["asked"] == ["hybrid-708"]
    assert report == json.loads((staged / "reports/phase3-staged/report.json").read_text("utf-8"))


def test_a_dry_run_prints_the_steps_and_makes_nothing(staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "phase3", "--dry-run", "--only", "3,4"]) == Exit.OK
    out = capsys.readouterr().out
    assert "3  hybrid-708     1 master + 7 coordinators + 700 workers" in out
    assert "4  tree-2000" in out
    assert "hybrid-500" not in out
    assert main(["rollout", "phase1", "--dry-run", "--json"]) == Exit.OK
    assert [step["agents"] for step in json.loads(capsys.readouterr().out)["steps"]] == [10, 50, 100]
    assert list(staged.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["phase4"], "phase4"),
        (["phase1", "--steps", "9"], "there is no step '9'; there are 1 (flat-10), 2 (flat-50), 3 (flat-100)"),
        (["phase1", "--site", "moon"], "moon"),
        ([], "phase"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(
    staged: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["rollout", *arguments]) == Exit.USAGE
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_report_folder_that_cannot_be_is_told_before_anything_runs(
    staged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (staged / "file").write_text("")
    assert main(["rollout", "phase1", "--report-dir", "file"]) == Exit.UNFIT
    assert "choose another --report-dir" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is POSIX")
def test_sigterm_ends_everything_and_keeps_a_report(tmp_path: Path) -> None:
    mark = f"rollout-{os.getpid()}-{time.monotonic_ns()}"
    running = subprocess.Popen(
        [sys.executable, "-m", "cfn.cli.main", "rollout", "phase2", "--site", "local", "--bus", str(tmp_path / "bus")],
        cwd=tmp_path,
        env={
            **os.environ,
            "CFN_TEST_MARK": mark,
            "CFN_STATE_DIR": str(tmp_path / "state"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    while not running.stderr.readline().startswith("hybrid-150"):  # the first step is done, the second begins
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    told = running.stderr.read()
    assert running.wait(30) == Exit.INTERRUPTED, told
    running.stderr.close()
    assert "phase2 on site local was interrupted: 1 of 4 steps passed" in told
    assert json.loads((tmp_path / "reports/phase2-local/report.json").read_text("utf-8"))["interrupted"] is True
    end = time.monotonic() + 10
    while left := marked(mark):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def marked(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CFN_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found


def test_an_interrupt_ends_with_130(staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(plan: object, results: object, report: object) -> None:
        raise KeyboardInterrupt

    stage(monkeypatch, interrupt)  # type: ignore[arg-type]
    assert main(["rollout", "phase1"]) == Exit.INTERRUPTED
    assert json.loads((staged / "reports/phase1-staged/report.json").read_text("utf-8"))["steps"] == []
