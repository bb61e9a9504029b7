"""The agents' work, counted again in ways that share no code with it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import tokenize
from pathlib import Path

import pytest

from cfn.errors import UsageError
from cfn.rollout import work
from cfn.swarm.task import Task

ROOT = Path(sysconfig.get_path("stdlib"))


def test_modules_are_source_files_of_the_standard_library_in_a_fixed_order() -> None:
    names = work.modules()
    assert len(names) > 300
    assert list(names) == sorted(set(names))
    assert {"json/decoder.py", "ast.py", "__future__.py", "email/mime/text.py"} <= set(names)
    for name in names:
        parts = name.split("/")
        assert not {"test", "tests", "site-packages", "dist-packages", "__pycache__"} & set(parts), name
        assert name.endswith(".py")
        assert (ROOT / name).is_file()


@pytest.mark.parametrize("module", work.modules()[::23])
def test_a_module_is_measured_as_an_independent_count_finds_it(module: str) -> None:
    path = ROOT / module
    source = path.read_bytes()
    with path.open("rb") as file:  # `def` is a keyword: as a token of its own it only ever begins a function
        defs = sum(token.type == tokenize.NAME and token.string == "def" for token in tokenize.tokenize(file.readline))
    with open(path, newline=None, encoding="latin-1") as text:
        lines = sum(1 for _ in text)
    assert work.measure(module) == {
        "module": module,
        "lines": lines,
        "bytes": os.stat(path).st_size,
        "functions": defs,
        "sha256": hashlib.file_digest(io.BytesIO(source), "sha256").hexdigest(),
    }


@pytest.mark.parametrize(
    "module", ["../secret.py", "/etc/passwd", "json", "json//decoder.py", "a/../b.py", ".py", "", "json\\decoder.py"]
)
def test_a_name_that_is_no_module_is_refused_before_a_file_is_opened(module: str) -> None:
    with pytest.raises(UsageError, match="not a module of the standard library"):
        work.measure(module)


def test_tasks_name_one_module_each_and_begin_again_when_there_are_more_agents_than_modules() -> None:
    made = work.tasks(1950)
    names = work.modules()
    assert len({task.task_id for task in made}) == 1950
    assert [task.number for task in made] == list(range(1, 1951))
    assert [task.payload["module"] for task in made[: len(names)]] == list(names)
    assert made[len(names)].payload["module"] == names[0]


class Clock:
    """Time that passes only when somebody sleeps, and by `step` at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step, self.slept = 0.0, step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.mark.parametrize(
    ("payload", "lasting_s"), [({}, 0.5 + work.PAUSE_S), ({"pause_s": 0.2}, 0.7), ({"pause_s": 0.2, "slow": 10}, 7.0)]
)
def test_a_task_lasts_its_work_and_its_pause_times_the_factor(payload: dict[str, float], lasting_s: float) -> None:
    clock = Clock(0.5)
    answer = work.digest(Task(task_id="t", payload={"module": "ast.py", **payload}), cpu=clock, sleep=clock.sleep)
    assert answer == work.measure("ast.py")
    assert 0.5 + clock.slept == pytest.approx(lasting_s)


def test_expected_is_the_answer_of_every_task_and_totals_are_their_sums() -> None:
    made = work.tasks(5, ["ast.py", "json/decoder.py"])
    right = work.expected(made)
    assert {task_id: answer["module"] for task_id, answer in right.items()} == {
        "module-1": "ast.py",
        "module-2": "json/decoder.py",
        "module-3": "ast.py",
        "module-4": "json/decoder.py",
        "module-5": "ast.py",
    }
    sums = work.totals(right)
    assert sums["tasks"] == 5
    assert sums["bytes"] == 3 * (ROOT / "ast.py").stat().st_size + 2 * (ROOT / "json/decoder.py").stat().st_size


def test_totals_tell_one_changed_answer_even_if_its_numbers_add_up() -> None:
    right = work.expected(work.tasks(3))
    swapped = {**right, "module-1": right["module-2"], "module-2": right["module-1"]}
    assert {**work.totals(swapped), "sha256": ""} == {**work.totals(right), "sha256": ""}
    assert work.totals(swapped) != work.totals(right)


def test_another_interpreter_prints_its_modules_and_its_direct_computation() -> None:
    def ask(what: str, given: str = "") -> object:
        asked = subprocess.run(
            [sys.executable, "-m", "cfn.rollout.work", what], input=given, capture_output=True, text=True, check=True
        )
        return json.loads(asked.stdout)

    made = work.tasks(3)
    assert ask("modules") == list(work.modules())
    assert ask("expected", "".join(json.dumps(task.to_dict()) + "\n" for task in made)) == work.expected(made)
    assert subprocess.run([sys.executable, "-m", "cfn.rollout.work"], capture_output=True).returncode == 2
