"""Promise 3: first deliveries of one writer, in one lane, come in sequence order; aging chooses between lane heads only."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

from cfn.bus.protocol import Bus, Delivery, Draft, Mailbox
from cfn.message import LANES

from .stage import HandClock, Stage


def receive_all(mailbox: Mailbox, limit: int = 10) -> list[Delivery]:
    """Until nothing comes; each is acknowledged."""
    got: list[Delivery] = []
    while batch := mailbox.receive(limit=limit):
        for delivery in batch:
            delivery.ack()
        got += batch
    return got


def test_one_writer_in_one_lane_comes_in_order(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = [alice.send("bob", "t", {"n": n}) for n in range(700)]
    assert [delivery.message for delivery in receive_all(bob, limit=7)] == sent


def test_each_lane_of_each_writer_keeps_its_own_order_when_all_are_mixed(stage: Stage) -> None:
    bus = stage.open()
    writers = [stage.open().register(name) for name in ("alice", "anna", "ada")]
    bob = bus.register("bob")
    sent: dict[tuple[str, str], list[int]] = defaultdict(list)
    for turn in range(40):
        for writer, lane in itertools.product(writers, LANES):
            if (turn + len(lane)) % 3:
                message = writer.send("bob", "t", {}, priority=lane)
                sent[writer.agent, lane].append(message.sequence)
    got: dict[tuple[str, str], list[int]] = defaultdict(list)
    for delivery in receive_all(bob, limit=3):
        got[delivery.message.sender, delivery.message.priority].append(delivery.message.sequence)
    assert got == sent
    assert bob.gaps == 0


def test_order_holds_while_messages_keep_coming(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent, got = [], []
    for n in range(400):
        sent.append(alice.send("bob", "t", {"n": n}))
        if n % 3 == 0:
            for delivery in bob.receive(limit=2):
                delivery.ack()
                got.append(delivery.message)
    got += [delivery.message for delivery in receive_all(bob)]
    assert got == sent


def test_one_writer_stays_in_order_when_the_clock_stands_still_or_goes_back(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = []
    for n in range(15):
        sent.append(alice.send("bob", "t", {"n": n}))
        clock.advance(-0.001 if n % 2 else -0.0000011)
    clock.advance(1)
    assert [delivery.message for delivery in receive_all(bob)] == sent


def test_a_batch_keeps_its_place_between_single_messages(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = [alice.send("bob", "t", {})]
    sent += alice.send_batch("bob", [Draft(type="t", payload={}) for _ in range(5)])
    sent += [alice.send("bob", "t", {})]
    got = [message for delivery in receive_all(bob) for message in delivery.messages]
    assert got == sent


def test_high_goes_before_normal_before_low_when_they_are_of_one_age(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    for lane in ("low", "normal", "high", "control"):
        alice.send("bob", "t", {}, priority=lane)
    assert [delivery.message.priority for delivery in bob.receive(limit=4)] == ["control", "high", "normal", "low"]


def test_a_low_message_that_has_waited_goes_before_a_fresh_high_one(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    low = alice.send("bob", "t", {}, priority="low")
    clock.advance(60)
    alice.send("bob", "t", {}, priority="high")
    assert bob.receive()[0].message == low


def test_low_is_not_starved_by_a_flood_of_high(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    for lane in ("normal", "low"):
        alice.send("bob", "t", {}, priority=lane)
    seen: dict[str, int] = {}
    for tenth in range(200):  # two high ones come every 0.1 s, and one message is taken
        alice.send("bob", "t", {}, priority="high")
        alice.send("bob", "t", {}, priority="high")
        clock.advance(0.1)
        [delivery] = bob.receive()
        delivery.ack()
        seen.setdefault(delivery.message.priority, tenth)
    assert seen["high"] == 0
    assert seen["normal"] < seen["low"] < 200


def test_control_goes_before_a_backlog_of_five_thousand(stage: Stage) -> None:
    bus = stage.open(max_inbox=2000)
    alice, bob = bus.register("alice"), bus.register("bob")
    for n in range(1000):
        alice.send("bob", "t", {"n": n}, priority="high")
    for _ in range(8):
        alice.send_batch("bob", [Draft(type="t", payload={})] * 500)
    cancel = alice.send("bob", "cancel", {}, priority="control")
    assert bob.receive()[0].message == cancel
    work = bob.receive(limit=3)
    assert [delivery.message.payload["n"] for delivery in work] == [0, 1, 2]
    again = alice.send("bob", "cancel", {}, priority="control")
    assert bob.receive()[0].message == again, "control also goes before what was already listed"
    assert [delivery.message.payload["n"] for delivery in bob.receive(limit=2)] == [3, 4]


def test_control_only_leaves_everything_else_where_it_is(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    work = alice.send("bob", "t", {}, priority="high")
    assert bob.receive(control_only=True) == []
    cancel = alice.send("bob", "cancel", {}, priority="control")
    assert [delivery.message for delivery in bob.receive(limit=5, control_only=True)] == [cancel]
    assert bus.peek("bob") == [work]


def test_one_receive_may_bring_control_and_work_control_first(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent: list[Any] = [alice.send("bob", "t", {}) for _ in range(3)]
    control = [alice.send("bob", "stop", {}, priority="control") for _ in range(2)]
    assert [delivery.message for delivery in bob.receive(limit=10)] == control + sent


def test_a_limit_is_a_limit(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(5):
        alice.send("bob", "t", {})
        alice.send("bob", "t", {}, priority="control")
    assert [len(bob.receive(limit=limit)) for limit in (1, 3, 5, 5)] == [1, 3, 5, 1]


def test_receivers_of_a_shared_mailbox_get_each_message_once(stage: Stage) -> None:
    bus = stage.open()
    alice, first = bus.register("alice"), bus.register("pool", shared=True)
    others = [stage.open().open("pool") for _ in range(3)]
    sent = {alice.send("pool", "t", {}).msg_id for _ in range(200)}
    got: list[str] = []
    while len(got) < 200:
        before = len(got)
        for receiver in (first, *others):
            for delivery in receiver.receive(limit=7):
                delivery.ack()
                got.append(delivery.message.msg_id)
        assert len(got) > before, f"nothing came after {before} of 200"
    assert sorted(got) == sorted(sent)
    assert first.gaps == sum(other.gaps for other in others) == 0
