"""`cfn run` as a user of GNU parallel tries it: a real swarm in every test, on a bus of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
FLAT = ("--topology", "flat", "--agents", "4")


def tasks(*payloads: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(payload).encode() + b"\n" for payload in payloads)


NUMBERS = tasks(*({"n": n} for n in range(1, 13)))


@pytest.fixture(autouse=True)
def nothing_is_left(bus_dir: Path) -> Any:
    """After any run: no mailbox, and no process that carries the run in its environment."""
    yield
    left = [entry for entry in os.listdir(bus_dir) if not entry.startswith(".")] if bus_dir.exists() else []
    assert left == []
    mine = f"CFN_MESSAGE_BASE_DIR={bus_dir}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        assert int(pid) == os.getpid() or mine not in found, Path(f"/proc/{pid}/cmdline").read_bytes()


# ---------------------------------------------------------------- results


def test_a_result_line_a_task_and_a_summary(shell: Shell) -> None:
    ran = shell("run", "--agents", "6", "--coordinators", "3", "--", "echo", "{n}", stdin=NUMBERS)
    assert ran.code == 0, ran
    assert sorted(line["result"] for line in ran.lines) == list(range(1, 13))
    assert {line["task_id"] for line in ran.lines} == {f"t{n}" for n in range(1, 13)}
    for line in ran.lines:
        assert (line["status"], line["exit_code"], line["attempt"], line["stderr_tail"]) == ("ok", 0, 1, "")
        assert line["team"] in "abc"
        assert line["agent"].split(".")[1] == f"coord-{line['team']}"
        assert line["duration_s"] > 0
    for words in ("hybrid: 6 agents, 3 coordinators, deadline", "12 of 12 tasks delivered (100.000 %): 12 ok",
                  "10 of 10 processes alive", "mesh 6/6", "team b: 2 agents"):  # fmt: skip
        assert words in ran.err, ran.err


@pytest.mark.parametrize("shape", [("flat",), ("hybrid",), ("tree", "--coordinators", "2"), ("extended",), ("auto",)])
@pytest.mark.parametrize("pool", [(), ("--pool",)])
def test_every_shape_does_the_work(shell: Shell, shape: tuple[str, ...], pool: tuple[str, ...]) -> None:
    ran = shell("run", "-q", "--topology", *shape, "--agents", "5", *pool, "--", "echo", "{n}", stdin=NUMBERS)
    assert ran.code == 0, ran
    assert sorted(line["result"] for line in ran.lines) == list(range(1, 13))
    assert ran.err == ""


def test_the_task_comes_on_stdin_and_in_the_environment(shell: Shell, bus_dir: Path) -> None:
    script = (
        'cat; echo "$CFN_TASK|$CFN_TASK_ID|$CFN_AGENT_ID|$CFN_COORDINATOR|$CFN_MESSAGE_BASE_DIR|$CFN_RUN|$CFN_ATTEMPT"'
    )
    given = tasks({"task_id": "job-1", "role": "front", "deep": {"x": [1]}})
    ran = shell("run", "-q", "--run-id", "r1", "--teams", "front", "--", "sh", "-c", script, stdin=given)
    first, second = ran.line["result"].splitlines()
    task, *rest = second.split("|")
    assert json.loads(first) == json.loads(task) == {"task_id": "job-1", "team": "front", "deep": {"x": [1]}}
    assert rest == ["job-1", "r1.coord-front.w001", "r1.coord-front", str(bus_dir), "r1", "1"]


def test_a_failed_task_has_its_stderr_and_the_exit_code_is_one(shell: Shell) -> None:
    script = 'test {n} -ne 3 || { echo "three is bad" >&2; exit 7; }'
    ran = shell("run", *FLAT, "--", "sh", "-c", script, stdin=NUMBERS)
    assert ran.code == 1
    bad = [line for line in ran.lines if line["status"] != "ok"]
    assert [(line["task_id"], line["status"], line["exit_code"], line["stderr_tail"]) for line in bad] == [
        ("t3", "failed", 7, "three is bad\n")
    ]
    assert "failed: t3: failed: exit code 7: three is bad" in ran.err


def test_tasks_go_to_the_team_that_they_name(shell: Shell) -> None:
    given = tasks(*({"n": n, "role": ["front", "back"][n % 2]} for n in range(8)), {"n": 9})
    ran = shell("run", "-q", "--teams", "front,back,spare", "--agents", "6", "--", "true", stdin=given)
    assert ran.code == 0, ran
    for line in ran.lines[:8]:
        n = int(line["task_id"][1:]) - 1
        assert n == 8 or line["team"] == ["front", "back"][n % 2]


def test_a_file_is_a_task_with_each(shell: Shell, tmp_path: Path) -> None:
    for name in ("a b.txt", "c.txt", "-rf.txt"):
        (tmp_path / name).write_text(name)
    ran = shell("run", "-q", "-k", "--each", "*.txt", "--", "cat", "{}")
    assert [(line["task_id"], line["result"]) for line in ran.lines] == [
        ("./-rf.txt", "-rf.txt"), ("a b.txt", "a b.txt"), ("c.txt", "c.txt"),
    ]  # fmt: skip


def test_other_braces_reach_the_command_unchanged(shell: Shell) -> None:
    ran = shell("run", "-q", "--", "awk", "BEGIN {print} {x}", stdin=tasks({"x": "END {print NR}"}))
    assert (ran.code, ran.line["result"]) == (0, 1)  # an empty line and "1": as a whole, JSON


def test_a_shell_only_when_asked(shell: Shell) -> None:
    given = tasks({"x": "$(echo gotcha); `id`"})
    assert (
        shell("run", "-q", "--", "echo", "{x}", "|", "cat", stdin=given).line["result"] == "$(echo gotcha); `id` | cat"
    )
    assert (
        shell("run", "-q", "--shell", "--", "echo {x} | tr g j", stdin=given).line["result"] == "$(echo jotcha); `id`"
    )


def test_a_value_with_a_nul_fails_its_task_alone(shell: Shell) -> None:
    ran = shell("run", "-q", "-k", *FLAT, "--", "echo", "{x}", stdin=tasks({"x": "a\0b"}, {"x": "fine"}))
    assert ran.code == 1
    assert [line["status"] for line in ran.lines] == ["failed", "ok"]
    assert "NUL" in ran.lines[0]["reason"]


def test_a_large_output_goes_to_disk(shell: Shell, tmp_path: Path) -> None:
    ran = shell("run", "-q", "--", "sh", "-c", "head -c 100000000 /dev/zero", stdin=tasks({}))
    assert (ran.code, ran.line["status"], ran.line["result"]) == (0, "ok", None)
    path = Path(ran.line["output_path"])
    assert path.stat().st_size == ran.line["output_bytes"] == 100_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ran.line["output_sha256"]
    assert not path.is_relative_to(os.environ["CFN_MESSAGE_BASE_DIR"])
    path.unlink()


def test_a_large_task_goes_by_stdin_alone(shell: Shell) -> None:
    given = tasks({"text": "x" * 200_000})
    ran = shell("run", "-q", "--", "sh", "-c", 'wc -c; echo "${CFN_TASK-none} $CFN_TASK_OMITTED"', stdin=given)
    size = len('{"text":"","task_id":"t1"}') + 200_000
    assert ran.line["result"].split() == [str(size + 1), "none", str(size)]


def test_a_callable_instead_of_a_command(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def double(task):\n    print('noise')\n    if task.payload['n'] == 3:\n        raise ValueError('three')\n"
        "    return {'twice': task.payload['n'] * 2}\n"
    )
    ran = shell("run", "-q", "-k", *FLAT, "--call", "mine:double", stdin=NUMBERS)
    assert ran.code == 1
    assert [line["result"] for line in ran.lines] == [None if n == 3 else {"twice": 2 * n} for n in range(1, 13)]
    assert ran.lines[2]["reason"] == "ValueError: three"
    assert "in double" in ran.lines[2]["stderr_tail"]


# ---------------------------------------------------------------- what GNU parallel's users would miss


def test_keep_order(shell: Shell) -> None:
    ran = shell("run", "-q", "-k", *FLAT, "--", "sh", "-c", "test {n} -gt 1 || sleep 0.5; echo {n}", stdin=NUMBERS)
    assert [line["result"] for line in ran.lines] == list(range(1, 13))


def test_plain_output_is_what_was_printed(shell: Shell) -> None:
    given = tasks({"x": '{"a":  1}\n'}, {"x": "no newline"}, {"x": "\n\n"})
    ran = shell("run", "-q", "-k", "--plain", *FLAT, "--", "printf", "%s", "{x}", stdin=given)
    assert ran.out == '{"a":  1}\nno newline\n\n'


def test_tags_name_the_task_of_every_line(shell: Shell) -> None:
    script = "echo {n}; echo -n two; echo bad >&2"
    ran = shell("run", "-q", "-k", "--plain", "--tag", *FLAT, "--", "sh", "-c", script, stdin=tasks({"n": 1}, {"n": 2}))
    assert ran.out == "t1\t1\nt1\ttwo\nt2\t2\nt2\ttwo\n"
    assert ran.err == "t1\tbad\nt2\tbad\n"


def test_retries_until_it_works(shell: Shell) -> None:
    ran = shell("run", "-q", "--retries", "2", *FLAT, "--", "sh", "-c", "test $CFN_ATTEMPT = 3", stdin=tasks({}, {}))
    assert (ran.code, [line["attempt"] for line in ran.lines]) == (0, [3, 3])
    ran = shell("run", "-q", "--retries", "1", *FLAT, "--", "false", stdin=tasks({}))
    assert (ran.code, ran.line["attempt"]) == (1, 2)


def test_a_timeout_of_one_task(shell: Shell) -> None:
    script = "test {n} = 2 && { trap '' TERM; while :; do sleep 60; done; }; echo {n}"
    ran = shell(
        "run",
        "-q",
        "-k",
        "--timeout",
        "0.5",
        *FLAT,
        "--",
        "sh",
        "-c",
        script,
        stdin=tasks({"n": 1}, {"n": 2}, {"n": 3}),
    )
    assert ran.code == 1
    assert [line["status"] for line in ran.lines] == ["ok", "timeout", "ok"]
    assert (ran.lines[1]["exit_code"], ran.lines[1]["reason"]) == (-9, "timeout after 0.5 s")


def test_a_task_s_own_timeout_wins(shell: Shell) -> None:
    ran = shell("run", "-q", "--timeout", "20", "--", "sleep", "60", stdin=tasks({"timeout_s": 0.2}))
    assert ran.line["reason"] == "timeout after 0.2 s"


def test_environment_and_folder(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    ran = shell(
        "run", "-q", "--env", "A=b c", "--env", "FROM_HERE", "--cwd", "sub", "--", "sh", "-c", 'pwd; echo "$A $FROM_HERE"',
        stdin=tasks({}), env={"FROM_HERE": "yes"},
    )  # fmt: skip
    assert ran.line["result"].splitlines() == [str(tmp_path / "sub"), "b c yes"]


def test_results_are_kept_in_a_folder_a_task(shell: Shell, tmp_path: Path) -> None:
    given = tasks({"task_id": "../a/b", "n": 1}, {"task_id": "plain", "n": 2})
    shell("run", "-q", "--results", "kept", "--", "sh", "-c", "printf '%s ' {n}; echo err >&2", stdin=given)
    found = {str(path.relative_to(tmp_path / "kept")): path.read_text() for path in (tmp_path / "kept").rglob("std*")}
    assert found == {
        "%2E.%2Fa%2Fb/stdout": "1 ", "%2E.%2Fa%2Fb/stderr": "err\n", "plain/stdout": "2 ", "plain/stderr": "err\n",
    }  # fmt: skip


def test_a_job_log_and_only_what_failed_again(shell: Shell, tmp_path: Path) -> None:
    command = ("sh", "-c", "test {n} -ne 3 || test -e mended && echo {n}")
    ran = shell("run", "-q", "--joblog", "log", *FLAT, "--", *command, stdin=NUMBERS)
    assert ran.code == 1
    rows = [line.split("\t") for line in (tmp_path / "log").read_text().splitlines()]
    assert rows[0] == ["Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command"]
    assert {row[0]: row[6] for row in rows[1:]} == {str(n): "1" if n == 3 else "0" for n in range(1, 13)}
    assert [row[8] for row in rows if row[0] == "3"] == ["sh -c 'test 3 -ne 3 || test -e mended && echo 3'"]

    (tmp_path / "mended").touch()
    ran = shell("run", "--joblog", "log", "--resume-failed", *FLAT, "--", *command, stdin=NUMBERS)
    assert (ran.code, ran.line["result"]) == (0, 3)
    assert "1 task (11 are done in log)" in ran.err

    ran = shell("run", "--joblog", "log", "--resume-failed", *FLAT, "--", *command, stdin=NUMBERS)
    assert (ran.code, ran.out) == (0, "")
    assert "all 12 tasks are done in log; nothing was started" in ran.err


def test_the_rate_limits_how_fast_tasks_start(shell: Shell) -> None:
    ran = shell("run", "-q", "--rate", "10", "--agents", "12", "--topology", "flat", "--", "true", stdin=NUMBERS)
    started = sorted(line["started_at"] for line in ran.lines)
    assert ran.code == 0
    assert started[-1] - started[0] > 0.6  # 1.1 s, but for how long the first one took to start


def test_a_dry_run_prints_plan_and_commands_and_starts_nothing(shell: Shell, bus_dir: Path) -> None:
    ran = shell("run", "--dry-run", "--agents", "4", "--coordinators", "2", "--", "touch", "x{n}", stdin=NUMBERS)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "hybrid: 4 agents, 2 coordinators, 1 master: 7 processes in 2 levels"
    assert lines[1] == "team a: coord-a with 2 agents"
    one = shell("run", "--dry-run", "--", "true", stdin=b"{}\n").out.splitlines()
    assert one[0] == "hybrid: 1 agent, 1 coordinator, 1 master: 3 processes in 2 levels"
    assert one[2] == "1 task, the first commands:"
    assert lines[-11:-1] == [f"  touch x{n}" for n in range(1, 11)]
    assert lines[-1] == "  ... and 2 more"
    assert not list(Path().glob("x*"))
    assert not bus_dir.exists()


def test_a_dry_run_as_json(shell: Shell) -> None:
    plan = shell("run", "--dry-run", "--json", "--topology", "tree", "--agents", "40", "--", "true", stdin=NUMBERS).line
    assert (plan["topology"], plan["agents"], plan["depth"], plan["tasks"]) == ("tree", 40, 3, 12)
    assert plan["planned"] == 1 + plan["coordinators"] + plan["agents"]
    assert sum(team["agents"] for team in plan["teams"]) == 40


def test_the_report_is_a_file_and_with_json_a_line_on_stderr(shell: Shell, tmp_path: Path) -> None:
    ran = shell("run", "--json", "--report", "r.json", "--run-id", "mine", *FLAT, "--", "true", stdin=NUMBERS)
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["run"], report["tasks"], report["delivered"], report["delivery_rate"]) == ("mine", 12, 12, 1.0)
    assert (report["planned"], report["peak_living"], report["counts"]) == (5, 5, {"ok": 12})
    assert 0 < report["coordination_s"] <= report["wall_s"]
    assert json.loads(ran.err) == report


def test_progress_lines_where_there_is_no_terminal(shell: Shell) -> None:
    ran = shell("run", "--progress", *FLAT, "--", "sleep", "5.3", stdin=tasks({}))
    assert "0/1 done, 0 failed, 1 left, 0.0/s, 5 of 5 processes alive" in ran.err


def test_by_default_there_are_as_many_agents_as_tasks(shell: Shell) -> None:
    plan = shell("run", "--dry-run", "--json", "--", "true", stdin=tasks({}, {}, {})).line
    assert plan["agents"] == 3
    env = {"CFN_MAX_AGENTS": "2"}
    assert shell("run", "--dry-run", "--json", "--", "true", stdin=NUMBERS, env=env).line["agents"] == 2


def test_settings_shape_the_swarm(shell: Shell) -> None:
    env = {"CFN_TOPOLOGY": "hybrid", "CFN_COORDINATORS": "3", "CFN_WORKERS_PER_COORDINATOR": "2"}
    plan = shell("run", "--dry-run", "--json", "--agents", "8", "--", "true", stdin=NUMBERS, env=env).line
    assert plan["coordinators"] == 4
