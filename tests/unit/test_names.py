"""The grammar of names: what is written is read back; what follows no grammar is None; names sort as they are delivered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfn.bus import names
from cfn.bus.names import AGING_US, LANE, LETTER, Name
from cfn.bus.protocol import REASONS
from cfn.errors import BadAgentId
from cfn.message import LANES, check_agent_id, is_agent_id

times = st.integers(0, 10**16 - 1)
hexes = st.text("0123456789abcdef", min_size=10, max_size=10)
naturals = st.integers(0, 10**18 - 1)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(is_agent_id)
all_names = st.builds(
    Name,
    due=times,
    lane=st.sampled_from(sorted(LANE)),
    sender=ids,
    epoch=naturals,
    writer=hexes,
    seq=naturals,
    attempt=naturals,
    count=st.none() | st.integers(1, 10**6),
)


@given(all_names)
def test_a_name_is_read_back(name: Name) -> None:
    assert names.parse(name.text) == name
    assert "/" not in name.text
    assert len(name.text.encode()) <= 255
    assert not name.text.startswith(".")


@given(all_names, hexes, times)
def test_a_claimed_name_is_read_back_and_is_no_inbox_name(name: Name, holder: str, deadline: int) -> None:
    text = names.claimed(name.text, holder, deadline)
    assert names.parse_claimed(text) == names.Claim(name, holder, deadline)
    assert names.parse(text) is None
    assert names.parse_claimed(name.text) is None


@given(all_names, st.sampled_from(REASONS))
def test_a_dead_name_is_read_back_and_is_no_inbox_name(name: Name, reason: str) -> None:
    text = names.dead(name, reason)
    assert names.parse_dead(text) == names.Grave(reason, name)
    assert names.parse(text) is None
    assert names.parse_claimed(text) is None


@given(st.text(), times)
def test_what_follows_no_grammar_gets_a_safe_short_name_in_dead(text: str, now: int) -> None:
    grave = names.malformed(text, now)
    assert names.parse_dead(grave) == names.Grave("malformed", None)
    assert names.parse(grave) is None
    assert len(grave.encode()) <= 255
    assert not set(grave) & set("/\\\0\n ")


@settings(max_examples=300)
@given(
    st.text()
    | st.lists(st.sampled_from([*"~.-/0nN", "1795537057607569", "0123456789", "alice", ".json", ".jsonl"])).map("".join)
)
def test_no_text_makes_the_parsers_raise(text: str) -> None:
    for parse in (names.parse, names.parse_claimed, names.parse_dead):
        parse(text)
    found = names.parse(text)
    assert found is None or found.text == text, "one name, one spelling"


@pytest.mark.parametrize(
    "text",
    [
        "1795537057607569~n~alice~01.0123456789.1~1.json",
        "1795537057607569~n~alice~1.0123456789.01~1.json",
        "1795537057607569~n~alice~1.0123456789.1~01.json",
        "1795537057607569~n~alice~1.0123456789.1~1~0.jsonl",
        "1795537057607569~n~alice~1.0123456789.1~1~02.jsonl",
        "1795537057607569~n~alice~1.0123456789.+1~1.json",
        "1795537057607569~n~alice~1.0123456789.1_0~1.json",
        "1795537057607569~n~alice~1.0123456789.٣~1.json",
    ],
)
def test_a_second_spelling_of_a_number_is_outside_the_grammar(text: str) -> None:
    assert names.parse(text) is None


@given(all_names, all_names)
def test_the_plain_sort_of_names_is_the_order_of_their_times(one: Name, other: Name) -> None:
    if one.due != other.due:
        assert (one.text < other.text) == (one.due < other.due)


@pytest.mark.parametrize("lane", LANES)
def test_a_message_is_ready_when_its_time_without_the_aging_has_come(lane: str) -> None:
    name = Name(10_000_000, LETTER[lane], "a", 1, "0123456789", 1, 1, None)  # type: ignore[index]
    assert name.ready_at == 10_000_000 - AGING_US[lane]  # type: ignore[index]


def test_aging_rises_from_lane_to_lane_and_control_never_waits() -> None:
    assert [AGING_US[lane] for lane in LANES] == sorted(AGING_US[lane] for lane in LANES)
    assert AGING_US["control"] == 0


def test_a_name_that_was_put_back_is_a_first_delivery() -> None:
    name = Name(1, "n", "a", 1, "0123456789", 1, 0, None)
    assert name.delivery == 1
    assert name._replace(attempt=1).delivery == 1
    assert name._replace(attempt=2).delivery == 2


@given(st.text(max_size=70))
def test_both_checks_of_an_id_say_the_same(text: str) -> None:
    try:
        check_agent_id(text)
    except BadAgentId:
        assert not is_agent_id(text)
    else:
        assert is_agent_id(text)


@pytest.mark.parametrize(
    "agent", ["nul", "NUL.txt", "com1", "lpt0.log", "aux", "con.a.b", "a.", "..", "", "-a", "a~b", "a\n", "a" * 65]
)
def test_an_id_that_is_illegal_is_in_no_name(agent: str) -> None:
    assert not is_agent_id(agent)
    assert names.parse(f"1795537057607569~n~{agent}~1.0123456789.1~1.json") is None
