"""Data to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any


def emit(value: Any) -> None:
    """One JSON line to stdout, out at once: a reader at the other end of a pipe waits for it."""
    from cfn.message import dump_json

    sys.stdout.write(dump_json(value).decode() + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """One line of data for a person."""
    sys.stdout.write(line + "\n")


def note(line: str) -> None:
    """A remark beside the data."""
    sys.stdout.flush()
    sys.stderr.write(f"cfn: {line}\n")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned columns as wide as their widest cell, to stdout."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def paint(text: str, colour: int) -> str:
    """`text` in an ANSI colour (31 red, 32 green, 33 yellow) where a terminal shows it and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\033[{colour}m{text}\033[0m"
