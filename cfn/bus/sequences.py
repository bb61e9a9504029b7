"""Which numbers of a stream have been seen: an interval set a stream, and the holes in it.

A receiver remembers explicitly; it never infers "all up to N". In order, a stream is one interval and a look is O(1).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable


class Sequences:
    """Numbers seen, per stream. A fresh mailbox expects every stream to start at 1 (`from_one`)."""

    def __init__(self, from_one: bool = True) -> None:
        self._from_one = from_one
        self._seen: dict[Hashable, list[list[int]]] = {}  # sorted, disjoint, not adjacent: [first, last]

    def hole_before(self, stream: Hashable, seq: int) -> tuple[int, int] | None:
        """The numbers between the highest seen one and `seq`, as (first, last); None when `seq` follows on or is older."""
        spans = self._seen.get(stream)
        if spans is None:
            return (1, seq - 1) if self._from_one and seq > 1 else None
        top = spans[-1][1]
        return (top + 1, seq - 1) if seq > top + 1 else None

    def add(self, stream: Hashable, seq: int, count: int = 1) -> None:
        """Remember seq … seq + count - 1."""
        first, last = seq, seq + count - 1
        spans = self._seen.get(stream)
        if spans is None:
            self._seen[stream] = [[first, last]]
            return
        if first == spans[-1][1] + 1:
            spans[-1][1] = last
            return
        self._merge(spans, first, last)

    def seen(self, stream: Hashable, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self._seen.get(stream, ()))

    @staticmethod
    def _merge(spans: list[list[int]], first: int, last: int) -> None:
        merged: list[list[int]] = []
        for span in sorted([*spans, [first, last]]):
            if merged and span[0] <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], span[1])
            else:
                merged.append(span)
        spans[:] = merged


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, in order, as (first, last)."""
    out: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if out and number == out[-1][1] + 1:
            out[-1] = (out[-1][0], number)
        else:
            out.append((number, number))
    return out
