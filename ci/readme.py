"""README's two commands, read out of README itself: `python3 ci/readme.py main|tests` prints one.

The first fenced ``sh`` block of README holds exactly two lines, ``COMMAND  # the main job: ...`` and
``COMMAND  # the tests: ...``. Whoever proves them (.ci/run, ci/newcomer.py) runs what a reader would copy.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
COMMENTS = {"main": "the main job", "tests": "the tests"}


def commands(text: str | None = None) -> dict[str, str]:
    """``{"main": ..., "tests": ...}``. Raises ValueError where README does not have that shape."""
    text = README.read_text("utf-8") if text is None else text
    block = re.search(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in block.group(1).splitlines() if line.strip()] if block else []
    found = {}
    for key, comment in COMMENTS.items():
        for line in lines:
            command, _, said = line.partition("#")
            if said.strip().startswith(comment):
                found[key] = command.strip()
    if len(lines) != 2 or len(found) != 2 or not all(found.values()):
        raise ValueError(
            f"the first ```sh block of {README.name} must hold two lines, `COMMAND  # the main job` and "
            f"`COMMAND  # the tests`; it holds {lines}"
        )
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in COMMENTS:
        print(f"usage: readme.py {'|'.join(COMMENTS)}", file=sys.stderr)
        return 2
    try:
        print(commands()[arguments[0]])
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
