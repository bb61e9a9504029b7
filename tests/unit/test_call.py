"""One Python callable as an agent."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfn.errors import UsageError
from cfn.message import load_json
from cfn.swarm.call import CallJob, find_function
from cfn.swarm.job import Outcome
from cfn.swarm.task import Task

TASK = Task(task_id="t1", payload={"n": 20}, number=1)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    before = sorted(os.listdir("/proc/self/fd"))

    def runner(function: Callable[[Task], Any], **options: Any) -> Outcome:
        job = CallJob(function, TASK, spill_dir=tmp_path, **options)
        job.start()
        return finish(job)

    yield runner
    end = time.monotonic() + 5
    while (now := sorted(os.listdir("/proc/self/fd"))) != before:  # a thread that was given up may still be ending
        assert time.monotonic() < end, (now, before)
        time.sleep(0.01)


def finish(job: CallJob, within_s: float = 10.0) -> Outcome:
    end = time.monotonic() + within_s
    while (outcome := job.step()) is None:
        assert time.monotonic() < end
        due = job.due_s()
        select.select(job.fds(), [], [], 1.0 if due is None else min(due, 1.0))
    assert job.fds() == []
    assert job.step() is outcome
    return outcome


def test_what_it_returns_is_the_result(run: Callable[..., Outcome]) -> None:
    outcome = run(lambda task: {"twice": task.payload["n"] * 2, "id": task.task_id})
    assert (outcome.status, outcome.result, outcome.must_exit) == ("ok", {"twice": 40, "id": "t1"}, False)


def test_what_it_raises_is_a_failure_with_the_end_of_the_traceback(run: Callable[..., Outcome]) -> None:
    def broken(task: Task) -> None:
        raise ValueError("no\nway")

    outcome = run(broken)
    assert (outcome.status, outcome.reason) == ("failed", "ValueError: no way")
    assert "in broken" in outcome.stderr_tail
    assert len(outcome.stderr_tail) <= 4096


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), RecursionError(), ValueError()])
def test_whatever_it_raises_ends_the_task_alone(run: Callable[..., Outcome], error: BaseException) -> None:
    def broken(task: Task) -> None:
        raise error

    assert str(run(broken).reason).startswith(type(error).__name__)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object(), b"x", {"a": {1: {2, 3}}}])
def test_a_result_that_json_cannot_say_is_a_failure(run: Callable[..., Outcome], value: Any) -> None:
    outcome = run(lambda task: value)
    assert (outcome.status, outcome.result) == ("failed", None)
    assert str(outcome.reason).startswith(f"the result of type {type(value).__name__} is not JSON")


def test_a_large_result_goes_to_disk(run: Callable[..., Outcome]) -> None:
    outcome = run(lambda task: ["x" * 1000], limit_bytes=100)
    assert (outcome.status, outcome.result) == ("ok", None)
    assert load_json(Path(str(outcome.output_path)).read_bytes()) == ["x" * 1000]


def test_a_timeout_asks_the_worker_to_end(run: Callable[..., Outcome]) -> None:
    leave = threading.Event()
    outcome = run(lambda task: leave.wait(20), timeout_s=0.05)
    leave.set()
    assert (outcome.status, outcome.reason, outcome.must_exit) == ("timeout", "timeout after 0.05 s", True)


def test_cancelling_asks_the_worker_to_end() -> None:
    leave = threading.Event()
    job = CallJob(lambda task: leave.wait(20), TASK)
    job.start()
    assert job.step() is None
    job.terminate()
    outcome = finish(job)
    leave.set()
    assert (outcome.status, outcome.must_exit) == ("cancelled", True)


def test_the_loop_is_free_while_it_runs() -> None:
    go = threading.Event()
    job = CallJob(lambda task: go.wait(10), TASK)
    job.start()
    began = time.monotonic()
    assert [job.step() for _ in range(100)] == [None] * 100
    assert time.monotonic() - began < 1.0
    go.set()
    assert finish(job).result is True


def test_a_function_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_call.py").write_text("class A:\n    @staticmethod\n    def f(task): return 1\nnot_one = 3\n")
    (tmp_path / "broken_for_call.py").write_text("raise RuntimeError('at import')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    assert find_function("mine_for_call:A.f")(TASK) == 1
    assert find_function("os.path:basename") is os.path.basename
    for name, said in [
        ("mine_for_call", "use MODULE:FUNCTION"),
        (":f", "use MODULE:FUNCTION"),
        ("no_such_module_here:f", "cannot import"),
        ("broken_for_call:f", "at import"),
        ("mine_for_call:g", "has no 'g'"),
        ("mine_for_call:not_one", "not callable"),
    ]:
        with pytest.raises(UsageError, match=said):
            find_function(name)
