"""docs/run.md says what is there: every option, and a Python example that runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cfn.cli.options import Parser, add_common
from cfn.cli.run import configure

PAGE = Path(__file__).parents[2] / "docs" / "run.md"
#: Options of all commands; docs/cli.md has them.
EVERYWHERE = {"--help", "--bus", "--message-base-dir", "--debug"}
#: Options of other programs that the page names.
FOREIGN = {"--retry-failed", "--delay", "--from", "--to", "--id"}


def test_every_option_is_explained_and_no_other_is_promised() -> None:
    parser = Parser("cfn run", "")
    add_common(parser)
    configure(parser)
    known = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    named = set(re.findall(r"--[a-z][a-z-]*", PAGE.read_text()))
    assert known - EVERYWHERE - named == {"--jobs", "--run-id", "--join"}
    assert named - known - FOREIGN == set()


def test_the_python_example_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    done = subprocess.run(
        [sys.executable, "-c", found[1]],
        env={
            "CFN_MESSAGE_BASE_DIR": str(tmp_path / "bus"),
            "CFN_STATE_DIR": str(tmp_path / "state"),
            "PATH": "/usr/bin:/bin",
        },
        cwd=PAGE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("t1 ok ")
    assert second == "1.0"
