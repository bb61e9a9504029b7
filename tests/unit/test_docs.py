"""The pages of docs/ are complete and true: settings, decisions, links, and what they tell a reader to type."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from cfn.settings import TABLE, load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shell(script: str, tmp_path: Path) -> str:
    """`script` in bash with this environment's cfn and a bus of its own; its stdout. It must end with 0."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    bus, state = str(tmp_path / "bus"), str(tmp_path / "state")
    done = subprocess.run(
        ["bash", "-ec", script],
        env={**os.environ, "PATH": path, "CFN_MESSAGE_BASE_DIR": bus, "CFN_STATE_DIR": state},
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return done.stdout


def blocks(page: str, language: str = "") -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return [
        body for name, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if name == language
    ]


# ---------------------------------------------------------------- complete


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`"


def test_the_table_of_settings_is_the_one_in_the_code() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in page.splitlines() if line[:3] == "| `"]
    assert rows == [(f"`{s.variable}`", _default(s.default), s.unit, s.meaning) for s in TABLE]


def test_the_example_of_a_project_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "cfn.toml").write_text(blocks("docs/settings.md", "toml")[0])
    settings = load(env={}, cwd=tmp_path, user_file=tmp_path / "cfn.toml")
    assert (settings.max_agents, settings.without) == (300, ("doorbell",))


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = set(re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text("utf-8")))
    assert linked == {path.name for path in folder.glob("0*.md")}


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in readme]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    lost = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert lost == []


# ---------------------------------------------------------------- true: as a reader types it


@pytest.mark.skipif(os.name != "posix", reason="the examples are written for a POSIX shell")
def test_a_message_made_by_hand_is_received(tmp_path: Path) -> None:
    delivery = json.loads(shell(blocks("docs/format.md", "sh")[-1], tmp_path).splitlines()[-1])
    assert (delivery["agent"], delivery["message"]["from"], delivery["message"]["type"]) == ("bob", "alice", "note")


@pytest.mark.skipif(os.name != "posix", reason="the examples are written for a POSIX shell")
@pytest.mark.skipif(shutil.which("jq") is None, reason="the example reads JSON with jq")
def test_a_question_is_asked_and_answered_as_the_page_says(tmp_path: Path) -> None:
    asked, answered = blocks("docs/cli.md")[:2]
    assert "cfn send" in asked
    assert "cfn reply" in answered
    out = shell(f"{asked}\n{answered}\ncfn receive lead", tmp_path)
    assert json.loads(out.splitlines()[-1])["message"]["payload"] == {"lines": 12}
