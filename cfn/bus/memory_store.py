"""What a :class:`~cfn.bus.memory.MemoryBus` holds: parcels on shelves, a box an agent.

The same states as on disk, without the files: a parcel is in exactly one of a box's `control`, `inbox`, `claims` and the bus's
graves, or it was acknowledged and is nowhere. Names are those of the file bus (:mod:`cfn.bus.names`), so that order, aging and
events are the same on both. Nothing here locks: every call is made under the bus's one lock.

Cost: put and take are O(log n) of the shelf.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cfn.bus.names import Name
from cfn.bus.protocol import Box as BoxName
from cfn.bus.sequences import Sequences
from cfn.message import Message, decode

if TYPE_CHECKING:
    from cfn.bus.memory_mailbox import MemoryMailbox


@dataclass(slots=True, frozen=True, eq=False)
class Parcel:
    """A message, or a batch, on its way: its name, and its content as a file would hold it, one line a message."""

    name: Name
    raw: bytes
    reply_to: str | None  # of a single message: what `request` looks for

    @property
    def messages(self) -> list[Message]:
        return [decode(line) for line in self.raw.removesuffix(b"\n").split(b"\n")]

    def renamed(self, *, attempt: int, due: int | None = None) -> Parcel:
        name = self.name._replace(attempt=attempt, due=self.name.due if due is None else due)
        return Parcel(name, self.raw, self.reply_to)


@dataclass(slots=True, frozen=True, eq=False)
class Claim:
    """A parcel that someone holds until `deadline` (bus time). Its key in `Box.claims` is the name it would have on disk."""

    parcel: Parcel
    holder: MemoryMailbox
    deadline: int


@dataclass(slots=True, frozen=True, eq=False)
class Grave:
    """A parcel that was given up."""

    agent: str
    reason: str
    parcel: Parcel


class Shelf:
    """Delivered, waiting parcels: by name, and given out in the order of their names once they are due."""

    def __init__(self) -> None:
        self._parcels: dict[str, Parcel] = {}
        self._ready: list[tuple[Name, Parcel]] = []  # heap by name; an entry that is no longer in _parcels is stale
        self._early: list[tuple[int, str, Parcel]] = []  # heap by the time from which it may be delivered

    def __len__(self) -> int:
        return len(self._parcels)

    def __iter__(self) -> Iterator[Parcel]:
        """In the order of names."""
        for text in sorted(self._parcels):
            yield self._parcels[text]

    def put(self, parcel: Parcel) -> None:
        text = parcel.name.text
        assert text not in self._parcels, f"equal names cannot occur: {text}"
        self._parcels[text] = parcel
        heapq.heappush(self._early, (parcel.name.ready_at, text, parcel))

    def take(self, now: int) -> Parcel | None:
        """The first parcel that is due, off the shelf."""
        while self._early and self._early[0][0] <= now:
            _, _, parcel = heapq.heappop(self._early)
            heapq.heappush(self._ready, (parcel.name, parcel))
        while self._ready:
            _, parcel = heapq.heappop(self._ready)
            if self._has(parcel):
                del self._parcels[parcel.name.text]
                return parcel
        return None

    def discard(self, parcel: Parcel) -> None:
        """Off the shelf, wherever it stands in the order."""
        if self._has(parcel):
            del self._parcels[parcel.name.text]

    def next_ready_at(self) -> int | None:
        """When the next parcel that is not due yet will be."""
        while self._early and not self._has(self._early[0][2]):
            heapq.heappop(self._early)
        return self._early[0][0] if self._early else None

    def reply_to(self, msg_id: str) -> Parcel | None:
        return next((parcel for parcel in self._parcels.values() if parcel.reply_to == msg_id), None)

    def _has(self, parcel: Parcel) -> bool:
        return self._parcels.get(parcel.name.text) is parcel


@dataclass(slots=True, eq=False, kw_only=True)
class Box:
    """One agent's mailbox: who it is, and what lies in it."""

    agent: str
    epoch: int
    max_inbox: int
    attended: bool
    shared: bool
    beat_at: int
    role: str | None = None
    team: str | None = None
    run: str | None = None
    parent: str | None = None
    capabilities: tuple[str, ...] = ()
    owner: MemoryMailbox | None = None  # the living holder of an attended agent; None once it left or died
    control: Shelf = field(default_factory=Shelf)
    inbox: Shelf = field(default_factory=Shelf)
    claims: dict[str, Claim] = field(default_factory=dict)
    seen: Sequences = field(default_factory=Sequences)
    readers: list[MemoryMailbox] = field(default_factory=list)  # those with a doorbell

    def shelf(self, lane: str) -> Shelf:
        """Where a parcel of that lane (one letter) belongs."""
        return self.control if lane == "c" else self.inbox

    def put(self, parcel: Parcel) -> None:
        self.shelf(parcel.name.lane).put(parcel)
        for reader in self.readers:
            reader.ring()

    def take(self, now: int) -> Parcel | None:
        """The next parcel to deliver: control first, whatever the backlog."""
        return self.control.take(now) or self.inbox.take(now)

    def next_ready_at(self) -> int | None:
        times = [at for at in (self.control.next_ready_at(), self.inbox.next_ready_at()) if at is not None]
        return min(times, default=None)

    def count(self, box: BoxName) -> int:
        return {"inbox": len(self.control) + len(self.inbox), "claimed": len(self.claims)}.get(box, 0)

    def parcels(self, box: BoxName) -> list[Parcel]:
        if box == "inbox":
            return [*self.control, *self.inbox]
        if box == "claimed":
            return [self.claims[text].parcel for text in sorted(self.claims)]
        return []

    def numbers(self, stream: tuple[str, int, str]) -> set[int]:
        """The sequence numbers of that stream which are here: waiting or claimed."""
        here = [*self.control, *self.inbox, *(claim.parcel for claim in self.claims.values())]
        return {number for parcel in here if parcel.name.stream == stream for number in span(parcel.name)}


def span(name: Name) -> range:
    """The sequence numbers under one name."""
    return range(name.seq, name.seq + (name.count or 1))
