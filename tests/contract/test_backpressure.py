"""Promise 4: an inbox is bounded; a sender waits, serving its own control lane; control has its own room."""

from __future__ import annotations

import threading
import time

import pytest

from cfn.bus.protocol import Bus, Delivery
from cfn.errors import AgentGone, InboxFull

from .history import History
from .stage import HandClock, Stage, eventually


def test_a_full_inbox_refuses_a_sender_that_does_not_wait(stage: Stage) -> None:
    bus = stage.open(max_inbox=5)
    history = History(bus)
    alice = bus.register("alice")
    bus.register("bob")
    for _ in range(5):
        history.send(alice, "bob")
    with pytest.raises(InboxFull) as caught:
        history.send(alice, "bob", timeout_s=0)
    assert (caught.value.agent, caught.value.depth, caught.value.retry) == ("bob", 5, "safe")
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.exit_code == 6
    history.check(inbox=5)


def test_a_sender_waits_for_the_setting_or_its_own_timeout(stage: Stage) -> None:
    bus = stage.open(max_inbox=1, send_timeout=0.3)
    alice = bus.register("alice")
    bus.register("bob")
    alice.send("bob", "t", {})
    for options, wait_s in (({}, 0.3), ({"timeout_s": 0.1}, 0.1)):
        start = time.monotonic()
        with pytest.raises(InboxFull):
            alice.send("bob", "t", {}, **options)  # type: ignore[arg-type]
        assert wait_s <= time.monotonic() - start < wait_s + 10
    assert bus.count("bob") == 1


def test_a_waiting_sender_gets_through_when_the_receiver_drains(stage: Stage) -> None:
    bus = stage.open(max_inbox=3)
    history = History(bus)
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(3):
        history.send(alice, "bob")
    own = stage.open(max_inbox=3)
    waiting = stage.meanwhile(lambda: own.open("alice").send("bob", "late", {}, timeout_s=60))
    eventually(waiting.running, "the sender is at work")
    assert not waiting.done(), "nothing made room yet"
    history.ack(bob.receive()[0])
    history.note_sent([waiting.result(30)])
    history.check(inbox=3, acknowledged=1)


def test_a_flood_through_a_narrow_inbox_loses_nothing_and_keeps_the_bound(stage: Stage) -> None:
    bus = stage.open(max_inbox=10)
    bob = bus.register("bob")
    senders = 4
    handles = [stage.open(max_inbox=10) for _ in range(senders)]

    def flood(number: int) -> list[str]:
        mailbox = handles[number].register(f"sender-{number}")
        return [mailbox.send("bob", "t", {"n": n}, timeout_s=60).msg_id for n in range(100)]

    floods = [stage.meanwhile(flood, number) for number in range(senders)]
    got: list[Delivery] = []
    deepest = 0
    end = time.monotonic() + 60
    while len(got) < 100 * senders:
        assert time.monotonic() < end, f"{len(got)} of {100 * senders} came"
        deepest = max(deepest, bus.count("bob"))
        for delivery in bob.receive(0.05, limit=3):
            delivery.ack()
            got.append(delivery)
    sent = [msg_id for each in floods for msg_id in each.result(30)]
    assert sorted(delivery.message.msg_id for delivery in got) == sorted(sent)
    assert deepest <= 10 + senders
    assert bob.gaps == 0


def test_an_agent_may_have_its_own_bound(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob", max_inbox=2)
    alice.send("bob", "t", {})
    alice.send("bob", "t", {})
    with pytest.raises(InboxFull):
        alice.send("bob", "t", {}, timeout_s=0)
    assert bus.agent("bob").max_inbox == 2


def test_control_gets_through_to_a_full_inbox(bus: Bus) -> None:
    alice = bus.register("alice")
    bob = bus.register("bob", max_inbox=2)
    for _ in range(2):
        alice.send("bob", "t", {})
    cancel = alice.send("bob", "cancel", {}, priority="control", timeout_s=0)
    assert bob.receive()[0].message == cancel


def test_a_returned_lease_may_exceed_the_bound(bus: Bus, history: History) -> None:
    alice = bus.register("alice")
    bob = bus.register("bob", max_inbox=2)
    for _ in range(2):
        history.send(alice, "bob")
    held = bob.receive(limit=2)
    for _ in range(2):
        history.send(alice, "bob")
    for delivery in held:
        delivery.release()
    history.check(inbox=4)
    with pytest.raises(InboxFull):
        alice.send("bob", "t", {}, timeout_s=0)


def test_claimed_messages_leave_room(bus: Bus) -> None:
    alice = bus.register("alice")
    bob = bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {})
    bob.receive()
    alice.send("bob", "t", {}, timeout_s=0)


def test_a_waiting_sender_serves_its_control_lane_and_nothing_else(stage: Stage) -> None:
    bus = stage.open(max_inbox=1)
    alice = bus.register("alice")
    bob = bus.register("bob")
    boss = stage.open(max_inbox=1).register("boss")
    alice.send("bob", "t", {})
    boss.send("alice", "work", {})
    cancel = boss.send("alice", "cancel", {}, priority="control")
    served: list[Delivery] = []

    def on_control(delivery: Delivery) -> None:
        served.append(delivery)
        delivery.ack()
        bob.receive()[0].ack()  # what makes room

    alice.on_control = on_control
    late = alice.send("bob", "late", {}, timeout_s=30)
    assert [delivery.message for delivery in served] == [cancel]
    assert bus.peek("bob") == [late]
    assert [message.type for message in bus.peek("alice")] == ["work"]


def test_control_that_comes_while_a_sender_waits_is_served(stage: Stage) -> None:
    bus = stage.open(max_inbox=1)
    bus.register("bob", max_inbox=1)
    own = stage.open(max_inbox=1)
    alice = own.register("alice")
    alice.send("bob", "t", {})
    served = threading.Event()

    def on_control(delivery: Delivery) -> None:
        delivery.ack()
        served.set()

    alice.on_control = on_control
    waiting = stage.meanwhile(alice.send, "bob", "late", {}, timeout_s=60)
    bus.register("boss").send("alice", "ping", {}, priority="control")
    assert served.wait(20), f"control was not served; the sender is {waiting}"
    assert not waiting.done()
    bus.open("bob").receive()[0].ack()
    assert waiting.result(30).type == "late"


def test_without_a_handler_control_waits_in_its_lane(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {})
    cancel = bus.register("boss").send("alice", "cancel", {}, priority="control")
    with pytest.raises(InboxFull):
        alice.send("bob", "t", {}, timeout_s=0.2)
    assert bus.peek("alice") == [cancel]


def test_a_control_handler_that_raises_ends_the_send_unsent(bus: Bus) -> None:
    class Cancelled(Exception):
        pass

    def on_control(delivery: Delivery) -> None:
        delivery.ack()
        raise Cancelled

    alice = bus.register("alice")
    bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {})
    bus.register("boss").send("alice", "cancel", {}, priority="control")
    alice.on_control = on_control
    with pytest.raises(Cancelled):
        alice.send("bob", "late", {}, timeout_s=30)
    assert [message.type for message in bus.peek("bob")] == ["t"]


def test_a_control_handler_that_raises_leaves_the_other_control_messages_in_their_lane(bus: Bus) -> None:
    def on_control(delivery: Delivery) -> None:
        delivery.ack()
        raise InterruptedError

    alice, boss = bus.register("alice"), bus.register("boss")
    bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {})
    boss.send("alice", "cancel", {}, priority="control")
    second = boss.send("alice", "shutdown", {}, priority="control")
    alice.on_control = on_control
    with pytest.raises(InterruptedError):
        alice.send("bob", "late", {}, timeout_s=30)
    assert [delivery.message for delivery in alice.receive(limit=5)] == [second]


def test_a_control_handler_may_itself_send(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob", max_inbox=1)
    boss = bus.register("boss")
    alice.send("bob", "t", {})
    boss.send("alice", "health?", {}, priority="control")

    def on_control(delivery: Delivery) -> None:
        alice.reply(delivery.message, {"ok": True})
        alice.send("bob", "urgent", {}, priority="control")
        delivery.ack()
        for waiting in bob.receive(limit=5):
            waiting.ack()

    alice.on_control = on_control
    late = alice.send("bob", "late", {}, timeout_s=30)
    assert [message.type for message in bus.peek("boss")] == ["response"]
    assert bus.peek("bob") == [late]
    assert late.sequence == 3, "the number was taken after the handler's own message"
    assert [delivery.message for delivery in bob.receive(limit=5)] == [late]
    assert bob.gaps == 0


def test_a_waiting_sender_learns_that_the_recipient_was_removed(stage: Stage) -> None:
    bus = stage.open()
    bus.register("bob", max_inbox=1)
    alice = stage.open().register("alice")
    alice.send("bob", "t", {})
    waiting = stage.meanwhile(alice.send, "bob", "late", {}, timeout_s=60)
    bus.remove("bob")
    with pytest.raises(AgentGone):
        waiting.result(30)


def test_delayed_messages_count_against_the_bound(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice = bus.register("alice")
    bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {}, delay_s=60)
    with pytest.raises(InboxFull):
        alice.send("bob", "t", {}, timeout_s=0)
