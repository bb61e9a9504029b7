"""The figures as text for a terminal and as Markdown for a document.

A document has the table between two marks; everything else in it is left alone. A file that is there without marks is
somebody's text and is refused, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from machine import Machine
from pairs import Figure, Spread

from cfn.errors import UsageError

BEGIN: Final = "<!-- figures: written by `nox -s bench -- --markdown FILE` -->"
END: Final = "<!-- end of figures -->"
_HEAD: Final = ("what", "unit", "cfn", "floor", "ratio", "the floor is")


def text(machine: Machine, figures: Sequence[Figure]) -> str:
    rows = [_HEAD, *map(_cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([machine.line, *_warnings(machine), "median (min-max); ratios are medians of pairs", "", *lines])


def markdown(machine: Machine, figures: Sequence[Figure]) -> str:
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_cells, figures)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([machine.line + ".", "", *(f"**{line}**\n" for line in _warnings(machine)), *table])


def _cells(figure: Figure) -> tuple[str, ...]:
    spreads = (str(Spread.of(values)) if values else "-" for values in (figure.ours, figure.floor, figure.ratios))
    return (figure.what, figure.unit, *spreads, figure.floor_is)


def _warnings(machine: Machine) -> list[str]:
    return [f"WARNING: {machine.warning}"] if machine.warning else []


class Document:
    """A file with a table of figures in it."""

    def __init__(self, path: Path) -> None:
        """Raises: UsageError when that file cannot take a table."""
        self._path = path
        self._before = self._after = ""
        try:
            before, mark, rest = path.read_text("utf-8").partition(BEGIN)
        except FileNotFoundError:
            if path.parent.is_dir():
                return
            raise UsageError(f"--markdown {path}: there is no folder {path.parent}; make it first") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"--markdown {path}: cannot be read ({error}); name a text file") from None
        _, end, self._after = rest.partition(END)
        if not mark or not end:
            raise UsageError(f"--markdown {path}: it has no place for figures; put in the two lines {BEGIN} and {END}")
        self._before = before

    def write(self, table: str) -> None:
        self._path.write_text(f"{self._before}{BEGIN}\n\n{table}\n\n{END}{self._after or chr(10)}", "utf-8")
