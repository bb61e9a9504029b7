"""The message: a JSON object that a person can read.

Guarantees: what :func:`encode` wrote, :func:`decode` gives back, unknown fields included; whatever is not a message is a
:class:`~cfn.errors.BadMessage` that names the field. The schema is published in ``cfn/message.schema.json``.

Cost: the standard library's C encoder, 3-4 µs a message; importing it is 8 ms, which a one-shot ``cfn send`` can afford
(msgspec is faster per message and costs 30 ms to import).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cfn.errors import BadAgentId, BadMessage, MessageTooLarge

Lane = Literal["control", "high", "normal", "low"]
LANES: Final[tuple[Lane, ...]] = ("control", "high", "normal", "low")

#: Optional fields of a message, in the order in which they are written.
OPTIONAL: Final = ("priority", "reply_to", "expires_at", "epoch", "term", "run", "trace", "sig")
_REQUIRED: Final = ("msg_id", "from", "to", "type", "sequence", "timestamp", "payload")
_ALWAYS: Final = frozenset(_REQUIRED)
_KNOWN: Final = _ALWAYS | frozenset(OPTIONAL)
_NUMBERS: Final = (int, float)

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DEVICES: Final = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{device}{n}" for device in ("com", "lpt") for n in range(10)]
)


def is_agent_id(text: str) -> bool:
    """Whether `text` is a legal id; see :func:`check_agent_id`."""
    return bool(_AGENT_ID.match(text)) and text[-1] != "." and text.split(".", 1)[0].lower() not in _DEVICES


def check_agent_id(agent: object) -> str:
    """Return `agent` unchanged if it is a legal id, before any path is built from it.

    Legal: 1-64 of ``A-Z a-z 0-9 . _ -``, first a letter or digit, no trailing dot, no Windows device name (also not before
    a dot: ``nul.txt`` opens the device).

    Raises: :class:`~cfn.errors.BadAgentId`.
    """
    if not isinstance(agent, str) or not _AGENT_ID.match(agent):
        shown = repr(agent if isinstance(agent, str) and len(agent) <= 80 else str(agent)[:77] + "...")
        raise BadAgentId(
            f"{shown} is not an agent id: use 1-64 of A-Z a-z 0-9 . _ -, starting with a letter or digit", agent=agent
        )
    if agent.endswith("."):
        raise BadAgentId(f"{agent!r} is not an agent id: it ends with a dot, which Windows drops", agent=agent)
    if agent.split(".", 1)[0].lower() in _DEVICES:
        raise BadAgentId(f"{agent!r} is not an agent id: it is the name of a Windows device", agent=agent)
    return agent


def new_id() -> str:
    """A random UUID (version 4, RFC 9562) as text; without importing `uuid`, 0.9 µs."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(slots=True, frozen=True)
class Message:
    """One message. Times are Unix seconds; `sequence` counts from 1 in its stream (sender, epoch, writer, recipient)."""

    msg_id: str
    sender: str  # "from" in JSON
    to: str
    type: str
    sequence: int
    timestamp: float
    payload: Mapping[str, Any]
    priority: Lane = "normal"
    reply_to: str | None = None  # msg_id of the request that this answers
    expires_at: float | None = None
    epoch: int | None = None  # the sender's incarnation
    term: int | None = None  # the coordinator's term in which it was sent
    run: str | None = None
    trace: str | None = None  # W3C traceparent
    sig: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # fields that this version does not know

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, required fields first, absent optional fields left out."""
        out: dict[str, Any] = {
            "msg_id": self.msg_id,
            "from": self.sender,
            "to": self.to,
            "type": self.type,
            "sequence": self.sequence,
            "timestamp": self.timestamp,
            "payload": self.payload,
        }
        if self.priority != "normal":
            out["priority"] = self.priority
        for name in OPTIONAL[1:]:
            value = getattr(self, name)
            if value is not None:
                out[name] = value
        for name, value in self.extra.items():
            out.setdefault(name, value)  # what is not known cannot take the place of what is
        return out


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True).encode
_dump_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8, one line; text that UTF-8 cannot carry (lone surrogates) is escaped.

    Raises: :class:`~cfn.errors.BadMessage` for what JSON cannot say (NaN, infinities, sets, cycles).
    """
    try:
        return _dump(value).encode()
    except UnicodeEncodeError:
        return _dump_ascii(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (_INF, -_INF):
        raise ValueError(f"{text} is beyond what a number can hold")
    return number


_INF: Final = float("inf")
_load = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode


def load_json(raw: bytes) -> Any:
    """Strict JSON out of UTF-8 bytes. Raises: :class:`~cfn.errors.BadMessage`."""
    try:
        return _load(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON: {error}") from None


def encode(message: Message, limit_bytes: int | None = None) -> bytes:
    """One line of JSON, newline included. Raises: BadMessage, MessageTooLarge (nothing was written)."""
    raw = dump_json(message.to_dict()) + b"\n"
    if limit_bytes is not None and len(raw) > limit_bytes:
        raise MessageTooLarge(
            f"the message has {len(raw)} bytes, above the limit of {limit_bytes} (CFN_MAX_MESSAGE_BYTES): "
            "write the content to a file and send its path",
            size_bytes=len(raw),
            limit_bytes=limit_bytes,
        )
    return raw


def _need(ok: bool, what: str) -> None:
    if not ok:
        raise BadMessage(f"not a message: {what}")


def decode(raw: bytes) -> Message:
    """A message out of one JSON object. Raises: :class:`~cfn.errors.BadMessage` naming the field that is wrong."""
    return from_dict(load_json(raw))


def from_dict(data: Any) -> Message:
    """A message out of a parsed JSON object. Raises: :class:`~cfn.errors.BadMessage`.

    One look at what every message has; only what fails it is looked at field by field, to name the field.
    """
    if not (
        type(data) is dict
        and type(data.get("msg_id")) is str
        and type(data.get("from")) is str
        and type(data.get("to")) is str
        and type(data.get("type")) is str
        and type(data.get("sequence")) is int
        and type(data.get("timestamp")) in _NUMBERS
        and type(data.get("payload")) is dict
        and data["msg_id"]
        and data["from"]
        and data["to"]
        and data["type"]
        and data["sequence"] >= 0
    ):
        _name_what_is_wrong(data)
    optional = _optional(data) if len(data) > len(_REQUIRED) else {}
    return Message(
        data["msg_id"],
        data["from"],
        data["to"],
        data["type"],
        data["sequence"],
        data["timestamp"],
        data["payload"],
        **optional,
    )


def _name_what_is_wrong(data: Any) -> None:
    _need(isinstance(data, dict), "it is not a JSON object")
    for name in _REQUIRED:
        _need(name in data, f"the field {name!r} is missing")
    for name in ("msg_id", "from", "to", "type"):
        _need(isinstance(data[name], str) and data[name] != "", f"{name!r} must be a non-empty string")
    _need(type(data["sequence"]) is int and data["sequence"] >= 0, "'sequence' must be an integer >= 0")
    _need(type(data["timestamp"]) in _NUMBERS, "'timestamp' must be a number (Unix seconds)")
    _need(isinstance(data["payload"], dict), "'payload' must be a JSON object")


def _optional(data: dict[str, Any]) -> dict[str, Any]:
    """The fields beyond those that every message has; an absent one may be null."""
    out: dict[str, Any] = {}
    for name, value in data.items():
        if name in _ALWAYS or (value is None and name in _KNOWN):
            continue
        if name not in _KNOWN:
            out.setdefault("extra", {})[name] = value
            continue
        if name == "priority":
            _need(value in LANES, f"'priority' must be one of {', '.join(LANES)}")
        elif name in ("epoch", "term"):
            _need(type(value) is int, f"{name!r} must be an integer")
        elif name == "expires_at":
            _need(type(value) in _NUMBERS, "'expires_at' must be a number (Unix seconds)")
        else:
            _need(isinstance(value, str), f"{name!r} must be a string")
        out[name] = value
    return out
