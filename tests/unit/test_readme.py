"""README's two commands, as .ci/run and the newcomer's proof read them."""

from __future__ import annotations

import pytest

from ci import readme


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
