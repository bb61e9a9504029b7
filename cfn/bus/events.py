"""What the bus and the swarm announce. Observers (metrics, audit, journal, progress) listen; nobody here knows them.

An event is a small frozen object; `at` is bus time in µs. An observer is any callable of one event; it must not raise: an
exception in one ends the operation that announced, as an assertion would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all announcements. `agent` is who acted."""

    agent: str
    at: int


@dataclass(frozen=True, slots=True)
class Sent(Event):
    to: str
    name: str
    count: int  # messages: 1, or the size of a batch


@dataclass(frozen=True, slots=True)
class Delivered(Event):
    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Acked(Event):
    name: str


@dataclass(frozen=True, slots=True)
class Released(Event):
    name: str


@dataclass(frozen=True, slots=True)
class Buried(Event):
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class GapFound(Event):
    sender: str
    first: int  # first missing sequence
    last: int  # last missing sequence


@dataclass(frozen=True, slots=True)
class Registered(Event):
    epoch: int


@dataclass(frozen=True, slots=True)
class Removed(Event):
    reason: str


Observer = Callable[[Event], None]
