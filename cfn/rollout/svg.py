"""Charts as inline SVG, with nothing but text: a canvas of rows over a horizontal axis.

All charts of the report are rows with a label on the left and marks along one axis of numbers from left to right. Colours are
names of classes, which the page's style sheet knows in a light and a dark reading; what matters is never told by colour
alone, but by shape, pattern or words too. Every chart carries a title and a description for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

WIDTH: Final = 760
_LEFT: Final = 190  # room for the labels of rows
_RIGHT: Final = 118  # room for the values behind bars
_TOP: Final = 26  # room for what is written on top of vertical lines
_BOTTOM: Final = 44  # the axis, its numbers, its name
#: A letter of the page's 13 px text is never wider on average; used to keep labels inside the picture.
_LETTER: Final = 7.2


class Rows:
    """A chart: `rows` rows of `height` pixels each, over an axis from `low` to `high`."""

    def __init__(self, rows: int, low: float, high: float, *, height: int = 30) -> None:
        self.low, self.high = low, high if high > low else low + 1.0
        self.height = height
        self._bottom = _TOP + rows * height
        self._parts: list[str] = []

    def x(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return _LEFT + (inside - self.low) / (self.high - self.low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, row: int) -> float:
        """The middle of a row."""
        return _TOP + (row + 0.5) * self.height

    def label(self, row: int, text: str) -> None:
        shown = text if len(text) * _LETTER <= _LEFT - 14 else text[: int((_LEFT - 14) / _LETTER) - 1] + "…"
        self._text(_LEFT - 12, self.y(row) + 4, shown, "label", "end")

    def value(self, row: int, at: float, text: str) -> None:
        """A value written behind a mark at `at`."""
        self._text(self.x(at) + 9, self.y(row) + 4, text, "value", "start")

    def bar(
        self, row: int, start: float, end: float, kind: str, hint: str, *, lane: tuple[float, float] = (0.2, 0.6)
    ) -> None:
        """A bar in part of a row: `lane` is its top and its height, as parts of the row's height."""
        top = _TOP + (row + lane[0]) * self.height
        left, right = self.x(start), self.x(end)
        self._parts.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{max(1.5, right - left):.1f}" '
            f'height="{lane[1] * self.height:.1f}" rx="2"><title>{escape(hint)}</title></rect>'
        )

    def dot(self, row: int, at: float, kind: str, hint: str, *, shape: str = "circle") -> None:
        x, y = self.x(at), self.y(row)
        path = {
            "circle": f"M{x - 5:.1f} {y:.1f}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
            "diamond": f"M{x - 6:.1f} {y:.1f}l6 -6l6 6l-6 6z",
            "cross": f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10",
        }[shape]
        self._parts.append(f'<path class="{kind}" d="{path}"><title>{escape(hint)}</title></path>')

    def span(self, row: int, start: float, end: float, kind: str) -> None:
        """A thin line along a row."""
        self._parts.append(f'<path class="{kind}" d="M{self.x(start):.1f} {self.y(row):.1f}H{self.x(end):.1f}"/>')

    def mark(self, at: float, text: str, kind: str = "bound") -> None:
        """A dashed line across all rows, with words on top of it that stay inside the picture."""
        x = self.x(at)
        self._parts.append(f'<path class="{kind}" d="M{x:.1f} {_TOP - 4}V{self._bottom}"/>')
        half = len(text) * _LETTER / 2
        self._text(min(max(x, half), WIDTH - half), _TOP - 10, text, f"{kind}-text", "middle")

    def render(
        self, name: str, title: str, description: str, axis: str, tell: Callable[[float], str] | None = None
    ) -> str:
        """A figure with the SVG. `name` must be unique on the page; `axis` names the numbers; `tell` writes one of them."""
        tell = tell or (lambda value: f"{value:g}")
        grid: list[str] = []
        for tick in ticks(self.low, self.high):
            x = self.x(tick)
            grid.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{self._bottom}"/>')
            grid.append(
                f'<text class="tick" x="{x:.1f}" y="{self._bottom + 17}" text-anchor="middle">{tell(tick)}</text>'
            )
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        grid.append(
            f'<text class="tick" x="{middle}" y="{self._bottom + 36}" text-anchor="middle">{escape(axis)}</text>'
        )
        return (
            f'<figure class="chart" tabindex="0"><svg role="img" viewBox="0 0 {WIDTH} {self._bottom + _BOTTOM}" aria-labelledby="{name}-title {name}-desc">'
            f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
            f"{''.join(grid)}{''.join(self._parts)}</svg></figure>"
        )

    def _text(self, x: float, y: float, text: str, kind: str, anchor: str) -> None:
        self._parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def ticks(low: float, high: float, most: int = 8) -> Sequence[float]:
    """Round numbers from `low` to `high`, at most `most` of them."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + n) * step, 10) for n in range(count)]


def key(entries: Sequence[tuple[str, str]]) -> str:
    """The legend: class of a swatch and what it stands for."""
    items = "".join(
        f'<li><svg class="swatch" viewBox="0 0 18 12" aria-hidden="true"><title>{escape(text)}</title>{_swatch(kind)}</svg>'
        f"{escape(text)}</li>"
        for kind, text in entries
    )
    return f'<ul class="key">{items}</ul>'


def _swatch(kind: str) -> str:
    if kind == "normal":
        return '<path class="normal" d="M4 6a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z"/>'
    if kind == "beside":
        return '<path class="beside" d="M3 6l6 -6l6 6l-6 6z"/>'
    if kind in ("bound", "allowed", "alive"):
        return f'<path class="{kind}" d="M0 6H18"/>'
    return f'<rect class="{kind}" width="18" height="12" rx="2"/>'
