"""Dead letters: listed with their reason, of removed agents too, and put back."""

from __future__ import annotations

import pytest

from cfn.bus.protocol import Bus
from cfn.errors import AgentGone, UsageError

from .history import History
from .stage import HandClock, Stage


def test_dead_letters_are_listed_for_one_agent_or_for_all(bus: Bus) -> None:
    alice = bus.register("alice")
    for name in ("bob", "carol"):
        mailbox = bus.register(name)
        alice.send(name, "t", {"to": name})
        mailbox.receive()[0].bury("rejected")
    assert sorted(letter.agent for letter in bus.dead()) == ["bob", "carol"]
    [letter] = bus.dead("carol")
    assert (letter.agent, letter.reason, letter.sender) == ("carol", "rejected", "alice")
    assert letter.letter.startswith("carol/")
    assert letter.message is not None
    assert letter.message.payload == {"to": "carol"}
    assert 100 < letter.size_bytes < 1000
    assert bus.dead("alice") == []


def test_looking_at_dead_letters_changes_nothing(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send("bob", "t", {})
    bob.receive()[0].bury()
    for _ in range(2):
        assert len(bus.dead()) == bus.count("bob", "dead") == 1
        assert bus.peek("bob", "dead") == [sent]


def test_a_letter_put_back_is_delivered_with_its_attempts_counted_anew(stage: Stage) -> None:
    bus = stage.open(max_attempts=2)
    history = History(bus)
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = history.send(alice, "bob")
    bob.receive()[0].release()
    bob.receive()[0].release()
    [letter] = bus.dead("bob")
    stage.open(max_attempts=2).put_back(letter.letter)
    history.check(inbox=1)
    [again] = bob.receive()
    assert (again.message, again.attempt) == (sent, 1)
    again.release()
    [again] = bob.receive()
    assert again.attempt == 2
    history.ack(again)
    history.check(acknowledged=1)
    assert bob.gaps == 0


def test_a_letter_is_put_back_into_its_lane(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    cancel = alice.send("bob", "cancel", {}, priority="control")
    bob.receive()[0].bury()
    alice.send("bob", "t", {}, priority="high")
    bus.put_back(bus.dead("bob")[0].letter)
    assert bob.receive()[0].message == cancel


def test_a_letter_can_be_put_back_only_once(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    bob.receive()[0].bury()
    [letter] = bus.dead("bob")
    bus.put_back(letter.letter)
    with pytest.raises(UsageError):
        bus.put_back(letter.letter)
    assert bus.count("bob") == 1


def test_a_letter_may_die_again(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    history.send(alice, "bob")
    for _ in range(3):
        bob.receive()[0].bury()
        history.check(dead=1)
        bus.put_back(bus.dead("bob")[0].letter)
    history.check(inbox=1)


@pytest.mark.parametrize(
    "letter", ["", "bob", "bob/", "bob/nothing", "bob/../x", "../bob/x", "/etc/passwd", "bob/x~y.json"]
)
def test_what_is_not_a_dead_letter_cannot_be_put_back(bus: Bus, letter: str) -> None:
    bus.register("bob")
    with pytest.raises(UsageError):
        bus.put_back(letter)


def test_letters_of_a_removed_agent_are_kept_and_come_back_when_it_does(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = [history.send(alice, "bob") for _ in range(3)]
    bob.remove()
    letters = bus.dead("bob")
    assert [letter.message for letter in letters] == sent
    assert {letter.reason for letter in letters} == {"agent-gone"}
    with pytest.raises(AgentGone):
        bus.put_back(letters[0].letter)
    history.check(dead=3)
    bob = bus.register("bob")
    assert bob.receive() == []
    for letter in reversed(letters):
        bus.put_back(letter.letter)
    got = bob.receive(limit=5)
    assert sorted(delivery.message.sequence for delivery in got) == [1, 2, 3]
    for delivery in got:
        history.ack(delivery)
    history.check(acknowledged=3)


def test_a_letter_put_back_to_a_new_mailbox_is_no_gap(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    for _ in range(5):
        alice.send("bob", "t", {})
    for delivery in bob.receive(limit=4):
        delivery.ack()
    bob.remove()
    bob = bus.register("bob")
    [letter] = bus.dead("bob")
    bus.put_back(letter.letter)
    [delivery] = bob.receive()
    assert delivery.message.sequence == 5
    assert bob.gaps == 0, "numbers 1-4 were acknowledged by the mailbox that is gone"


def test_put_back_wakes_a_waiting_receiver(stage: Stage) -> None:
    bus = stage.open()
    alice = bus.register("alice")
    own = stage.open()
    bob = own.register("bob")
    sent = alice.send("bob", "t", {})
    bob.receive()[0].bury()
    waiting = stage.meanwhile(bob.receive, 30)
    bus.put_back(bus.dead("bob")[0].letter)
    assert waiting.result(40)[0].message == sent


def test_letters_are_listed_in_the_order_of_their_times(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice = bus.register("alice")
    sent = []
    mailboxes = {name: bus.register(name) for name in ("zoe", "adam", "mia")}
    for name in mailboxes:
        sent.append(alice.send(name, "t", {}))
        clock.advance(1)
    for mailbox in mailboxes.values():
        mailbox.receive()[0].bury()
    assert [letter.message for letter in bus.dead()] == sent
