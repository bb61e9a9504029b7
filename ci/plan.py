"""What continuous integration runs on: `python3 ci/plan.py` prints ci/matrix.json as one line `matrix=...`.

A workflow's plan job appends it to its outputs; the jobs take it with ``fromJSON``. The Pythons are the project's: they
must equal pyproject.toml's classifiers and tox's environments, which tests/unit/test_plan.py holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MATRIX = Path(__file__).resolve().with_name("matrix.json")


def matrix() -> dict[str, Any]:
    """The matrix: its axes, each a list that is not empty. Raises ValueError."""
    data = json.loads(MATRIX.read_text("utf-8"))
    for axis in ("os", "python"):
        values = data.get(axis)
        if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{MATRIX.name}: {axis!r} must be a list of strings, not {values!r}")
    return dict(data)


if __name__ == "__main__":
    try:
        print("matrix=" + json.dumps(matrix(), separators=(",", ":")))
    except ValueError as problem:
        sys.exit(str(problem))
