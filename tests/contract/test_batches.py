"""A batch is one file and one delivery: claimed, renewed, released, acknowledged, buried whole."""

from __future__ import annotations

import pytest

from cfn.bus.protocol import Bus, Draft
from cfn.errors import BadMessage, InboxFull, LeaseLost, MessageTooLarge

from .history import History
from .stage import HandClock, Stage, eventually


def drafts(count: int, **options: float) -> list[Draft]:
    return [Draft(type="work", payload={"n": n}, **options) for n in range(count)]  # type: ignore[arg-type]


def test_a_batch_is_one_delivery_in_order(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = history.send_batch(alice, "bob", drafts(10), term=3, run="r")
    assert bus.count("bob") == 1
    [delivery] = bob.receive(limit=5)
    assert list(delivery.messages) == sent
    assert delivery.message == sent[0]
    assert {(message.term, message.run) for message in delivery.messages} == {(3, "r")}
    history.check(claimed=10)
    history.ack(delivery)
    history.check(acknowledged=10)
    assert bob.receive() == []


def test_a_batch_of_one_is_still_a_batch(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send_batch("bob", drafts(1))
    assert [list(delivery.messages) for delivery in bob.receive(limit=5)] == [sent]


def test_drafts_may_come_from_any_iterable_and_carry_their_own_fields(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send_batch("bob", (Draft(type=t, payload={}, reply_to=t, expires_at=4e9) for t in ("a", "b")))
    [delivery] = bob.receive()
    assert [(m.type, m.reply_to, m.expires_at) for m in delivery.messages] == [("a", "a", 4e9), ("b", "b", 4e9)]


def test_a_batch_is_renewed_and_released_whole(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send_batch("bob", drafts(3))
    [delivery] = bob.receive(lease_s=5)
    clock.advance(4)
    delivery.renew(5)
    clock.advance(4)
    assert bus.sweep().returned == 0
    delivery.release()
    [again] = bob.receive()
    assert list(again.messages) == sent
    assert again.attempt == 2


def test_a_batch_that_was_lost_comes_back_whole_and_its_late_ack_fails(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send_batch("bob", drafts(3))
    [delivery] = bob.receive(lease_s=5)
    clock.advance(6)
    assert bus.sweep().returned == 1
    with pytest.raises(LeaseLost):
        delivery.ack()
    [again] = bob.receive()
    assert list(again.messages) == sent


def test_a_batch_is_buried_whole(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    history.send_batch(alice, "bob", drafts(4))
    bob.receive()[0].bury("rejected")
    assert bus.count("bob", "dead") == 1
    history.check(dead=4)
    [letter] = bus.dead("bob")
    assert (letter.reason, letter.sender, letter.message) == ("rejected", "alice", None)


def test_a_batch_is_put_back_whole(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send_batch("bob", drafts(4))
    bob.receive()[0].bury()
    bus.put_back(bus.dead("bob")[0].letter)
    [again] = bob.receive()
    assert list(again.messages) == sent


def test_a_batch_survives_its_receipt(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send_batch("bob", drafts(3))
    [delivery] = bob.receive()
    other = second.redeem(delivery.receipt)
    assert list(other.messages) == sent
    other.ack()
    assert bus.count("bob", "claimed") == 0


def test_a_batch_counts_as_one_file_against_the_bound(stage: Stage) -> None:
    bus = stage.open(max_inbox=2)
    alice = bus.register("alice")
    bus.register("bob")
    alice.send_batch("bob", drafts(50))
    alice.send_batch("bob", drafts(50))
    with pytest.raises(InboxFull):
        alice.send_batch("bob", drafts(50), timeout_s=0)
    assert bus.count("bob") == 2


def test_a_batch_is_itself_bounded(stage: Stage) -> None:
    bus = stage.open(max_batch=10)
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(BadMessage, match="CFN_MAX_BATCH"):
        alice.send_batch("bob", drafts(11))
    with pytest.raises(BadMessage):
        alice.send_batch("bob", [])
    assert bus.count("bob") == 0
    assert len(alice.send_batch("bob", drafts(10))) == 10


def test_one_message_above_the_limit_stops_the_whole_batch(stage: Stage) -> None:
    bus = stage.open(max_message_bytes=2000)
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(MessageTooLarge):
        alice.send_batch("bob", [*drafts(3), Draft(type="work", payload={"text": "x" * 2000})])
    assert bus.count("bob") == 0
    assert alice.send("bob", "work", {}).sequence == 1


def test_a_batch_too_large_as_a_whole_is_refused(stage: Stage) -> None:
    bus = stage.open(max_message_bytes=1000)
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(MessageTooLarge) as caught:
        alice.send_batch("bob", [Draft(type="work", payload={"text": "x" * 500}) for _ in range(100)])
    assert caught.value.size_bytes > caught.value.limit_bytes
    assert bus.count("bob") == 0


def test_a_batch_is_expired_only_when_all_of_it_is(stage: Stage) -> None:
    bus = stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send_batch("bob", [Draft(type="t", payload={}, expires_at=1.0), Draft(type="t", payload={}, expires_at=2.0)])
    alice.send_batch("bob", [Draft(type="t", payload={}, expires_at=1.0), Draft(type="t", payload={})])
    [delivery] = bob.receive(limit=5)
    assert len(delivery.messages) == 2
    assert [letter.reason for letter in bus.dead("bob")] == ["expired"]


def test_peek_shows_each_message_of_a_batch(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    sent = alice.send_batch("bob", drafts(5))
    assert bus.peek("bob") == sent
    assert bus.peek("bob", limit=2) == sent[:2]


def test_a_batch_wakes_a_waiting_receiver(stage: Stage) -> None:
    bus = stage.open()
    alice = bus.register("alice")
    waiting = stage.meanwhile(lambda: stage.open().register("bob").receive(20))
    eventually(lambda: [info for info in bus.agents() if info.agent == "bob"], "bob registered")
    sent = alice.send_batch("bob", drafts(3))
    assert list(waiting.result(30)[0].messages) == sent
