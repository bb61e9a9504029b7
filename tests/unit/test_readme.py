"""README's two commands, as .ci/run and the newcomer's proof read them; and its examples, which must run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ci import readme

ROOT = readme.README.parent


def test_readme_holds_the_two_commands() -> None:
    assert set(readme.commands()) == {"main", "tests"}
    assert all("noxfile.py" in command for command in readme.commands().values())


def test_the_commands_come_without_their_comments() -> None:
    text = "# x\n```sh\na -s b   # the main job: all of it\nc     # the tests\n```\n```sh\nd # the tests\n```\n"
    assert readme.commands(text) == {"main": "a -s b", "tests": "c"}


@pytest.mark.parametrize(
    "text",
    [
        "no block",
        "```sh\na # the main job\n```\n",
        "```sh\na # the main job\nb # the tests\nc # more\n```\n",
        "```sh\na # the main job\nb # other\n```\n",
        "```sh\n # the main job\nb # the tests\n```\n",
    ],
)
def test_a_readme_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must hold two lines"):
        readme.commands(text)


def test_the_script_prints_one_command_and_refuses_other_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme.main(["tests"]) == 0
    assert capsys.readouterr().out == readme.commands()["tests"] + "\n"
    assert readme.main(["other"]) == 2
    assert readme.main([]) == 2


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(line: str) -> str:
    """`line` in a shell that finds this environment's cfn first; its stdout. It must end with 0."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "PATH": path}, cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("number", range(2))
def test_the_python_examples_run(number: int, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(blocks("python")[number])
    out = run(f"{shlex.quote(sys.executable)} {shlex.quote(str(example))}")
    wanted = [["LICENSE ok {'lines': 21}", "README.md ok", "1.0"], ["{'job': 1}"]][number]
    assert all(line in out for line in wanted), out


@pytest.mark.skipif(os.name != "posix", reason="the examples are written for a POSIX shell")
def test_the_message_verbs_run_in_the_order_of_the_example() -> None:
    (block,) = [block for block in blocks("bash") if "cfn register" in block]
    receipt = ""
    for line in block.splitlines():
        out = run(line.replace("RECEIPT", shlex.quote(receipt)))
        if "cfn receive" in line:
            delivery = json.loads(out)
            receipt = delivery["receipt"]
            assert delivery["message"]["payload"] == {"job": 1}
    assert receipt


@pytest.mark.skipif(os.name != "posix", reason="the examples are written for a POSIX shell")
def test_the_swarm_example_counts_the_lines_of_every_module() -> None:
    (block,) = [block for block in blocks("bash") if "cfn run" in block]
    results = [json.loads(line) for line in run(block.partition(">")[0]).splitlines()]
    modules = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("cfn/**/*.py"))
    assert len(results) == len(modules)
    assert {result["status"] for result in results} == {"ok"}
