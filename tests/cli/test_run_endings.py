"""How `cfn run` ends when it does not end by itself: readers that leave, signals, deadlines, halts, `cfn cancel`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
FLAT = ("--topology", "flat", "--agents", "4")
#: One task that is done at once, and three that are not.
SLOW = b'{"n":0}\n' + b'{"n":60}\n' * 3


@pytest.fixture
def start(bus_dir: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a command line in the background; whatever it did, nothing may be left."""
    running: list[subprocess.Popen[bytes]] = []

    def go(*arguments: str, stdin: bytes = SLOW, **options: Any) -> subprocess.Popen[bytes]:
        (tmp_path / "input").write_bytes(stdin)
        with open(tmp_path / "input", "rb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "cfn", *arguments],
                **{"stdin": file, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            )
        running.append(process)
        return process

    yield go
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    _until(lambda: _left(bus_dir) == [], lambda: _left(bus_dir))


def _left(bus_dir: Path) -> list[str]:
    """Mailboxes and processes of this test's bus."""
    out = [entry for entry in os.listdir(bus_dir) if not entry.startswith(".")] if bus_dir.exists() else []
    mine = f"CFN_MESSAGE_BASE_DIR={bus_dir}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() and mine in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                out.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return out


def _until(ready: Callable[[], Any], state: Callable[[], Any], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not ready():
        assert time.monotonic() < end, state()
        time.sleep(0.02)


def _first_line(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_within_two_seconds_with_partial_results(start: Start, signum: int) -> None:
    process = start("run", "-j", "4", "--coordinators", "2", "--", "sleep", "{n}")
    assert _first_line(process)["status"] == "ok"
    began = time.monotonic()
    process.send_signal(signum)
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2.0
    assert process.returncode == 130
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["cancelled"] * 3
    assert b"the run was cancelled: these results are partial" in err
    assert b"Traceback" not in err


def test_a_signal_ends_commands_that_ignore_it(start: Start) -> None:
    process = start(
        "run", "-q", *FLAT, "--", "sh", "-c", "test {n} = 0 || { trap '' TERM INT; while :; do sleep 60; done; }"
    )
    _first_line(process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert (process.returncode, time.monotonic() - began < 2.5) == (130, True)


def test_ctrl_c_on_a_terminal_is_answered_once(start: Start) -> None:
    """The terminal's foreground group gets it; workers are in groups of their own and do not print tracebacks."""
    process = start("run", *FLAT, "--", "sleep", "{n}", start_new_session=True)
    _first_line(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_results_of_a_killed_run_are_cleared_away(start: Start, shell: Shell) -> None:
    process = start("run", "-q", *FLAT, "--", "sleep", "{n}")
    _first_line(process)
    process.kill()  # what is left is asserted by the fixture: nothing


# ---------------------------------------------------------------- readers


def test_a_reader_that_leaves_is_a_clean_end(start: Start) -> None:
    process = start("run", *FLAT, "--", "sleep", "{n}")
    _first_line(process)
    assert process.stdout is not None
    process.stdout.close()
    began = time.monotonic()
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - began < 2.0
    assert process.stderr is not None
    assert b"Broken" not in (err := process.stderr.read())
    assert b"Traceback" not in err


@pytest.mark.parametrize("plain", [(), ("--plain",)])
def test_head_gets_its_lines(start: Start, tmp_path: Path, plain: tuple[str, ...]) -> None:
    command = f"{sys.executable} -m cfn run -q {' '.join((*plain, *FLAT))} --shell -- 'echo {{n}}; sleep {{n}}'"
    (tmp_path / "in").write_bytes(b'{"n":0}\n' * 50 + b'{"n":60}\n')
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} < in | head -n 1"], capture_output=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 1)


# ---------------------------------------------------------------- limits


def test_a_deadline_ends_with_partial_results_and_exit_code_four(shell: Shell) -> None:
    began = time.monotonic()
    ran = shell("run", *FLAT, "--deadline", "1", "--", "sleep", "{n}", stdin=SLOW)
    assert time.monotonic() - began < 4
    assert ran.code == 4
    assert "ok" in [line["status"] for line in ran.lines]
    assert "the deadline of 1 s passed: these results are partial" in ran.err


def test_the_default_deadline_is_printed(shell: Shell) -> None:
    ran = shell("run", *FLAT, "--timeout", "10", "--", "true", stdin=SLOW)
    assert "deadline 70.4 s (--deadline sets it)" in ran.err


@pytest.mark.parametrize("when", ["now", "now,fail=1", "soon", "soon,fail=2"])
def test_a_halt_stops_at_the_first_or_nth_failure(shell: Shell, when: str) -> None:
    given = b'{"n":1}\n' * 3 + b'{"n":0}\n' * 40
    ran = shell(
        "run", "--halt", when, "--topology", "flat", "--agents", "2", "--", "test", "{n}", "=", "0", stdin=given
    )
    assert ran.code == 4
    assert len(ran.lines) < 20
    assert "the run was halted (--halt)" in ran.err


def test_a_halt_that_cancels_all_the_rest_is_partial_too(shell: Shell) -> None:
    ran = shell("run", "-q", "--halt", "now", *FLAT, "--shell", "--", "sleep {n}; false", stdin=b'{"n":0}\n{"n":60}\n')
    assert sorted(line["status"] for line in ran.lines) == ["cancelled", "failed"]
    assert ran.code == 4


def test_never_halting_is_the_default(shell: Shell) -> None:
    ran = shell("run", "-q", "--halt", "never", *FLAT, "--", "false", stdin=SLOW)
    assert (ran.code, len(ran.lines)) == (1, 4)


# ---------------------------------------------------------------- from outside


def test_ps_shows_a_run_and_cancel_ends_it(start: Start, shell: Shell) -> None:
    process = start("run", "--run-id", "slow", "-j", "4", "--coordinators", "2", "--", "sleep", "{n}", stdin=SLOW)
    assert shell("ps").code == 0
    _first_line(process)
    row = next(row for row in shell("ps", "--json").lines if row["run"] == "slow")
    assert (row["coordinators"], row["teams"]) == (3, ["a", "b"])
    assert row["workers"] >= 3
    assert row["alive"] == len(row["agents"])
    assert "slow" in shell("ps").out
    assert "slow.coord-a" in shell("ps", "slow").out
    ended = shell("cancel", "slow")
    assert (ended.code, ended.err) == (0, "cfn: run slow is cancelled\n")
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"the run was cancelled" in err
    assert out.count(b"cancelled while it ran") == 3
    assert shell("ps", "--json").out == ""


def test_what_is_not_there_cannot_be_cancelled_or_shown(shell: Shell) -> None:
    shell("bus", "init")
    shell("cancel", "none").refused(3, "'none'", "cfn ps")
    shell("ps", "none").refused(3, "'none'")
    shell("cancel", "../x").refused(2, "../x")


def test_a_run_id_cannot_be_used_twice(start: Start, shell: Shell) -> None:
    process = start("run", "--run-id", "mine", *FLAT, "--", "sleep", "{n}", stdin=SLOW)
    _first_line(process)
    shell("run", "-q", "--run-id", "mine", "--", "true", stdin=b"{}\n").refused(2, "mine")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 130


# ---------------------------------------------------------------- a terminal


def test_on_a_terminal_there_is_a_bar(start: Start) -> None:
    ours, theirs = pty.openpty()
    process = start("run", *FLAT, "--", "true", stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(10) == 0
    for words in (b"100%", b"4/4", b"0 failed, 0 left", b"4 of 4 tasks delivered"):
        assert words in shown, shown
