"""Tasks out of lines and files."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cfn.errors import TaskError, UsageError
from cfn.swarm.intake import Intake, from_file, from_glob, from_lines
from cfn.swarm.task import Task


def lines(*given: str | bytes) -> list[bytes]:
    return [(line if isinstance(line, bytes) else line.encode()) + b"\n" for line in given]


def test_the_documented_keys_are_read_and_the_rest_is_payload() -> None:
    took = from_lines(
        lines('{"task_id":"j1","role":"front","priority":"high","timeout_s":2,"path":"x","deep":{"task_id":1}}'), "f"
    )
    assert took.tasks == [
        Task(
            task_id="j1",
            payload={"path": "x", "deep": {"task_id": 1}},
            team="front",
            priority="high",
            timeout_s=2.0,
            number=1,
        )
    ]


def test_ids_come_from_the_line_where_there_is_none() -> None:
    took = from_lines(lines('{"a":1}', "", "   ", '{"task_id":5}', '{"task_id":null}'), "f")
    assert [(task.task_id, task.number) for task in took.tasks] == [("t1", 1), ("5", 2), ("t5", 3)]


def test_a_byte_order_mark_crlf_and_a_missing_last_newline_are_no_matter() -> None:
    took = from_lines([b'\xef\xbb\xbf{"a":1}\r\n', b"\r\n", b'{"a":2}'], "f")
    assert [task.payload for task in took.tasks] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"a":', "not JSON"),
        ("hello", "not JSON"),
        ("[1]", "'[1]' is not a JSON object"),
        ('"x"', "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"a":NaN}', "NaN"),
        ('{"a":1e999}', "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        ('{"task_id":true}', "task_id True"),
        ('{"task_id":1.5}', "task_id 1.5"),
        ('{"task_id":""}', "task_id ''"),
        ('{"task_id":["x"]}', "task_id ['x']"),
        ('{"task_id":"a\\u0000b"}', "task_id 'a\\x00b'"),
        ('{"task_id":"\\ud800"}', "task_id '\\ud800'"),
        ('{"task_id":"' + "x" * 300 + '"}', "1-255 characters"),
        ('{"team":7}', "team 7"),
        ('{"role":""}', "role ''"),
        ('{"team":"a","role":"b"}', "team 'a' and role 'b'"),
        ('{"priority":"urgent"}', "priority 'urgent'"),
        ('{"priority":1}', "priority 1"),
        ('{"timeout_s":0}', "timeout_s 0"),
        ('{"timeout_s":-1}', "timeout_s -1"),
        ('{"timeout_s":"5"}', "timeout_s '5'"),
        ('{"timeout_s":true}', "timeout_s True"),
        ('{"task_id":"first"}', "'first' is there already, in line 1"),
        ('{"a":"' + "x" * 70_000 + '"}', "write the content to a file"),
        ("[" * 200_000, "not"),
    ],
)
def test_a_line_that_is_no_task_is_named_with_its_number(bad: str | bytes, said: str) -> None:
    given = lines('{"task_id":"first"}', "", bad, '{"task_id":"last"}')
    with pytest.raises(TaskError, match=r"^[^\n]+$") as caught:
        from_lines(given, "tasks.jsonl", limit_bytes=65536)
    assert str(caught.value).startswith("tasks.jsonl:3: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
    assert (caught.value.line, caught.value.source) == (3, "tasks.jsonl")

    took = from_lines(given, "tasks.jsonl", skip_bad=True, limit_bytes=65536)
    assert [(task.task_id, task.number) for task in took.tasks] == [("first", 1), ("last", 2)]
    assert [error.line for error in took.skipped] == [3]


def test_one_endless_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"x" * 3_000_000 + b'\n{"a":1}\n')
    took = from_file(str(path), skip_bad=True, limit_bytes=65536)
    assert [(task.task_id, task.payload) for task in took.tasks] == [("t2", {"a": 1})]
    assert [error.line for error in took.skipped] == [1]


def test_stdin_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a":1}\n{"a"\n')))
    with pytest.raises(TaskError, match=r"^stdin:2: "):
        from_file("-")


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the tasks"):
        from_file(str(tmp_path / name))


def test_no_lines_are_no_tasks() -> None:
    assert from_lines([], "f") == Intake() == from_lines([b"\n", b"  \n"], "f")


def test_each_file_is_a_task_in_order_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a b.txt", "-rf.txt", ".hidden.txt", "sub/c.txt", "x.md"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("folder.txt").mkdir()
    took = from_glob(["*.txt", "**/*.txt"])
    assert [task.task_id for task in took.tasks] == ["./-rf.txt", "a b.txt", "b.txt", "sub/c.txt"]
    assert [task.payload for task in took.tasks] == [{"path": task.task_id} for task in took.tasks]
    assert [task.number for task in took.tasks] == [1, 2, 3, 4]
    assert from_glob(["nothing*"]).tasks == []
