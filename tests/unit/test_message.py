"""The message: what was encoded comes back, what is no message is named, and the published schema says the same."""

from __future__ import annotations

import contextlib
import json
import math
from importlib import resources
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cfn.errors import BadMessage, MessageTooLarge
from cfn.message import LANES, OPTIONAL, Message, decode, dump_json, encode, from_dict, load_json, new_id

SCHEMA = json.loads(resources.files("cfn").joinpath("message.schema.json").read_text("utf-8"))
VALID = Draft202012Validator(SCHEMA)

GOOD: dict[str, Any] = {
    "msg_id": "e1811a13-0c35-4a35-9461-866f012382bd",
    "from": "alice",
    "to": "bob",
    "type": "task",
    "sequence": 1,
    "timestamp": 1795537056.607,
    "payload": {"path": "a.py"},
}
MISSING = object()


def changed(**fields: Any) -> dict[str, Any]:
    merged = {**GOOD, **{name.removesuffix("_"): value for name, value in fields.items()}}
    return {name: value for name, value in merged.items() if value is not MISSING}


#: What breaks a message, and the word by which the error must name it.
BROKEN: list[tuple[Any, str]] = [
    ([], "object"),
    ("text", "object"),
    (5, "object"),
    (None, "object"),
    *[(changed(**{name: MISSING}), name) for name in GOOD],
    *[(changed(**{name: None}), name) for name in GOOD],
    *[(changed(**{name: 5}), name) for name in ("msg_id", "from", "to", "type", "payload")],
    *[(changed(**{name: ""}), name) for name in ("msg_id", "from", "to", "type")],
    (changed(sequence="1"), "sequence"),
    (changed(sequence=-1), "sequence"),
    (changed(sequence=1.5), "sequence"),
    (changed(sequence=True), "sequence"),
    (changed(timestamp="now"), "timestamp"),
    (changed(timestamp=True), "timestamp"),
    (changed(payload=[]), "payload"),
    (changed(payload="text"), "payload"),
    (changed(priority="urgent"), "priority"),
    (changed(priority=""), "priority"),
    (changed(priority=0), "priority"),
    (changed(priority=["high"]), "priority"),
    *[(changed(**{name: 5}), name) for name in ("reply_to", "run", "trace", "sig")],
    *[(changed(**{name: "1"}), name) for name in ("epoch", "term", "expires_at")],
    *[(changed(**{name: True}), name) for name in ("epoch", "term", "expires_at")],
    (changed(term=1.5), "term"),
]


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_names_the_fields_that_the_code_knows() -> None:
    assert set(SCHEMA["properties"]) == set(GOOD) | set(OPTIONAL)
    assert SCHEMA["required"] == list(GOOD)
    assert SCHEMA["properties"]["priority"]["enum"] == [*LANES, None]


@pytest.mark.parametrize(("data", "word"), BROKEN, ids=lambda value: json.dumps(value)[-60:] if value else repr(value))
def test_a_broken_message_is_refused_by_name_and_by_the_schema(data: Any, word: str) -> None:
    raw = json.dumps(data).encode()
    with pytest.raises(BadMessage, match=word) as caught:
        decode(raw)
    assert "\n" not in str(caught.value)
    assert not VALID.is_valid(data)


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        changed(sequence=0, timestamp=0),
        changed(**dict.fromkeys(OPTIONAL)),
        changed(priority="control", reply_to="r", expires_at=1.5, epoch=1, term=2, run="r", trace="t", sig="s"),
        changed(unknown={"deep": [1]}, another=None),
        changed(payload={}),
        *[changed(priority=lane) for lane in LANES],
    ],
    ids=lambda data: json.dumps(data)[-50:],
)
def test_a_good_message_is_taken_by_the_code_and_by_the_schema(data: dict[str, Any]) -> None:
    VALID.validate(data)
    message = from_dict(data)
    VALID.validate(json.loads(encode(message)))


def test_absent_and_null_optional_fields_mean_the_same() -> None:
    assert from_dict(changed(**dict.fromkeys(OPTIONAL))) == from_dict(GOOD)


def test_the_json_is_one_line_with_the_required_fields_first() -> None:
    raw = encode(from_dict(changed(priority="high", run="r", zebra=1)))
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    assert list(json.loads(raw)) == [*GOOD, "priority", "run", "zebra"]


def test_what_is_absent_is_not_written() -> None:
    assert list(json.loads(encode(from_dict(GOOD)))) == list(GOOD)


def test_unknown_fields_survive() -> None:
    message = from_dict(changed(color="blue", nested={"a": [1, None]}))
    assert message.extra == {"color": "blue", "nested": {"a": [1, None]}}
    assert decode(encode(message)) == message


def test_an_unknown_field_cannot_take_the_place_of_a_known_one() -> None:
    message = Message(**{**_fields(from_dict(GOOD)), "extra": {"from": "mallory", "color": "blue"}})
    assert json.loads(encode(message))["from"] == "alice"


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in Message.__slots__}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
payloads = st.dictionaries(st.text(), json_values, max_size=5)
text = st.text(min_size=1)
messages = st.builds(
    Message,
    msg_id=text,
    sender=text,
    to=text,
    type=text,
    sequence=st.integers(0, 2**63),
    timestamp=st.floats(0, 1e11) | st.integers(0, 10**11),
    payload=payloads,
    priority=st.sampled_from(LANES),
    reply_to=st.none() | st.text(),
    expires_at=st.none() | st.floats(0, 1e11),
    epoch=st.none() | st.integers(0, 2**40),
    term=st.none() | st.integers(-5, 2**40),
    run=st.none() | st.text(),
    trace=st.none() | st.text(),
    sig=st.none() | st.text(),
    extra=st.dictionaries(text.filter(lambda name: name not in {*GOOD, *OPTIONAL}), json_values, max_size=3),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(messages)
def test_what_was_encoded_is_decoded_and_fits_the_schema(message: Message) -> None:
    raw = encode(message)
    assert decode(raw) == message
    assert raw.count(b"\n") == 1
    VALID.validate(json.loads(raw))


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_message(raw: bytes) -> None:
    with contextlib.suppress(BadMessage):
        assert isinstance(decode(raw), Message)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*GOOD, *OPTIONAL, "x"]), json_values))
def test_the_code_and_the_schema_agree_on_any_object(data: dict[str, Any]) -> None:
    data = {**GOOD, **data}
    try:
        from_dict(data)
    except BadMessage:
        whole = isinstance(data["sequence"], float) or any(
            isinstance(data.get(name), float) for name in ("epoch", "term")
        )
        assert whole or not VALID.is_valid(data), "JSON Schema takes 1.0 for an integer; the code does not"
    else:
        VALID.validate(data)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\n", b"{", b'{"a":1', b"{'a':1}", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b"\xff\xfe{}", b"{}{}",
        b'{"a":1}\n{"b":2}', b"[" * 100_000, b'{"a":' * 100_000, b"\x00", b'{"a":"\x01"}', b"1" * 5000, b'{"a":1e999}',
    ],
    ids=lambda raw: repr(raw[:20]),
)  # fmt: skip
def test_what_is_not_strict_json_is_a_bad_message(raw: bytes) -> None:
    with pytest.raises(BadMessage, match="not JSON") as caught:
        load_json(raw)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1, 2}, b"raw", object, {"a": {"b": math.nan}}, {(1, 2): 3}], ids=repr
)
def test_what_json_cannot_say_is_a_bad_message(value: Any) -> None:
    with pytest.raises(BadMessage, match="not JSON"):
        dump_json(value)


def test_a_cycle_and_a_bottomless_nest_are_bad_messages() -> None:
    loop: list[Any] = []
    loop.append(loop)
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    for value in (loop, nest):
        with pytest.raises(BadMessage, match="not JSON"):
            dump_json(value)


def test_text_that_utf8_cannot_carry_is_escaped_and_comes_back() -> None:
    message = from_dict(changed(payload={"\ud800": "lone \udfff surrogate, and ü"}))
    raw = encode(message)
    raw.decode("ascii")
    assert decode(raw) == message


def test_other_text_stays_readable() -> None:
    assert "grüße 你好".encode() in encode(from_dict(changed(payload={"text": "grüße 你好"})))


def test_the_limit_counts_encoded_bytes() -> None:
    message = from_dict(GOOD)
    size = len(encode(message))
    assert encode(message, size) == encode(message)
    with pytest.raises(MessageTooLarge, match="CFN_MAX_MESSAGE_BYTES") as caught:
        encode(message, size - 1)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (size, size - 1)


def test_new_ids_are_version_4_uuids_and_differ() -> None:
    import uuid

    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for text_ in ids[:50]:
        parsed = uuid.UUID(text_)
        assert (str(parsed), parsed.version, parsed.variant) == (text_, 4, uuid.RFC_4122)


def test_a_message_cannot_be_changed() -> None:
    message = from_dict(GOOD)
    with pytest.raises(AttributeError):
        message.type = "other"  # type: ignore[misc]
