"""Placeholders of a command."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from cfn.errors import TaskError
from cfn.swarm.task import Task
from cfn.swarm.template import command_line, fill


def task(**payload: Any) -> Task:
    return Task(task_id="job-1", payload=payload, number=7, team="front")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{path}", "a b.txt"),
        ("x{path}y{path}", "xa b.txtya b.txt"),
        ("{#}", "7"),
        ("{task_id}-{team}", "job-1-front"),
        ("{n}", "3"),
        ("{flag}", "true"),
        ("{none}", "null"),
        ("{list}", "[1,2]"),
        ("{é}", "ü"),
        ("{print}", "{print}"),
        ("{print $1}", "{print $1}"),
        ("${path}", "$a b.txt"),
        ("{{path}}", "{a b.txt}"),
        ("{ path }", "{ path }"),
        ("{path", "{path"),
        ('{"a": 1}', '{"a": 1}'),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_placeholders_are_filled_and_other_braces_stay(text: str, filled: str) -> None:
    given = task(path="a b.txt", n=3, flag=True, none=None, list=[1, 2], é="ü")
    assert fill(["cmd", text], given) == ["cmd", filled]


def test_braces_alone_are_the_payload_as_json() -> None:
    assert fill(["{}"], task(path="x", n=1)) == ['{"path":"x","n":1}']
    assert fill(["{}"], task()) == ["{}"]


def test_braces_alone_are_the_path_of_a_task_that_is_a_file() -> None:
    assert fill(["{}"], Task(task_id="a/b c", payload={"path": "a/b c"})) == ["a/b c"]
    assert fill(["{}"], Task(task_id="t1", payload={"path": "a/b c"})) == ['{"path":"a/b c"}']


def test_what_is_filled_in_is_not_looked_at_again() -> None:
    assert fill(["{a}"], task(a="{b}", b="no")) == ["{b}"]


def test_a_payload_key_wins_over_the_tasks_own() -> None:
    assert fill(["{team}"], task(team="from-payload")) == ["from-payload"]
    assert fill(["{team}"], Task(task_id="x")) == ["{team}"]
    full = Task(task_id="x", team="red", priority="high", timeout_s=1.5)
    assert fill(["{role} {priority} {timeout_s}"], full) == ["red high 1.5"]
    assert fill(["{role} {priority} {timeout_s}"], Task(task_id="x")) == ["{role} normal {timeout_s}"]


def test_without_a_shell_nothing_is_interpreted() -> None:
    assert fill(["echo", "{x}"], task(x="$(id); `id` | & > <")) == ["echo", "$(id); `id` | & > <"]


@pytest.mark.parametrize("value", ["a b", "$(id)", "'", '"', "a'b\"c", "; rm -rf /", "\n", "", "-n", "*"])
def test_values_reach_a_shell_as_one_word(value: str) -> None:
    argv = fill(["printf", "'%s|'", "{x}"], task(x=value), shell=True)
    assert argv[:2] == ["sh", "-c"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout.decode() == f"{value}|"


def test_a_shell_line_may_use_what_a_shell_has() -> None:
    argv = fill(["printf %s {x} | wc -c | awk '{print $1}'"], task(x="four"), shell=True)
    assert subprocess.run(argv, capture_output=True, check=True).stdout.strip() == b"4"


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
@pytest.mark.parametrize("shell", [False, True])
def test_a_value_that_no_argument_can_carry_is_an_error_of_that_task(value: str, shell: bool) -> None:
    with pytest.raises(TaskError, match=r"'job-1'.*'x'"):
        fill(["echo", "{x}"], task(x=value), shell=shell)
    assert fill(["echo", "{y}"], task(x=value, y=1), shell=False) == ["echo", "1"]


def test_bytes_of_a_file_name_that_are_no_text_pass() -> None:
    assert fill(["{path}"], task(path="a\udcff")) == ["a\udcff"]


def test_the_command_line_can_be_pasted_into_a_shell() -> None:
    assert command_line(["wc", "-l", "{path}"], task(path="a b")) == "wc -l 'a b'"
    assert command_line(["wc -l {path} | cat"], task(path="a b"), shell=True) == "wc -l 'a b' | cat"
