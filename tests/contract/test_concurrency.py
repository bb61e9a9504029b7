"""Many at once: nothing lost, nothing doubled, in order for each writer. Real processes for the file bus, threads in memory."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict

from cfn.errors import AgentExists, AgentGone
from cfn.message import Message

from .history import History
from .stage import Stage, eventually

SENDERS = 4
EACH = 500


def test_four_senders_with_five_hundred_messages_each_to_one_receiver(stage: Stage) -> None:
    bus = stage.open()
    history = History(bus)
    bob = bus.register("bob")
    others = [stage.elsewhere() for _ in range(SENDERS)]
    for number, other in enumerate(others):
        other.tell("register", agent=f"sender-{number}")
    floods = [other.start("flood", to="bob", count=EACH) for other in others]
    numbers: dict[str, list[int]] = defaultdict(list)
    got: list[str] = []
    while len(got) < SENDERS * EACH:
        deliveries = bob.receive(30, limit=20)
        assert deliveries, f"nothing came for 30 s after {len(got)} of {SENDERS * EACH}"
        for delivery in deliveries:
            assert delivery.attempt == 1
            delivery.ack()
            got.append(delivery.message.msg_id)
            numbers[delivery.message.sender].append(delivery.message.sequence)
    sent = [msg_id for flood in floods for msg_id in flood.result(60)]
    assert len(set(got)) == len(got)
    assert sorted(got) == sorted(sent)
    assert numbers == {f"sender-{number}": list(range(1, EACH + 1)) for number in range(SENDERS)}
    assert bob.gaps == 0
    assert (bus.count("bob"), bus.count("bob", "claimed"), bus.count("bob", "dead")) == (0, 0, 0)
    assert history.places() == {}


def test_four_receivers_of_one_shared_mailbox(stage: Stage) -> None:
    bus = stage.open(max_inbox=3000)
    alice = bus.register("alice")
    bus.register("pool", shared=True, attended=False)
    receivers = [stage.open(max_inbox=3000).open("pool") for _ in range(4)]
    sent = [alice.send("pool", "t", {"n": n}).msg_id for n in range(800)]

    def drain(number: int) -> list[str]:
        got = []
        while deliveries := receivers[number].receive(0.5, limit=5):
            for delivery in deliveries:
                delivery.ack()
                got.append(delivery.message.msg_id)
        return got

    got = [msg_id for each in [stage.meanwhile(drain, number) for number in range(4)] for msg_id in each.result(60)]
    assert len(got) == len(set(got))
    assert sorted(got) == sorted(sent)


def test_receivers_that_are_killed_lose_nothing(stage: Stage) -> None:
    bus = stage.open(lease=2, heartbeat=0.3)
    history = History(bus)
    alice = bus.register("alice")
    bus.register("bob", attended=False, shared=True)
    for _ in range(60):
        history.send(alice, "bob")
    for _ in range(3):
        other = stage.elsewhere(lease=2, heartbeat=0.3)
        other.tell("register", agent="bob")
        assert len(other.tell("claim", limit=10, lease_s=2)) == 10
        other.kill()
        history.check()
        stage.wait_until_dead(bus, "bob")
    last = bus.register("bob")
    seen = 0
    while seen < 60:
        deliveries = last.receive(20, limit=7)
        assert deliveries, f"nothing came for 20 s after {seen} of 60"
        for delivery in deliveries:
            history.ack(delivery)
            seen += 1
    history.check(acknowledged=60)


def test_two_that_register_one_id_at_once_do_not_both_get_it(stage: Stage) -> None:
    stage.open()
    handles = [stage.open() for _ in range(6)]

    def enter(number: int) -> int:
        try:
            return handles[number].register("same").epoch
        except AgentExists:
            return 0

    for _ in range(5):
        got = [future.result(30) for future in [stage.meanwhile(enter, number) for number in range(6)]]
        assert len([epoch for epoch in got if epoch]) == 1, got
        handles[0].remove("same")


def test_senders_and_a_removal_at_once_account_for_every_message(stage: Stage) -> None:
    bus = stage.open()
    history = History(bus)
    handles = [stage.open() for _ in range(3)]
    mailboxes = [handle.register(f"sender-{number}") for number, handle in enumerate(handles)]
    bus.register("bob")
    start = stage.barrier(4)

    def flood(number: int) -> list[Message]:
        sent: list[Message] = []
        start.wait(30)
        with contextlib.suppress(AgentGone):
            while len(sent) < 300:
                sent.append(mailboxes[number].send("bob", "t", {"n": len(sent)}))
        return sent

    floods = [stage.meanwhile(flood, number) for number in range(3)]
    start.wait(30)
    bus.remove("bob")
    for flood_ in floods:
        history.note_sent(flood_.result(60))
    history.check(dead=len(history.sent))


def test_senders_account_for_every_message_while_the_recipient_is_removed_and_made_anew(stage: Stage) -> None:
    bus = stage.open()
    history = History(bus)
    handles = [stage.open() for _ in range(3)]
    mailboxes = [handle.register(f"sender-{number}") for number, handle in enumerate(handles)]
    bus.register("bob", attended=False)
    done = threading.Event()

    def flood(number: int) -> list[Message]:
        sent = []
        for n in range(300):
            try:
                sent.append(mailboxes[number].send("bob", "t", {"n": n}))
            except AgentGone:
                eventually(lambda: bus.agents() and any(i.agent == "bob" for i in bus.agents()), "bob is back")
        return sent

    floods = [stage.meanwhile(flood, number) for number in range(3)]
    registrar = stage.open()

    def churn() -> int:
        rounds = 0
        while (rounds < 50 and not done.is_set()) or not rounds:
            registrar.remove("bob")
            registrar.register("bob", attended=False)
            rounds += 1
        return rounds

    churning = stage.meanwhile(churn)
    try:
        for flood_ in floods:
            history.note_sent(flood_.result(100))
    finally:
        done.set()
    assert churning.result(30) > 0
    bus.remove("bob")
    history.check(dead=len(history.sent))
