"""Request and reply: the answer is taken out of turn, everything else stays."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cfn.bus.protocol import Bus, Draft
from cfn.errors import AgentGone, BadMessage, InboxFull, NoReply

from .stage import Stage, eventually


def answer(bus: Bus, agent: str, *, control_only: bool = False, **options: Any) -> None:
    """Be `agent`, and answer one request."""
    mailbox = bus.open(agent)
    [delivery] = mailbox.receive(30, control_only=control_only)
    mailbox.reply(delivery.message, {"echo": dict(delivery.message.payload)}, **options)
    delivery.ack()


def test_a_request_returns_its_reply(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice = bus.register("alice")
    bus.register("bob")
    answering = stage.meanwhile(answer, second, "bob")
    reply = alice.request("bob", "question", {"n": 1}, timeout_s=30)
    answering.result(30)
    assert (reply.sender, reply.to, reply.type, reply.payload) == ("bob", "alice", "response", {"echo": {"n": 1}})
    assert bus.count("alice") == bus.count("alice", "claimed") == bus.count("alice", "dead") == 0, "the reply was acked"


def test_a_reply_names_the_request_and_may_have_its_own_type_and_lane(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    asked = alice.send("bob", "question", {})
    [delivery] = bob.receive()
    reply = bob.reply(delivery.message, {"a": 1}, type="result", priority="high", run="r")
    assert (reply.reply_to, reply.to, reply.type, reply.priority, reply.run) == (
        asked.msg_id,
        "alice",
        "result",
        "high",
        "r",
    )
    assert alice.receive()[0].message == reply


def test_other_mail_stays_in_the_inbox_in_its_order(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice, carol = bus.register("alice"), bus.register("carol")
    bob = bus.register("bob")
    before = [carol.send("alice", "note", {"n": n}) for n in range(3)]
    before.append(bob.send("alice", "note", {}))
    before.append(bob.send("alice", "stray", {}, reply_to="another-request"))
    before += bob.send_batch("alice", [Draft(type="note", payload={}) for _ in range(2)])
    control = carol.send("alice", "ping", {}, priority="control")
    answering = stage.meanwhile(answer, second, "bob")
    alice.request("bob", "question", {}, timeout_s=30)
    answering.result(30)
    assert bus.peek("alice") == [control, *before]
    got = [message for delivery in alice.receive(limit=20) for message in delivery.messages]
    assert got == [control, *before]
    assert alice.gaps == 0


@pytest.mark.parametrize("lane", ["control", "high", "low"])
def test_a_reply_is_found_in_every_lane(stage: Stage, lane: str) -> None:
    bus, second = stage.open(), stage.open()
    alice = bus.register("alice")
    bus.register("bob")
    answering = stage.meanwhile(answer, second, "bob", priority=lane)
    assert alice.request("bob", "question", {}, timeout_s=30).priority == lane
    answering.result(30)


def test_without_an_answer_the_outcome_is_unknown_and_the_request_stays(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    start = time.monotonic()
    with pytest.raises(NoReply) as caught:
        alice.request("bob", "question", {}, timeout_s=0.2)
    assert 0.2 <= time.monotonic() - start < 10
    [delivery] = bob.receive()
    assert (caught.value.agent, caught.value.msg_id, caught.value.retry) == ("bob", delivery.message.msg_id, "unknown")
    assert isinstance(caught.value, TimeoutError)


def test_a_late_reply_is_ordinary_mail(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    with pytest.raises(NoReply):
        alice.request("bob", "question", {}, timeout_s=0.05)
    reply = bob.reply(bob.receive()[0].message, {"late": True})
    assert alice.receive()[0].message == reply


def test_an_answer_to_another_request_does_not_satisfy_this_one(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    with pytest.raises(NoReply):
        alice.request("bob", "first", {}, timeout_s=0.05)
    late = bob.reply(bob.receive()[0].message, {"late": True})
    answering = stage.meanwhile(answer, second, "bob")
    assert alice.request("bob", "second", {}, timeout_s=30).payload == {"echo": {}}
    answering.result(30)
    assert bus.peek("alice") == [late]


def test_a_request_to_nobody_is_not_sent(bus: Bus) -> None:
    alice = bus.register("alice")
    with pytest.raises(AgentGone):
        alice.request("nobody", "question", {})


def test_a_request_into_a_full_inbox_is_not_sent(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {})
    with pytest.raises(InboxFull):
        alice.request("bob", "question", {}, timeout_s=0.1)
    assert bus.count("bob") == 1


def test_a_request_that_is_no_message_is_not_sent(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(BadMessage):
        alice.request("bob", "question", ["no", "object"])  # type: ignore[arg-type]
    assert bus.count("bob") == 0


def test_two_agents_may_ask_each_other_at_once(stage: Stage) -> None:
    names = ("alice", "bob")
    bus = stage.open()
    mine = {name: bus.register(name) for name in names}
    # each answers the other's request while its own is under way; questions go by the control lane, so that who answers
    # does not take the reply that the same agent waits for
    answering = [stage.meanwhile(answer, stage.open(), name, control_only=True) for name in names]
    pairs = (names, names[::-1])
    asking = [
        stage.meanwhile(mine[one].request, other, "q", {}, timeout_s=30, priority="control") for one, other in pairs
    ]
    assert [asked.result(60).type for asked in asking] == ["response", "response"]
    for done in answering:
        done.result(30)


def test_a_one_shot_caller_may_ask_through_an_opened_mailbox(stage: Stage) -> None:
    bus, second, third = stage.open(), stage.open(), stage.open()
    bus.register("alice", attended=False)
    bus.register("bob")
    answering = stage.meanwhile(answer, second, "bob")
    assert third.open("alice").request("bob", "q", {}, timeout_s=30).sender == "bob"
    answering.result(30)
    eventually(lambda: bus.count("bob", "claimed") == 0, "the request was acknowledged")
