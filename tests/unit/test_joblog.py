"""The job log: GNU parallel's columns, and what a resume makes of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cfn.cli.joblog import HEADER, JobLog, codes, read, to_do
from cfn.errors import UsageError
from cfn.swarm.task import Result, Task

TASKS = [Task(task_id=f"t{n}", payload={"n": n}, number=n) for n in (1, 2, 3)]


def command(task: Task) -> str:
    return f"echo {task.payload['n']}"


def result(n: int, status: Any = "ok", code: int | None = 0, **fields: Any) -> Result:
    return Result(task_id=f"t{n}", status=status, exit_code=code, number=n, **fields)


def write(path: Path, *results: Result, append: bool = False) -> None:
    with JobLog(str(path), TASKS, command, lambda task: 9, append=append) as log:
        log.write(results)


def test_a_line_has_the_nine_columns(tmp_path: Path) -> None:
    write(tmp_path / "log", result(2, started_at=1700000000.1234, duration_s=0.0126, output_bytes=5))
    assert (tmp_path / "log").read_text() == f"{HEADER}\n2\t:\t1700000000.123\t0.013\t9\t5\t0\t0\techo 2\n"


@pytest.mark.parametrize(
    ("made", "exitval", "signum"),
    [
        (result(1), 0, 0),
        (result(1, "failed", 3), 3, 0),
        (result(1, "failed", -11), 0, 11),
        (result(1, "failed", None), 1, 0),
        (result(1, "failed", 0), 1, 0),  # the output could not be kept
        (result(1, "timeout", -15), 124, 15),
        (result(1, "timeout", 0), 124, 0),  # it left with 0 when it was told to
        (result(1, "cancelled", -15), 130, 15),
        (result(1, "cancelled", None), 130, 0),
        (result(1, "lost", None), 255, 0),
    ],
)
def test_only_ok_is_two_zeros(made: Result, exitval: int, signum: int) -> None:
    assert codes(made) == (exitval, signum)


def test_a_resume_runs_what_failed_and_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, result(1), result(2, "failed", 1))
    assert [task.number for task in to_do(TASKS, str(path), command)] == [2, 3]
    write(path, result(2), append=True)
    assert [task.number for task in to_do(TASKS, str(path), command)] == [3]
    assert path.read_text().count("Seq") == 1


def test_a_resume_without_a_log_runs_all(tmp_path: Path) -> None:
    assert to_do(TASKS, str(tmp_path / "none"), command) == TASKS


def test_a_later_failure_counts(tmp_path: Path) -> None:
    write(tmp_path / "log", result(1), result(1, "failed", 1))
    assert to_do(TASKS, str(tmp_path / "log"), command) == TASKS


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "log", result(1))
    with pytest.raises(UsageError, match="is now `cat 1` and was `echo 1`"):
        to_do(TASKS, str(tmp_path / "log"), lambda task: f"cat {task.payload['n']}")


def test_a_torn_last_line_is_not_counted_and_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, result(1))
    with path.open("a") as file:
        file.write("2\t:\t1.0\t0.1\t0\t0\t0\t0\techo")
    assert [task.number for task in to_do(TASKS, str(path), command)] == [2, 3]
    write(path, result(3), append=True)
    assert sorted(read(str(path))) == [1, 2, 3]
    assert read(str(path))[3].command == "echo 3"


def test_newlines_and_tabs_in_commands_survive(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def nasty(task: Task) -> str:
        return f"printf 'a\nb\tc {task.number}\udcff'"

    with JobLog(str(path), TASKS, nasty, lambda task: 0) as log:
        log.write([result(1)])
    assert len(path.read_bytes().splitlines()) == 2
    assert to_do(TASKS, str(path), nasty) == TASKS[1:]


@pytest.mark.parametrize("content", ["hello\n", "Seq\tHost\nx\t:\t0\t0\t0\t0\ty\t0\tcmd\n"])
def test_what_is_no_job_log_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(UsageError, match="job log"):
        read(str(tmp_path / "log"))


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--joblog"):
        JobLog(str(tmp_path), TASKS, command, lambda task: 0)


def test_gnu_parallel_reads_it(tmp_path: Path) -> None:
    if shutil.which("parallel") is None:
        pytest.skip("GNU parallel is not installed")
    write(tmp_path / "log", result(1), result(2, "failed", 1), result(3))
    done = subprocess.run(
        ["parallel", "--will-cite", "--joblog", str(tmp_path / "log"), "--retry-failed"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout == "2\n"
