"""Bad input of `cfn run`: tasks that cannot be taken, commands that misbehave, shapes that do not fit."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out

TWO = '{"task_id":"a"}\n{"task_id":"b"}\n'
SMALL = ("--agents", "2", "--topology", "flat", "--quiet")


@pytest.fixture
def run(shell: Cfn, bus_dir: Path, tmp_path: Path) -> Cfn:
    """`cfn run` in a process of its own (it forks) over the task lines given; checks that no mailbox is left behind."""

    def go(tasks: str, *arguments: str, options: tuple[str, ...] = SMALL) -> Any:
        (tmp_path / "tasks.jsonl").write_text(tasks)
        done = shell("run", "--tasks", "tasks.jsonl", *options, *arguments, timeout_s=60)
        if bus_dir.exists():
            assert shell("agent", "list", "--json").lines == [], done
        return done

    return go


@pytest.mark.parametrize("line", ["half {", "[1]", '"text"', '{"timeout_s":"soon"}', '{"priority":"urgent"}'])
def test_a_broken_line_is_named_by_its_number(run: Cfn, line: str) -> None:
    run(f"{TWO}{line}\n", "--", "true").refused(2, "tasks.jsonl:3: ", "--skip-bad")


def test_skip_bad_goes_on_without_it(run: Cfn) -> None:
    done = run(f"half {{\n{TWO}", "--skip-bad", "--", "true")
    assert done.code == 0
    assert sorted(line["task_id"] for line in done.lines) == ["a", "b"]
    assert "skipped tasks.jsonl:1: " in done.err


def test_a_task_id_given_twice(run: Cfn) -> None:
    run(TWO + '{"task_id":"a"}\n', "--", "true").refused(2, "tasks.jsonl:3: ", "'a'", "line 1")


def test_a_task_file_that_is_not_there(shell: Cfn) -> None:
    shell("run", "--tasks", "nowhere.jsonl", "--", "true").refused(2, "nowhere.jsonl")


def test_zero_tasks_start_nothing(run: Cfn, bus_dir: Path) -> None:
    done = run("", "--", "true")
    assert (done.code, done.out) == (0, "")
    assert not bus_dir.exists()


def test_a_command_that_is_not_there(run: Cfn, bus_dir: Path) -> None:
    run(TWO, "--", "no-such-tool", "{}").refused(3, "'no-such-tool'", "PATH")
    assert not bus_dir.exists(), "nothing was started"


def test_no_command_at_all(run: Cfn) -> None:
    run(TWO).refused(2, "--")


def test_a_command_that_ignores_sigterm_is_killed(run: Cfn, tmp_path: Path) -> None:
    code = f"import os,signal,time; signal.signal(15, signal.SIG_IGN); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    began = time.monotonic()
    done = run('{"task_id":"a"}\n', "--timeout", "1", "--", sys.executable, "-c", code)
    assert (done.code, done.line["status"]) == (1, "timeout")
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_command_that_writes_100_mb(run: Cfn) -> None:
    size = 100 << 20
    code = "import sys\nfor n in range(1600): sys.stdout.write('x' * 65536)"
    line = run('{"task_id":"a"}\n', "--", sys.executable, "-c", code).line
    assert (line["status"], line["result"], line["output_bytes"]) == ("ok", None, size)
    assert Path(line["output_path"]).stat().st_size == size
    assert line["output_sha256"] == hashlib.sha256(b"x" * size).hexdigest()


def test_more_coordinators_than_tasks(run: Cfn) -> None:
    done = run(TWO, "--topology", "hybrid", "--coordinators", "7", "--", "true", options=("--quiet",))
    if done.code == 0:
        assert sorted(line["task_id"] for line in done.lines) == ["a", "b"]
    else:
        done.refused(2, "7", "coordinators")


def test_no_bus_is_made_where_it_must_not_live(run: Cfn, bus_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(TWO, "--bus", str(tmp_path / "link"), "--", "true").refused(5, str(tmp_path / "link"), "symlink")
