"""A gap counts only when a number is proven missing: in no lane, not claimed, not dead."""

from __future__ import annotations

from cfn.bus.events import Event, GapFound
from cfn.bus.protocol import Bus, Draft, Mailbox

from .stage import HandClock, Stage


def ack_all(mailbox: Mailbox) -> list[int]:
    got = []
    while deliveries := mailbox.receive(limit=10):
        for delivery in deliveries:
            delivery.ack()
            got += [message.sequence for message in delivery.messages]
    return got


def test_a_message_that_vanished_is_counted_and_announced(stage: Stage) -> None:
    bus = stage.open()
    heard: list[Event] = []
    bus.observe(heard.append)
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(6):
        alice.send("bob", "t", {})
    stage.lose("bob", 3)
    assert ack_all(bob) == [1, 2, 4, 5, 6]
    assert bob.gaps == 1
    [gap] = [event for event in heard if isinstance(event, GapFound)]
    assert (gap.agent, gap.sender, gap.first, gap.last) == ("bob", "alice", 3, 3)


def test_each_missing_number_is_counted_once(stage: Stage) -> None:
    bus = stage.open()
    heard: list[Event] = []
    bus.observe(heard.append)
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(10):
        alice.send("bob", "t", {})
    for number in (2, 3, 4, 7):
        stage.lose("bob", number)
    assert ack_all(bob) == [1, 5, 6, 8, 9, 10]
    assert bob.gaps == 4
    spans = [(event.first, event.last) for event in heard if isinstance(event, GapFound)]
    assert spans == [(2, 4), (7, 7)]
    alice.send("bob", "t", {})
    ack_all(bob)
    assert bob.gaps == 4


def test_the_first_message_of_a_fresh_mailbox_may_be_the_missing_one(stage: Stage) -> None:
    bus = stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(3):
        alice.send("bob", "t", {})
    stage.lose("bob", 1)
    assert ack_all(bob) == [2, 3]
    assert bob.gaps == 1


def test_a_lost_batch_counts_each_of_its_messages(stage: Stage) -> None:
    bus = stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    alice.send_batch("bob", [Draft(type="t", payload={})] * 5)
    alice.send("bob", "t", {})
    stage.lose("bob", 2)
    assert ack_all(bob) == [1, 7]
    assert bob.gaps == 5


def test_a_number_that_waits_in_a_slower_lane_is_no_gap(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    for lane in ("low", "normal", "low", "high", "control"):
        alice.send("bob", "t", {}, priority=lane)
    assert sorted(ack_all(bob)) == [1, 2, 3, 4, 5]
    assert bob.gaps == 0


def test_a_number_that_vanished_from_a_slower_lane_is_a_gap(stage: Stage) -> None:
    bus = stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    for lane in ("high", "low", "low", "high"):
        alice.send("bob", "t", {}, priority=lane)
    stage.lose("bob", 3)
    assert sorted(ack_all(bob)) == [1, 2, 4]
    assert bob.gaps == 1


def test_claimed_released_and_dead_numbers_are_no_gaps(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(3):
        alice.send("bob", "t", {})
    held, late, dead = bob.receive(limit=3)
    late.release(60)
    dead.bury()
    alice.send("bob", "t", {})
    assert ack_all(bob) == [4]
    held.ack()
    clock.advance(61)
    assert ack_all(bob) == [2]
    assert bob.gaps == 0


def test_a_delayed_number_is_no_gap(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {}, delay_s=60)
    alice.send("bob", "t", {})
    assert ack_all(bob) == [2]
    clock.advance(61)
    assert ack_all(bob) == [1]
    assert bob.gaps == 0


def test_a_reply_taken_out_of_turn_is_no_gap(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    bob.send("alice", "note", {})

    def answer() -> None:
        own = second.open("bob")
        own.send("alice", "note", {})
        [delivery] = own.receive(30)
        own.reply(delivery.message, {})
        own.send("alice", "note", {})
        delivery.ack()

    answering = stage.meanwhile(answer)
    alice.request("bob", "q", {}, timeout_s=30)
    answering.result(30)
    bob.send("alice", "note", {})
    assert len(ack_all(alice)) == 4
    assert alice.gaps == 0


def test_a_new_incarnation_of_the_receiver_sees_no_gap_in_what_the_old_one_acknowledged(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(5):
        alice.send("bob", "t", {})
    for delivery in bob.receive(limit=3):
        delivery.ack()
    bob.close()
    bob = bus.register("bob")
    for _ in range(3):
        alice.send("bob", "t", {})
    assert len(ack_all(bob)) == 5
    assert bob.gaps == 0


def test_a_delayed_message_to_the_old_incarnation_is_no_gap_for_the_new_one(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(4):
        alice.send("bob", "t", {})
    alice.send("bob", "t", {}, delay_s=60)
    assert ack_all(bob) == [1, 2, 3, 4]
    bob.close()
    bob = bus.register("bob")
    alice.send("bob", "t", {})
    assert len(ack_all(bob)) == 1
    clock.advance(61)
    assert len(ack_all(bob)) == 1
    assert bob.gaps == 0


def test_a_new_incarnation_of_the_sender_begins_a_stream_of_its_own(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(3):
        alice.send("bob", "t", {})
    alice.close()
    alice = bus.register("alice")
    assert [alice.send("bob", "t", {}).sequence for _ in range(2)] == [1, 2]
    assert ack_all(bob) == [1, 2, 3, 1, 2]
    assert bob.gaps == 0
