"""The grammar of file names on the bus: everything that a listing can say without opening a file.

    N        = due ~ lane ~ from ~ epoch.writer.seq ~ attempt [~ count] .json | .jsonl
    claimed  = stem(N) ~ holder ~ deadline ext
    dead     = stem(N) ~ reason ext            (or  time ~ malformed ~ text  for what follows no grammar)

Times are µs of bus time in 16 digits, so that the plain sort of names is the order of delivery. `due` is the time at which
the message may be delivered plus its lane's aging constant: one sort key serves order, delay and fairness. "~" is in no id.
Nothing here touches a file. Described field by field in docs/format.md.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from cfn.message import Lane, is_agent_id

SEP: Final = "~"
TIME_DIGITS: Final = 16  # µs until the year 2286
LETTER: Final[dict[Lane, str]] = {"control": "c", "high": "h", "normal": "n", "low": "l"}
LANE: Final[dict[str, Lane]] = {letter: lane for lane, letter in LETTER.items()}

#: µs that a lane waits behind `high` under load: a flood of high messages delays a low one by 5 s, not for ever.
AGING_US: Final[dict[Lane, int]] = {"control": 0, "high": 0, "normal": 1_000_000, "low": 5_000_000}
_AGING_BY_LETTER: Final = {LETTER[lane]: aging for lane, aging in AGING_US.items()}

_DIGITS = re.compile(r"[0-9]{16}\Z")
_HEX = re.compile(r"[0-9a-f]{10}\Z")


class Name(NamedTuple):
    """A message's name, parsed. `count` is None for a single message."""

    due: int
    lane: str  # one letter
    sender: str
    epoch: int
    writer: str
    seq: int
    attempt: int
    count: int | None  # type: ignore[assignment]  # the grammar's word; nobody asks a name for tuple.count

    @property
    def ready_at(self) -> int:
        """Bus time from which it may be delivered."""
        return self.due - _AGING_BY_LETTER[self.lane]

    @property
    def delivery(self) -> int:
        """Which delivery this is, from 1. An attempt of 0 in the name is the first one of what was put back: its number proves
        nothing about those before it.
        """
        return max(1, self.attempt)

    @property
    def stream(self) -> tuple[str, int, str]:
        """Whose numbering `seq` belongs to; the recipient is the folder."""
        return (self.sender, self.epoch, self.writer)

    @property
    def stem(self) -> str:
        head = f"{self.due:016d}~{self.lane}~{self.sender}~{self.epoch}.{self.writer}.{self.seq}~{self.attempt}"
        return head if self.count is None else f"{head}~{self.count}"

    @property
    def ext(self) -> str:
        return ".json" if self.count is None else ".jsonl"

    @property
    def text(self) -> str:
        return self.stem + self.ext


def parse(text: str) -> Name | None:
    """A name in control/, inbox/ or outbox/; None where it is outside the grammar."""
    stem, ext = _split(text)
    if ext is None:
        return None
    parts = stem.split(SEP)
    batch = ext == ".jsonl"
    if len(parts) != (6 if batch else 5):
        return None
    return _name(parts, batch)


class Claim(NamedTuple):
    """A name in claimed/: the message, who holds it, and until when (bus time)."""

    name: Name
    holder: str
    deadline: int


def claimed(text: str, holder: str, deadline: int) -> str:
    """The claimed name of the inbox name `text`."""
    stem, dot, ext = text.rpartition(".")
    return f"{stem}~{holder}~{deadline:016d}{dot}{ext}"


def parse_claimed(text: str) -> Claim | None:
    stem, ext = _split(text)
    if ext is None:
        return None
    parts = stem.split(SEP)
    if len(parts) < 7 or not _HEX.match(parts[-2]) or not _DIGITS.match(parts[-1]):
        return None
    batch = ext == ".jsonl"
    if len(parts) != (8 if batch else 7):
        return None
    name = _name(parts[:-2], batch)
    return None if name is None else Claim(name, parts[-2], int(parts[-1]))


class Grave(NamedTuple):
    """A name in dead/: why, and the message's name where it has one."""

    reason: str
    name: Name | None


def dead(name: Name, reason: str) -> str:
    return f"{name.stem}~{reason}{name.ext}"


def malformed(text: str, now: int) -> str:
    """Where something that follows no grammar goes: its own name made safe and short behind the time and the reason."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text)[-120:]
    return f"{now:016d}~malformed~{safe}"


def parse_dead(text: str) -> Grave | None:
    parts = text.split(SEP)
    if len(parts) >= 3 and _DIGITS.match(parts[0]) and parts[1] == "malformed":
        return Grave("malformed", None)
    stem, ext = _split(text)
    if ext is None:
        return None
    parts = stem.split(SEP)
    batch = ext == ".jsonl"
    if len(parts) != (7 if batch else 6):
        return None
    name = _name(parts[:-1], batch)
    return None if name is None else Grave(parts[-1], name)


def parse_in(folder: str, text: str) -> Name | None:
    """The message's name in any folder; None where it is outside the grammar of that folder."""
    if folder == "claimed":
        claim = parse_claimed(text)
        return claim.name if claim else None
    if folder == "dead":
        grave = parse_dead(text)
        return grave.name if grave else None
    return parse(text)


def _split(text: str) -> tuple[str, str | None]:
    if text.endswith(".json"):
        return text[:-5], ".json"
    if text.endswith(".jsonl"):
        return text[:-6], ".jsonl"
    return text, None


def _name(parts: list[str], batch: bool) -> Name | None:
    number = parts[3].split(".")
    if len(number) != 3 or parts[1] not in LANE or not _DIGITS.match(parts[0]) or not _HEX.match(number[1]):
        return None
    if not is_agent_id(parts[2]) or (batch and parts[5] == "0"):
        return None
    try:
        return Name(
            int(parts[0]),
            parts[1],
            parts[2],
            _natural(number[0]),
            number[1],
            _natural(number[2]),
            _natural(parts[4]),
            _natural(parts[5]) if batch else None,
        )
    except ValueError:
        return None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or (text[0] == "0" and text != "0"):
        raise ValueError(text)
    return int(text)
