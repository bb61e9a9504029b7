"""What `cfn run` prints: result lines, plain output, progress, the summary."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cfn.cli import progress, summary
from cfn.cli.outlet import Outlet
from cfn.swarm.run import Progress
from cfn.swarm.task import Report, Result, Task, TeamReport

TASKS = [Task(task_id=f"t{n}", number=n) for n in (1, 2, 4, 7)]


class Streams:
    def __init__(self, **options: Any) -> None:
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self.outlet = Outlet(self.out, self.err, TASKS, **options)

    def put(self, *results: Result) -> bytes:
        before = len(self.out.getvalue())
        self.outlet.put(results)
        return self.out.getvalue()[before:]

    def end(self) -> bytes:
        before = len(self.out.getvalue())
        self.outlet.end()
        return self.out.getvalue()[before:]


def result(n: int, value: Any = None, **fields: Any) -> Result:
    return Result(task_id=f"t{n}", status=fields.pop("status", "ok"), result=value, number=n, **fields)


def test_a_result_is_one_json_line_with_the_documented_fields() -> None:
    line = Streams().put(result(1, "two\nlines\udcff", agent="w", team="a", exit_code=0))
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "task_id": "t1", "status": "ok", "result": "two\nlines\udcff", "exit_code": 0, "attempt": 1, "agent": "w",
        "team": "a", "duration_s": 0.0, "stderr_tail": "",
    }  # fmt: skip


def test_results_come_as_they_complete() -> None:
    streams = Streams()
    assert [json.loads(streams.put(result(n)))["task_id"] for n in (7, 1, 4, 2)] == ["t7", "t1", "t4", "t2"]


def test_keep_order_holds_back_what_came_too_early() -> None:
    streams = Streams(keep_order=True, plain=True)
    assert streams.put(result(7, "seven\n"), result(2, "two\n")) == b""
    assert streams.put(result(1, "one\n")) == b"one\ntwo\n"
    assert streams.put(result(4, "four\n")) == b"four\nseven\n"
    assert streams.end() == b""


def test_keep_order_prints_in_order_what_a_cut_off_run_left() -> None:
    streams = Streams(keep_order=True, plain=True)
    assert streams.put(result(7, "seven\n"), result(4, "four\n")) == b""
    assert streams.end() == b"four\nseven\n"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("a\n", b"a\n"),
        ("no newline", b"no newline"),
        ("", b""),
        ("\udcff\n", b"\xff\n"),
        ({"a": 1}, b'{"a":1}\n'),
        (None, b""),
    ],
)
def test_plain_prints_what_the_agent_printed(value: Any, printed: bytes) -> None:
    assert Streams(plain=True).put(result(1, value)) == printed


def test_the_text_of_a_callable_is_a_line() -> None:
    assert Streams(plain=True, commands=False).put(result(1, "a")) == b"a\n"


def test_plain_copies_an_output_that_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"x" * 300_000 + b"\ny\xff\n")
    assert Streams(plain=True).put(result(1, output_path=str(path))) == path.read_bytes()
    tagged = Streams(plain=True, tag=True).put(result(1, output_path=str(path)))
    assert tagged == b"t1\t" + b"x" * 300_000 + b"\nt1\ty\xff\n"


def test_a_tag_stands_in_front_of_every_line_and_of_stderr() -> None:
    streams = Streams(plain=True, tag=True)
    assert streams.put(result(1, "a\r b\n\nc", stderr_tail="oh\nno\n")) == b"t1\ta\r b\nt1\t\nt1\tc\n"
    assert streams.err.getvalue() == b"t1\toh\nt1\tno\n"


def test_a_reader_that_left_is_told() -> None:
    class Broken(io.BytesIO):
        def flush(self) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Outlet(Broken(), io.BytesIO(), TASKS).put([result(1)])


# ---------------------------------------------------------------- progress


def at(done: int, failed: int = 0, alive: int = 9) -> Progress:
    return Progress(total=10, done=done, failed=failed, alive=alive, planned=9, elapsed_s=2.0)


def test_a_progress_line_has_rate_counts_and_the_time_left() -> None:
    assert progress.line(at(4, 1)) == "4/10 done, 1 failed, 6 left, 2.0/s, ETA 3 s"
    assert progress.line(at(0)) == "0/10 done, 0 failed, 10 left, 0.0/s, 9 of 9 processes alive"
    assert progress.line(at(10)) == "10/10 done, 0 failed, 0 left, 5.0/s"


def test_lines_come_every_few_seconds() -> None:
    now = [0.0]
    stream = io.StringIO()
    lines = progress.Lines(stream, 5.0, lambda: now[0])
    for now[0] in (1.0, 4.9, 5.0, 6.0, 9.9, 10.5):
        lines.show(at(4))
    assert stream.getvalue().splitlines() == [f"cfn: {progress.line(at(4))}"] * 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_shows_rate_done_failed_left_and_eta() -> None:
    stream = Terminal()
    bar = progress.meter(None, 10, stream)
    assert isinstance(bar, progress.Bar)
    bar.show(at(0))
    bar.step_aside()
    bar.show(at(10, 3))
    bar.close()
    shown = stream.getvalue()
    for words in ("9 alive", "10/10", "3 failed, 0 left", "task/s", "100%"):
        assert words in shown, shown


def test_off_a_terminal_nothing_is_shown_unless_asked_for() -> None:
    assert isinstance(progress.meter(None, 10, io.StringIO()), progress.Silent)
    assert isinstance(progress.meter(True, 10, io.StringIO()), progress.Lines)
    assert isinstance(progress.meter(False, 10, Terminal()), progress.Silent)


# ---------------------------------------------------------------- the summary


def report(**fields: Any) -> Report:
    made = Report(
        run="r1", topology="hybrid", agents=20, coordinators=2, planned=23, peak_living=23, tasks=1_000_000, delivered=1_000_000,
        delivery_rate=1.0, counts={"ok": 999_990, "failed": 10}, coordination_s=12.3456, wall_s=13.0, spawned_s=0.5,
        mesh_pings=2, mesh_answered=2, results_per_s=81_000.0,
    )  # fmt: skip
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_the_summary_says_rate_times_teams_and_reasons() -> None:
    teams = {
        name: TeamReport(team=name, coordinator=name, agents=10, tasks=5, ok=4, failed=1, median_s=0.25)
        for name in "ab"
    }
    failures = [{"task_id": f"t{n}", "status": "failed", "reason": f"exit code {n % 2}"} for n in range(9)]
    assert list(summary.lines(report(teams=teams, failures=failures))) == [
        "1000000 of 1000000 tasks delivered (100.000 %): 999990 ok, 10 failed; coordination 12.35 s, wall 13.00 s, 81000.0 results/s",
        "run r1: hybrid: 20 agents, 2 coordinators; 23 of 23 processes alive after 0.50 s, mesh 2/2",
        "team a: 10 agents, 5 tasks, 4 ok, 1 not ok, median 0.25 s",
        "team b: 10 agents, 5 tasks, 4 ok, 1 not ok, median 0.25 s",
        "failed: t0, t2, t4 and 2 more: failed: exit code 0",
        "failed: t1, t3, t5 and 1 more: failed: exit code 1",
    ]


def test_a_rate_is_never_rounded_up_to_all() -> None:
    assert summary.rate(report(delivered=999_999, delivery_rate=0.999999)) == "99.999 %"
    assert summary.rate(report(delivered=500_000, delivery_rate=0.5)) == "50.000 %"


def test_only_the_first_ten_reasons_are_spelled_out() -> None:
    failures = [{"task_id": f"t{n}", "status": "failed", "reason": f"reason\n{n}"} for n in range(15)]
    lines = list(summary.lines(report(failures=failures)))
    assert sum(line.startswith("failed: ") for line in lines) == 10
    assert lines[-1] == "... and 5 more reasons (--report has them)"
    assert "failed: t0: failed: reason 0" in lines


@pytest.mark.parametrize(
    ("ended", "said"), [("deadline", "deadline of 5 s"), ("cancelled", "was cancelled"), ("halted", "--halt")]
)
def test_an_early_end_is_said_with_what_is_missing(ended: str, said: str) -> None:
    lines = list(summary.lines(report(ended=ended, deadline_s=5.0, missing=[{"task_id": "t9", "reason": "not given"}])))
    assert "missing: t9: not given" in lines
    assert said in lines[-1]


def test_tasks_that_nobody_can_name_have_no_name() -> None:
    lines = list(summary.lines(report(missing=[{"task_id": None, "reason": "the master died; 9 tasks"}])))
    assert "missing: the master died; 9 tasks" in lines


@pytest.mark.parametrize(("seconds", "text"), [(0.004, "0.004"), (61.1, "61.1"), (4500060.0, "4500060"), (100, "100")])
def test_seconds_are_written_without_an_exponent(seconds: float, text: str) -> None:
    assert summary.plain(seconds) == text
