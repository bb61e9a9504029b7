"""Looking: peek never consumes, counts are counts, observers hear everything, the doorbell wakes."""

from __future__ import annotations

import select
import time
from typing import Any

import pytest

from cfn.bus.events import Acked, Buried, Delivered, Event, Registered, Released, Removed, Sent
from cfn.bus.protocol import Bus, Draft
from cfn.errors import CfnError, UsageError

from .stage import HandClock, Stage, eventually


def test_peek_never_consumes(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = [alice.send("bob", "t", {"n": n}) for n in range(3)]
    for _ in range(3):
        assert second.peek("bob") == sent
    got = bob.receive(limit=5)
    assert [(delivery.message, delivery.attempt) for delivery in got] == [(message, 1) for message in sent]
    assert second.peek("bob") == []
    assert second.peek("bob", "claimed") == sent
    got[0].ack()
    got[1].bury()
    assert second.peek("bob", "claimed") == [sent[2]]
    assert second.peek("bob", "dead") == [sent[1]]
    assert second.peek("bob", "outbox") == []


def test_peek_shows_control_first_and_at_most_the_limit(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    work = [alice.send("bob", "t", {}) for _ in range(4)]
    control = alice.send("bob", "c", {}, priority="control")
    assert bus.peek("bob") == [control, *work]
    assert bus.peek("bob", limit=3) == [control, *work[:2]]
    assert bus.peek("bob", limit=0) == []


def test_peek_shows_messages_that_are_not_due_yet(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice = bus.register("alice")
    bus.register("bob")
    sent = alice.send("bob", "t", {}, delay_s=60)
    assert bus.peek("bob") == [sent]


def test_a_batch_counts_as_one_file(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send_batch("bob", [Draft(type="t", payload={}) for _ in range(10)])
    alice.send("bob", "t", {})
    alice.send("bob", "t", {}, priority="control")
    boxes: tuple[Any, ...] = ("inbox", "claimed", "outbox", "dead")
    assert [bus.count("bob", box) for box in boxes] == [3, 0, 0, 0]
    bob.receive(limit=2)
    assert [bus.count("bob", box) for box in boxes] == [1, 2, 0, 0]


@pytest.mark.parametrize("box", ["", "nothing", "..", "tmp", "control"])
def test_a_box_that_does_not_exist_is_a_usage_error(bus: Bus, box: Any) -> None:
    bus.register("bob")
    with pytest.raises(UsageError):
        bus.count("bob", box)
    with pytest.raises(UsageError):
        bus.peek("bob", box)


def test_bus_time_only_goes_forward_and_is_one_for_all_handles(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    times = [(bus if n % 2 else second).now() for n in range(1000)]
    assert times == sorted(times)
    assert abs(times[0] / 1e6 - time.time()) < 60, "it reads like Unix time"


# ---------------------------------------------------------------- observers


def test_observers_hear_the_life_of_a_message_in_order(bus: Bus) -> None:
    heard: list[Event] = []
    bus.observe(heard.append)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    bob.receive()[0].release()
    bob.receive()[0].ack()
    alice.send_batch("bob", [Draft(type="t", payload={})] * 3)
    bob.receive()[0].bury("rejected")
    bob.remove()
    assert [(type(event), event.agent) for event in heard] == [
        (Registered, "alice"), (Registered, "bob"),
        (Sent, "alice"), (Delivered, "bob"), (Released, "bob"), (Delivered, "bob"), (Acked, "bob"),
        (Sent, "alice"), (Delivered, "bob"), (Buried, "bob"), (Removed, "bob"),
    ]  # fmt: skip
    times = [event.at for event in heard]
    assert times == sorted(times)
    sent, batch = [event for event in heard if isinstance(event, Sent)]
    assert (sent.to, sent.count, batch.count) == ("bob", 1, 3)
    assert [event.attempt for event in heard if isinstance(event, Delivered)] == [1, 2, 1]
    assert [event.epoch for event in heard if isinstance(event, Registered)] == [1, 1]
    buried, removed = heard[-2], heard[-1]
    assert isinstance(buried, Buried)
    assert isinstance(removed, Removed)
    assert (buried.reason, removed.reason) == ("rejected", "agent-gone")


def test_every_event_of_a_message_names_the_same_stream_and_number(bus: Bus) -> None:
    heard: list[Any] = []
    bus.observe(heard.append)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    bob.receive()[0].release()
    bob.receive()[0].ack()
    names = [event.name for event in heard if hasattr(event, "name")]
    assert len(names) == 5
    assert len({tuple(name.split("~")[2:4]) for name in names}) == 1, names


def test_observers_hear_of_what_is_buried_on_the_way_and_by_a_sweep(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock, max_attempts=1)
    heard: list[Event] = []
    bus.observe(heard.append)
    alice, bob = bus.register("alice"), bus.register("bob")
    bob.min_term = 2
    alice.send("bob", "t", {}, term=1)
    assert bob.receive() == []
    alice.send("bob", "t", {})
    bob.receive(lease_s=5)
    clock.advance(6)
    bus.sweep()
    assert [event.reason for event in heard if isinstance(event, Buried)] == ["fenced", "attempts"]
    assert len([event for event in heard if isinstance(event, Delivered)]) == 1


def test_a_failed_send_is_not_announced(bus: Bus) -> None:
    heard: list[Event] = []
    alice = bus.register("alice")
    bus.observe(heard.append)
    for to, payload in (("nobody", {}), ("alice", {"x": float("nan")})):
        with pytest.raises(CfnError):
            alice.send(to, "t", payload)
    assert heard == []


def test_peek_and_count_are_not_announced(bus: Bus) -> None:
    alice = bus.register("alice")
    alice.send("alice", "t", {})
    heard: list[Event] = []
    bus.observe(heard.append)
    bus.peek("alice")
    bus.count("alice")
    bus.agents()
    bus.dead()
    assert heard == []


def test_an_observer_that_raises_ends_the_operation(bus: Bus) -> None:
    alice = bus.register("alice")

    def broken(event: Event) -> None:
        raise AssertionError(f"observed {type(event).__name__}")

    bus.observe(broken)
    with pytest.raises(AssertionError, match="observed Sent"):
        alice.send("alice", "t", {})


# ---------------------------------------------------------------- waiting and waking


def test_receive_waits_no_longer_than_it_was_told(bus: Bus) -> None:
    bob = bus.register("bob")
    start = time.monotonic()
    assert bob.receive() == []
    assert bob.receive(0.2) == []
    assert 0.2 <= time.monotonic() - start < 10


def test_a_message_wakes_a_waiting_receiver(stage: Stage) -> None:
    bus = stage.open()
    alice = bus.register("alice")
    bob = stage.open().register("bob")
    took = []
    for _ in range(5):
        waiting = stage.meanwhile(lambda: (bob.receive(30), time.monotonic()))
        eventually(waiting.running, "the receiver waits")
        sent = alice.send("bob", "t", {})
        at = time.monotonic()
        [delivery], woke = waiting.result(40)
        assert delivery.message == sent
        delivery.ack()
        took.append(woke - at)
    assert min(took) < 0.2, took


def test_a_doorbell_is_readable_when_mail_came_and_quiet_when_drained(stage: Stage) -> None:
    bus = stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    bell = bob.fileno()
    if bell is None:
        assert "doorbell" in stage.transport or "all" in stage.transport, (
            "no doorbell on a transport that should have one"
        )
        bob.drain_bell()
        return
    bob.drain_bell()
    assert select.select([bell], [], [], 0)[0] == []
    alice.send("bob", "t", {})
    assert select.select([bell], [], [], 20)[0] == [bell]
    bob.drain_bell()
    assert select.select([bell], [], [], 0)[0] == []
    assert len(bob.receive()) == 1, "draining the bell loses no message"


def test_a_poll_loop_that_drains_receives_and_polls_misses_nothing(stage: Stage) -> None:
    bus = stage.open()
    bob = stage.open().register("bob")
    sender = stage.open()

    def flood() -> None:
        alice = sender.register("alice")
        for n in range(300):
            alice.send("bob", "t", {"n": n})

    flooding = stage.meanwhile(flood)
    got: list[int] = []
    bell = bob.fileno()
    end = time.monotonic() + 60
    while len(got) < 300:
        assert time.monotonic() < end, f"{len(got)} of 300 came; waiting: {bus.count('bob')}"
        bob.drain_bell()
        while deliveries := bob.receive(limit=10):
            for delivery in deliveries:
                delivery.ack()
                got.append(delivery.message.payload["n"])
        select.select([] if bell is None else [bell], [], [], 0.05)
    flooding.result(10)
    assert got == list(range(300))
