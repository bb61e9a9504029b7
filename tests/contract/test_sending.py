"""Promise 1: a send that returned is in one place; a send that raised was not sent."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from cfn.bus.protocol import Bus, Draft
from cfn.errors import AgentGone, BadMessage, CfnError, MessageTooLarge
from cfn.message import LANES, Message

from .history import History
from .stage import Stage


def test_a_sent_message_arrives_as_it_was_returned(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send(
        "bob", "task", {"deep": {"list": [1, 2.5, None, True, "ü"]}}, priority="high", reply_to="earlier", expires_in_s=60,
        term=7, run="r1", trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )  # fmt: skip
    [delivery] = bob.receive()
    assert delivery.message == sent
    assert list(delivery.messages) == [sent]
    assert delivery.attempt == 1


def test_a_message_says_who_sent_it_when_and_in_which_incarnation(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    before = time.time()
    message = alice.send("bob", "task", {})
    assert (message.sender, message.to, message.epoch) == ("alice", "bob", alice.epoch)
    assert before - 1 <= message.timestamp <= time.time() + 1
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", message.msg_id)


def test_numbers_count_from_one_for_each_recipient(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    bus.register("carol")
    assert [alice.send("bob", "t", {}).sequence for _ in range(3)] == [1, 2, 3]
    assert [alice.send("carol", "t", {}).sequence for _ in range(2)] == [1, 2]
    batch = alice.send_batch("bob", [Draft(type="t", payload={}) for _ in range(3)])
    assert [message.sequence for message in batch] == [4, 5, 6]
    assert alice.send("bob", "t", {}).sequence == 7


def test_a_failed_send_uses_no_number(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    with pytest.raises(BadMessage):
        alice.send("bob", "t", {"x": float("nan")})
    assert alice.send("bob", "t", {}).sequence == 2
    for delivery in bob.receive(limit=10):
        delivery.ack()
    assert bob.gaps == 0


def test_an_agent_may_write_to_itself(bus: Bus) -> None:
    alice = bus.register("alice")
    sent = alice.send("alice", "note", {})
    [delivery] = alice.receive()
    assert delivery.message == sent


def test_any_two_agents_may_message_each_other(bus: Bus, history: History) -> None:
    team = {name: bus.register(name) for name in ("a", "b", "c", "d")}
    for one in team.values():
        for other in team:
            if other != one.agent:
                history.send(one, other)
    history.check(inbox=12)
    for name, mailbox in team.items():
        senders = {delivery.message.sender for delivery in mailbox.receive(limit=10)}
        assert senders == set(team) - {name}


def test_the_receiver_holds_a_copy_that_the_sender_cannot_change(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    payload: dict[str, Any] = {"items": [1]}
    alice.send("bob", "t", payload)
    payload["items"].append(2)
    assert bob.receive()[0].message.payload == {"items": [1]}


@pytest.mark.parametrize(
    "payload",
    [
        ["a", "list"],
        "text",
        None,
        5,
        [("k", "v")],
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": {1, 2}},
        {"x": b"bytes"},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_payload_that_is_not_a_json_object_is_refused_and_not_sent(bus: Bus, payload: Any) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(BadMessage) as caught:
        alice.send("bob", "t", payload)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadMessage):
        alice.send_batch("bob", [Draft(type="t", payload={}), Draft(type="t", payload=payload)])
    assert bus.count("bob") == 0


def test_a_payload_that_contains_itself_is_refused(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    loop: dict[str, Any] = {}
    loop["me"] = loop
    with pytest.raises(BadMessage):
        alice.send("bob", "t", loop)
    assert bus.count("bob") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"type": None},
        {"type": 5},
        {"priority": "urgent"},
        {"priority": None},
        {"reply_to": 5},
        {"term": "first"},
        {"run": 5},
        {"trace": 5},
        {"expires_in_s": 0},
        {"expires_in_s": -1},
        {"delay_s": -1},
        {"delay_s": float("nan")},
        {"expires_in_s": float("nan")},
    ],
    ids=str,
)
def test_an_option_that_makes_no_message_is_refused_and_not_sent(bus: Bus, wrong: dict[str, Any]) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    options = {"type": "t", "payload": {}, **wrong}
    with pytest.raises((CfnError, ValueError)) as caught:
        alice.send("bob", **options)
    assert isinstance(caught.value, CfnError), f"{caught.value!r} is not one of cfn's errors"
    assert caught.value.exit_code == 2
    assert bus.count("bob") == 0


def test_a_message_above_the_limit_is_refused_with_its_size_and_the_limit(stage: Stage) -> None:
    bus = stage.open(max_message_bytes=2000)
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(MessageTooLarge, match="CFN_MAX_MESSAGE_BYTES") as caught:
        alice.send("bob", "t", {"text": "x" * 2000})
    assert caught.value.limit_bytes == 2000
    assert 2000 < caught.value.size_bytes < 2600
    assert bus.count("bob") == 0
    alice.send("bob", "t", {"text": "x" * 1500})
    assert bus.count("bob") == 1


def test_a_message_of_one_mebibyte_goes_through_whole(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    text = "é" * 500_000
    alice.send("bob", "t", {"text": text})
    assert bob.receive()[0].message.payload["text"] == text


def test_an_unknown_recipient_is_an_error_and_never_a_silent_folder(bus: Bus) -> None:
    alice = bus.register("alice")
    with pytest.raises(AgentGone) as caught:
        alice.send("nobody", "t", {})
    assert caught.value.agent == "nobody"
    assert caught.value.exit_code == 3
    with pytest.raises(AgentGone):
        alice.send_batch("nobody", [Draft(type="t", payload={})])
    assert [info.agent for info in bus.agents()] == ["alice"]


def test_a_recipient_that_was_removed_is_gone_for_a_sender_that_knew_it(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    bob.remove()
    with pytest.raises(AgentGone):
        alice.send("bob", "t", {})


def test_a_recipient_that_was_removed_and_came_back_gets_mail_from_a_sender_that_knew_it(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    bob.remove()
    bob = bus.register("bob")
    sent = alice.send("bob", "t", {})
    assert [delivery.message for delivery in bob.receive(limit=5)] == [sent]
    assert bob.gaps == 0


@pytest.mark.parametrize("lane", LANES)
def test_each_lane_delivers(bus: Bus, lane: Any) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send("bob", "t", {}, priority=lane)
    [delivery] = bob.receive()
    assert delivery.message == sent
    assert delivery.message.priority == lane


def test_two_handles_on_one_bus_see_one_mailbox(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice, bob = bus.register("alice"), second.register("bob")
    sent: Message = alice.send("bob", "t", {})
    assert bus.count("bob") == second.count("bob") == 1
    assert bob.receive()[0].message == sent


def test_what_waited_while_nobody_was_there_is_delivered_later(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    bob.close()
    sent = alice.send("bob", "t", {})
    assert bus.register("bob").receive()[0].message == sent
