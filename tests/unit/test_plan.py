"""One list of Pythons: what is written in several places, because several tools read it, is equal."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from ci import bootstrap, plan

PROJECT = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text("utf-8"))
PREFIX = "Programming Language :: Python :: "


def test_the_pythons_of_the_matrix_are_those_of_the_project() -> None:
    pythons = plan.matrix()["python"]
    classifiers = [line.removeprefix(PREFIX) for line in PROJECT["project"]["classifiers"] if line.startswith(PREFIX)]
    assert pythons == [name for name in classifiers if "." in name]
    assert [f"py{name.replace('.', '')}" for name in pythons] == PROJECT["tool"]["tox"]["env_list"]
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"
    assert PROJECT["tool"]["mypy"]["python_version"] == pythons[0]
    assert pythons[0] == ".".join(map(str, bootstrap.OLDEST))


def test_the_matrix_names_all_three_systems() -> None:
    assert {name.partition("-")[0] for name in plan.matrix()["os"]} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize("content", [{}, {"os": ["a"]}, {"os": [], "python": ["3"]}, {"os": ["a"], "python": [3.11]}])
def test_a_matrix_without_its_axes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, object]
) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(plan, "MATRIX", path)
    with pytest.raises(ValueError, match="must be a list of strings"):
        plan.matrix()


def test_the_workflow_takes_its_matrix_from_the_file_and_pins_every_action() -> None:
    text = (bootstrap.ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "run: python ci/plan.py" in text
    assert "matrix: ${{ fromJSON(needs.plan.outputs.matrix) }}" in text
    uses = [line.split("uses:")[1].split() for line in text.splitlines() if "uses:" in line]
    assert uses
    for action, *rest in uses:
        pinned = action.partition("@")[2]
        assert len(pinned) == 40 and int(pinned, 16), action
        assert rest[0] == "#" and rest[1].startswith("v"), f"{action} does not name its version"
