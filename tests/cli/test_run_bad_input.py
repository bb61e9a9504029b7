"""What `cfn run` says to input that it cannot take: one line that names the value and the mend, and the right exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
TWO = b'{"n":1}\n{"n":2}\n'


@pytest.fixture
def files(tmp_path: Path, bus_dir: Path) -> Path:
    (tmp_path / "t.jsonl").write_bytes(TWO)
    (tmp_path / "log").write_text("not a log\n")
    (tmp_path / "notexec").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--tasks", "t.jsonl"], 2, ["no command", "`--`"]),
        (["--tasks", "t.jsonl", "--"], 2, ["no command"]),
        (["--tasks", "t.jsonl", "wc", "-l"], 2, ["wc"]),
        (["--tasks", "none.jsonl", "--", "true"], 2, ["'none.jsonl'", "No such file"]),
        (["--tasks", ".", "--", "true"], 2, ["'.'"]),
        (["--tasks", "t.jsonl", "--each", "*", "--", "true"], 2, ["--tasks", "--each"]),
        (["--tasks", "t.jsonl", "--", "no-such-command"], 3, ["'no-such-command'", "PATH"]),
        (["--tasks", "t.jsonl", "--", "./nowhere"], 3, ["'./nowhere'", "does not exist"]),
        (["--tasks", "t.jsonl", "--", "./notexec"], 2, ["'./notexec'", "chmod"]),
        (["--tasks", "t.jsonl", "--agents", "0", "--", "true"], 2, ["--agents", "'0'"]),
        (["--tasks", "t.jsonl", "--agents", "many", "--", "true"], 2, ["--agents", "'many'"]),
        (["--tasks", "t.jsonl", "--agents", "99999", "--", "true"], 5, ["99999", "cfn doctor"]),
        (["--tasks", "t.jsonl", "--topology", "star", "--", "true"], 2, ["'star'", "hybrid"]),
        (["--tasks", "t.jsonl", "--topology", "flat", "--coordinators", "3", "--", "true"], 2, ["--coordinators 3"]),
        (["--tasks", "t.jsonl", "--teams", "a,A", "--", "true"], 2, ["'A'"]),
        (["--tasks", "t.jsonl", "--teams", "../x", "--", "true"], 2, ["'../x'"]),
        (["--tasks", "t.jsonl", "--timeout", "0", "--", "true"], 2, ["--timeout", "'0'"]),
        (["--tasks", "t.jsonl", "--deadline", "-1", "--", "true"], 2, ["--deadline"]),
        (["--tasks", "t.jsonl", "--rate", "nan", "--", "true"], 2, ["--rate", "'nan'"]),
        (["--tasks", "t.jsonl", "--retries", "1.5", "--", "true"], 2, ["--retries", "'1.5'"]),
        (["--tasks", "t.jsonl", "--halt", "later", "--", "true"], 2, ["--halt", "'later'", "now,fail=N"]),
        (["--tasks", "t.jsonl", "--halt", "now,fail=0", "--", "true"], 2, ["now,fail=0"]),
        (["--tasks", "t.jsonl", "--halt", "now,fail=10%", "--", "true"], 2, ["now,fail=10%"]),
        (["--tasks", "t.jsonl", "--halt", "now,success=1", "--", "true"], 2, ["now,success=1"]),
        (["--tasks", "t.jsonl", "--tag", "--", "true"], 2, ["--tag", "--plain"]),
        (["--tasks", "t.jsonl", "--resume-failed", "--", "true"], 2, ["--resume-failed", "--joblog"]),
        (["--tasks", "t.jsonl", "--resume-failed", "--joblog", "log", "--", "true"], 2, ["'log'", "not a job log"]),
        (["--tasks", "t.jsonl", "--joblog", "no/such/log", "--", "true"], 2, ["no/such/log"]),
        (["--tasks", "t.jsonl", "--report", "no/such/r.json", "--", "true"], 2, ["no/such/r.json"]),
        (["--tasks", "t.jsonl", "--report", "-", "--", "true"], 2, ["--report -", "--json"]),
        (["--tasks", "t.jsonl", "--results", "log", "--", "true"], 2, ["--results 'log'"]),
        (["--tasks", "t.jsonl", "--results", "log/x", "--", "true"], 2, ["--results 'log/x'", "cannot be written"]),
        (["--tasks", "t.jsonl", "--cwd", "nowhere", "--", "true"], 2, ["--cwd 'nowhere'"]),
        (["--tasks", "t.jsonl", "--env", "NOT_SET_HERE", "--", "true"], 2, ["NOT_SET_HERE"]),
        (["--tasks", "t.jsonl", "--env", "=x", "--", "true"], 2, ["'=x'"]),
        (["--tasks", "t.jsonl", "--run-id", "../x", "--", "true"], 2, ["'../x'"]),
        (["--tasks", "t.jsonl", "--run-id", "x" * 13, "--", "true"], 2, ["13 characters"]),
        (["--tasks", "t.jsonl", "--call", "json:dumps", "--", "true"], 2, ["--call json:dumps", "'true'"]),
        (["--tasks", "t.jsonl", "--call", "json"], 2, ["'json'", "MODULE:FUNCTION"]),
        (["--tasks", "t.jsonl", "--call", "no_such_module:f"], 2, ["no_such_module"]),
        (["--tasks", "t.jsonl", "--call", "json:nothing"], 2, ["'nothing'"]),
        (["--tasks", "t.jsonl", "--call", "json:dumps", "--shell"], 2, ["--shell"]),
    ],
)
def test_an_option_that_does_not_fit(
    shell: Shell, files: Path, bus_dir: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    shell("run", *arguments).refused(code, *words)
    assert not bus_dir.exists(), "nothing was started"


def test_a_broken_line_is_named_with_its_number(shell: Shell, bus_dir: Path) -> None:
    given = TWO + b'{"n":3\n{"n":4}\n'
    shell("run", "--", "echo", "{n}", stdin=given).refused(2, "stdin:3:", "--skip-bad")
    assert not bus_dir.exists()
    ran = shell("run", "-k", "--skip-bad", "--", "echo", "{n}", stdin=given)
    assert (ran.code, [line["result"] for line in ran.lines]) == (0, [1, 2, 4])
    assert "skipped stdin:3:" in ran.err


def test_a_repeated_id_is_named(shell: Shell) -> None:
    given = b'{"task_id":"a"}\n{"task_id":"b"}\n{"task_id":"a"}\n'
    shell("run", "--", "true", stdin=given).refused(2, "stdin:3:", "'a'", "line 1")


@pytest.mark.parametrize("given", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_no_tasks_are_no_error_and_start_nothing(shell: Shell, bus_dir: Path, tmp_path: Path, given: bytes) -> None:
    ran = shell("run", "--report", "r.json", "--", "true", stdin=given)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "cfn: 0 tasks: stdin has no tasks; nothing was started\n"
    assert not bus_dir.exists()
    assert json.loads((tmp_path / "r.json").read_text())["tasks"] == 0


def test_no_file_that_matches_is_no_error(shell: Shell) -> None:
    ran = shell("run", "--each", "*.nothing", "--", "true")
    assert (ran.code, ran.err) == (0, "cfn: 0 tasks: no file matches '*.nothing'; nothing was started\n")


def test_more_coordinators_than_tasks_are_capped_and_said(shell: Shell) -> None:
    ran = shell("run", "--coordinators", "20", "--", "true", stdin=TWO)
    assert (ran.code, len(ran.lines)) == (0, 2)
    assert "2 coordinators (20 asked for" in ran.err


def test_a_limit_that_somebody_set_is_kept(shell: Shell) -> None:
    env = {"CFN_MAX_AGENTS": "10"}
    shell("run", "--agents", "11", "--", "true", stdin=TWO, env=env).refused(2, "11", "CFN_MAX_AGENTS")


def test_a_task_for_a_team_that_is_not_there(shell: Shell) -> None:
    ran = shell("run", "--teams", "a,b", "--", "true", stdin=b'{"team":"c"}\n{"team":"a"}\n')
    ran.refused(2, "'c'", "a, b")
    shell("run", "--teams", "a,b", "--", "true", stdin=b'{"team":"c"}\n').refused(2, "'c'", "a, b")


def test_every_team_that_was_named_gets_an_agent(shell: Shell) -> None:
    ran = shell("run", "--teams", "a,b,c", "--", "true", stdin=TWO)
    assert (ran.code, len(ran.lines)) == (0, 2)
    assert "3 agents, 3 coordinators" in ran.err


def test_a_bus_that_is_a_link_is_refused(shell: Shell, bus_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    bus_dir.symlink_to(tmp_path / "elsewhere")
    shell("run", "--", "true", stdin=TWO).refused(5, str(bus_dir))
