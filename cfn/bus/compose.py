"""What a caller said, checked; and messages on their way out, made into bytes. Shared by every transport."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from cfn.bus.protocol import BOXES, REASONS, Draft
from cfn.errors import BadMessage, MessageTooLarge, UsageError
from cfn.message import LANES, Lane, Message, encode, new_id
from cfn.settings import Settings

#: A batch may hold this many times the largest message: a batch is one file, and one file is bounded.
BATCH_FACTOR = 8


def check_draft(type: str, payload: Mapping[str, Any], priority: Lane) -> None:
    """Raises: BadMessage, before anything is written."""
    if not _is_text(type):
        raise BadMessage(f"a message needs a type, got {type!r}")
    if not isinstance(payload, Mapping):
        raise BadMessage(f'the payload must be a JSON object, got {_kind(payload)}: wrap it, as in {{"value": ...}}')
    if priority not in LANES:
        raise BadMessage(f"the priority {priority!r} is not one of {', '.join(LANES)}")


def check_optional(reply_to: object, term: object, run: object, trace: object) -> None:
    """Raises: BadMessage for a field that the receiver would bury as malformed."""
    for name, value in (("reply_to", reply_to), ("run", run), ("trace", trace)):
        if value is not None and not isinstance(value, str):
            raise BadMessage(f"{name}={value!r} must be a string")
    if term is not None and (isinstance(term, bool) or not isinstance(term, int)):
        raise BadMessage(f"term={term!r} must be an integer")


def microseconds(seconds: float, what: str) -> int:
    """A duration that a caller gave, in µs. Raises: UsageError."""
    if not 0 <= seconds < 1e9:
        raise UsageError(f"{what}={seconds!r} must be a number of seconds, 0 or more")
    return int(seconds * 1e6)


#: A claim that is held until later than this was made by another clock (another boot): it counts as over.
LONGEST_LEASE_S = 7 * 24 * 3600


def lease_us(seconds: float) -> int:
    """The length of a lease, in µs. Raises: UsageError."""
    if not 0 <= seconds <= LONGEST_LEASE_S:
        raise UsageError(f"lease_s={seconds!r} must be a number of seconds from 0 to {LONGEST_LEASE_S} (a week)")
    return int(seconds * 1e6)


def check_box(box: str) -> None:
    """Raises: UsageError. A box is the name of a folder: nothing else may become one."""
    if box not in BOXES:
        raise UsageError(f"{box!r} is not a box: use one of {', '.join(BOXES)}")


def check_reason(reason: str) -> None:
    """Raises: UsageError. A reason is part of a file's name: nothing else may become one."""
    if reason not in REASONS:
        raise UsageError(f"{reason!r} is not a reason code: use one of {', '.join(REASONS)}")


def compose(
    sender: str,
    epoch: int,
    to: str,
    sequence: int,
    type: str,
    payload: Mapping[str, Any],
    priority: Lane,
    **optional: Any,
) -> Message:
    """The message that will be sent now. `optional`: reply_to, expires_at, term, run, trace."""
    return Message(
        msg_id=new_id(),
        sender=sender,
        to=to,
        type=type,
        sequence=sequence,
        timestamp=time.time(),
        payload=payload if isinstance(payload, dict) else dict(payload),
        priority=priority,
        epoch=epoch,
        **optional,
    )


def expires_at(expires_in_s: float | None) -> float | None:
    if expires_in_s is None:
        return None
    if not expires_in_s > 0:
        raise UsageError(f"expires_in_s={expires_in_s!r} must be above 0")
    return time.time() + expires_in_s


def check_drafts(drafts: Iterable[Draft], priority: Lane, settings: Settings) -> list[Draft]:
    """The drafts of one batch. Raises: BadMessage (empty, too many, or one of them is not a message)."""
    batch = list(drafts)
    if not batch:
        raise BadMessage("a batch needs at least one message")
    if len(batch) > settings.max_batch:
        raise BadMessage(
            f"the batch has {len(batch)} messages, above the limit of {settings.max_batch} (CFN_MAX_BATCH): send it in parts"
        )
    for draft in batch:
        check_draft(draft.type, draft.payload, priority)
        check_optional(draft.reply_to, None, None, None)
    return batch


def encode_batch(messages: list[Message], settings: Settings) -> bytes:
    """One line a message. Raises: MessageTooLarge for one message, or for all of them together."""
    raw = b"".join(encode(message, settings.max_message_bytes) for message in messages)
    limit = BATCH_FACTOR * settings.max_message_bytes
    if len(raw) > limit:
        raise MessageTooLarge(
            f"the batch has {len(raw)} bytes, above the limit of {limit} ({BATCH_FACTOR} x CFN_MAX_MESSAGE_BYTES): send it in parts",
            size_bytes=len(raw),
            limit_bytes=limit,
        )
    return raw


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _kind(value: object) -> str:
    return {"list": "a list", "str": "a string", "NoneType": "null", "int": "a number", "float": "a number"}.get(
        type(value).__name__, type(value).__name__
    )
