"""Which numbers were seen: against a plain set as the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfn.bus.sequences import Sequences


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 40), st.integers(1, 5)), max_size=60), st.booleans())
def test_it_remembers_exactly_what_it_was_told(told: list[tuple[str, int, int]], from_one: bool) -> None:
    sequences = Sequences(from_one)
    model: dict[str, set[int]] = {"a": set(), "b": set()}
    for stream, seq, count in told:
        hole = sequences.hole_before(stream, seq)
        top = max(model[stream], default=0 if from_one else seq - 1)
        assert hole == ((top + 1, seq - 1) if seq > top + 1 else None)
        sequences.add(stream, seq, count)
        model[stream] |= set(range(seq, seq + count))
    for stream, numbers in model.items():
        for number in range(1, 50):
            assert sequences.seen(stream, number) == (number in numbers)


def test_in_order_a_stream_is_one_interval_at_any_length() -> None:
    sequences = Sequences()
    for number in range(1, 100_001):
        assert sequences.hole_before("s", number) is None
        sequences.add("s", number)
    assert sequences.hole_before("s", 100_003) == (100_001, 100_002)


@pytest.mark.parametrize("from_one", [True, False])
def test_only_a_fresh_mailbox_expects_a_stream_to_start_at_one(from_one: bool) -> None:
    assert Sequences(from_one).hole_before("s", 4) == ((1, 3) if from_one else None)
    assert Sequences(from_one).hole_before("s", 1) is None


def test_an_older_number_is_no_hole() -> None:
    sequences = Sequences()
    sequences.add("s", 1, 5)
    assert sequences.hole_before("s", 3) is None
    assert sequences.hole_before("s", 6) is None
    assert sequences.hole_before("s", 8) == (6, 7)
