"""Who may be whom: ids, incarnations, life and death, fencing, removal (promises 5, 6, 8)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from cfn.bus.events import Sent
from cfn.bus.protocol import Bus, Draft
from cfn.errors import AgentExists, AgentGone, BadAgentId, CfnError, Fenced, InboxFull, LeaseLost

from .history import History
from .stage import HandClock, Stage, eventually

ILLEGAL = [
    "", "a" * 65, "x" * 300, "../x", "a/b", "a\\b", ".hidden", "-x", "_x", "a~b", "a b", "a\n", "a\0", "ü", "a.", "nul", "NUL",
    "nul.txt", "con", "Com1", "lpt9.log", "aux.x.y", ".", "..", "/", 5, None,
]  # fmt: skip
LEGAL = ["a", "A", "0", "a" * 64, "worker-1", "w_1.x", "a.b.c", "nully", "console", "com10", "x..y", "a--", "a__"]


@pytest.mark.parametrize("agent", ILLEGAL, ids=lambda value: repr(value)[:20])
def test_an_illegal_id_is_refused_everywhere_before_a_path_is_built(bus: Bus, agent: Any) -> None:
    alice = bus.register("alice")
    calls: list[Callable[[], object]] = [
        lambda: bus.register(agent),
        lambda: bus.open(agent),
        lambda: alice.send(agent, "t", {}),
        lambda: alice.send_batch(agent, [Draft(type="t", payload={})]),
        lambda: bus.agent(agent),
        lambda: bus.count(agent),
        lambda: bus.peek(agent),
        lambda: bus.remove(agent),
        lambda: bus.is_alive(agent),
    ]
    for call in calls:
        with pytest.raises(BadAgentId) as caught:
            call()
        assert caught.value.exit_code == 2
        assert len(str(caught.value)) < 250
        assert "\n" not in str(caught.value)
    assert [info.agent for info in bus.agents()] == ["alice"]


@pytest.mark.parametrize("agent", LEGAL)
def test_a_legal_id_is_taken_as_it_is(bus: Bus, agent: str) -> None:
    mailbox = bus.register(agent)
    sent = mailbox.send(agent, "t", {})
    assert (sent.sender, sent.to) == (agent, agent)
    assert mailbox.receive()[0].message == sent
    assert [info.agent for info in bus.agents()] == [agent]


@pytest.mark.parametrize(
    ("first", "second"), [("worker", "Worker"), ("Worker", "worker"), ("WORKER", "Worker"), ("a.B", "A.b")]
)
@pytest.mark.parametrize("attended", [True, False])
def test_an_id_that_differs_only_by_case_is_taken(bus: Bus, first: str, second: str, attended: bool) -> None:
    bus.register(first, attended=attended)
    with pytest.raises(AgentExists) as caught:
        bus.register(second, attended=attended)
    assert (caught.value.agent, caught.value.holder) == (second, first)
    assert [info.agent for info in bus.agents()] == [first]
    with pytest.raises(AgentGone):
        bus.open(second)
    with pytest.raises(AgentGone):
        bus.count(second)
    assert not bus.is_alive(second)
    bus.remove(second)
    assert [info.agent for info in bus.agents()] == [first]


def test_a_letter_to_the_wrong_case_is_not_delivered(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob")
    with pytest.raises(AgentGone):
        alice.send("BOB", "t", {})
    assert bus.count("bob") == 0


def test_after_removal_the_other_case_is_free(bus: Bus) -> None:
    bus.register("Worker").remove()
    bus.register("worker").remove()
    bus.register("WORKER")
    assert [info.agent for info in bus.agents()] == ["WORKER"]


def test_a_living_holder_keeps_its_identity(stage: Stage) -> None:
    bus = stage.open()
    alice = bus.register("alice")
    for handle in (bus, stage.open()):
        for attended in (True, False):
            with pytest.raises(AgentExists) as caught:
                handle.register("alice", attended=attended)
            assert caught.value.agent == "alice"
    assert alice.epoch == bus.agent("alice").epoch == 1
    alice.send("alice", "t", {})
    assert len(alice.receive()) == 1


def test_another_process_that_lives_keeps_its_identity_until_it_is_killed(stage: Stage) -> None:
    bus = stage.open()
    other = stage.elsewhere()
    assert other.tell("register", agent="bob") == 1
    with pytest.raises(AgentExists):
        bus.register("bob")
    assert bus.is_alive("bob")
    assert bus.agent("bob").alive is True
    other.kill()
    eventually(lambda: not bus.is_alive("bob"), "bob is known to be dead")
    assert bus.agent("bob").alive is False
    assert bus.register("bob").epoch == 2


def test_a_dead_agent_is_known_within_100_ms(stage: Stage) -> None:
    if not stage.sees_death:
        pytest.skip("without kernel locks death shows by the heartbeat")
    bus = stage.open()
    took = []
    for number in range(3):
        other = stage.elsewhere()
        other.tell("register", agent=f"bob-{number}")
        other.kill()
        died = time.monotonic()
        eventually(lambda number=number: not bus.is_alive(f"bob-{number}"), "bob is known to be dead")  # type: ignore[misc]
        took.append(time.monotonic() - died)
    assert min(took) < 0.1, took


def test_an_ephemeral_agent_is_neither_alive_nor_dead(bus: Bus) -> None:
    bus.register("shell", attended=False)
    assert bus.agent("shell").alive is None
    assert bus.agent("shell").attended is False
    assert not bus.is_alive("shell")
    assert bus.register("shell", attended=False).epoch == 2, "it may be registered again at any time"


def test_what_an_agent_says_of_itself_is_shown(stage: Stage) -> None:
    bus = stage.open()
    bus.register(
        "w1",
        role="worker",
        team="blue",
        run="r1",
        parent="c1",
        capabilities=["python", "gpu"],
        shared=True,
        max_inbox=7,
    )
    bus.register("plain")
    for handle in (bus, stage.open()):
        found = handle.agent("w1")
        assert (found.agent, found.role, found.team, found.run, found.parent) == ("w1", "worker", "blue", "r1", "c1")
        assert (tuple(found.capabilities), found.shared, found.max_inbox) == (("python", "gpu"), True, 7)
        assert (found.epoch, found.attended, found.alive, found.pid) == (1, True, True, os.getpid())
        assert found.host
        plain = handle.agent("plain")
        assert (plain.role, plain.team, plain.run, plain.parent, plain.capabilities) == (None, None, None, None, ())
        assert (plain.shared, plain.max_inbox) == (False, 1000)
        assert sorted(info.agent for info in handle.agents()) == ["plain", "w1"]


def test_an_agent_that_never_was_is_gone(bus: Bus) -> None:
    for call in (bus.agent, bus.open, bus.count, bus.peek):
        with pytest.raises(AgentGone) as caught:
            call("nobody")
        assert caught.value.agent == "nobody"
    assert not bus.is_alive("nobody")
    assert bus.beat_age_s("nobody") is None
    assert bus.dead("nobody") == []


def test_a_heartbeat_has_an_age_in_bus_time(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice = bus.register("alice")
    clock.advance(5)
    for age in (bus.agent("alice").beat_age_s, bus.beat_age_s("alice")):
        assert age == pytest.approx(5, abs=0.1)
    alice.beat()
    assert bus.beat_age_s("alice") == pytest.approx(0, abs=0.1)
    bus.register("shell", attended=False)
    assert bus.beat_age_s("shell") is None


# ---------------------------------------------------------------- incarnations


def test_registering_again_is_a_new_incarnation_that_keeps_the_mail(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = [history.send(alice, "bob") for _ in range(3)]
    bob.close()
    again = bus.register("bob")
    assert (bob.epoch, again.epoch) == (1, 2)
    assert [delivery.message for delivery in again.receive(limit=5)] == sent
    assert again.gaps == 0
    assert again.send("alice", "t", {}).epoch == 2


def test_a_new_incarnation_says_anew_what_it_is(bus: Bus) -> None:
    bus.register("bob", role="worker", team="blue", max_inbox=3).close()
    bus.register("bob", role="coordinator")
    found = bus.agent("bob")
    assert (found.role, found.team, found.max_inbox, found.epoch) == ("coordinator", None, 1000, 2)


def test_the_old_incarnation_is_fenced(bus: Bus, history: History) -> None:
    alice = bus.register("alice")
    old = bus.register("bob", attended=False)
    sent = history.send(alice, "bob")
    [claimed] = old.receive()
    new = bus.register("bob", attended=False)
    for call in (
        lambda: old.send("alice", "t", {}),
        lambda: old.send_batch("alice", [Draft(type="t", payload={})]),
        lambda: old.request("alice", "t", {}, timeout_s=0.1),
        old.receive,
        lambda: old.receive(0.1),
    ):
        with pytest.raises(Fenced) as caught:
            call()
        assert caught.value.agent == "bob"
    assert bus.count("alice") == 0
    with pytest.raises((LeaseLost, Fenced)):
        claimed.ack()
    [again] = new.receive()
    assert (again.message, again.attempt) == (sent, 2)


def test_an_opened_mailbox_is_fenced_with_its_incarnation(bus: Bus) -> None:
    bus.register("alice")
    bus.register("bob", attended=False)
    opened = bus.open("bob")
    assert opened.epoch == 1
    bus.register("bob", attended=False)
    with pytest.raises(Fenced):
        opened.send("alice", "t", {})
    assert bus.open("bob").epoch == 2


def test_the_old_incarnation_cannot_remove_the_new_one(bus: Bus) -> None:
    old = bus.register("bob", attended=False)
    bus.register("bob", attended=False)
    old.remove()
    old.close()
    assert bus.agent("bob").epoch == 2


def test_a_number_is_never_used_twice_by_one_agent(bus: Bus) -> None:
    numbers: list[str] = []
    bus.observe(lambda event: numbers.append(event.name.split("~")[3]) if isinstance(event, Sent) else None)
    bob = bus.register("bob")
    for end in ("close", "remove", "close"):
        alice = bus.register("alice")
        mailboxes = [alice, bus.open("alice"), bus.open("alice")]
        for mailbox in mailboxes * 2:
            mailbox.send("bob", "t", {})
        getattr(alice, end)()
    assert len(numbers) == len(set(numbers)) == 18, f"epoch.writer.number tells messages apart: {numbers}"
    assert len(bob.receive(limit=20)) == 18
    assert bob.gaps == 0


# ---------------------------------------------------------------- opened mailboxes


def test_an_opened_mailbox_sends_and_receives_without_becoming_the_agent(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    alice = bus.register("alice")
    opened = second.open("alice")
    assert (opened.agent, opened.epoch) == ("alice", alice.epoch)
    sent = opened.send("alice", "t", {})
    assert sent.sender == "alice"
    assert opened.receive()[0].message == sent
    opened.close()
    assert bus.is_alive("alice")
    assert bus.agent("alice").epoch == 1


def test_several_writers_of_one_agent_do_not_disturb_each_other(stage: Stage) -> None:
    bus = stage.open()
    bob = bus.register("bob")
    bus.register("alice", attended=False)
    for _ in range(5):
        handle = stage.open()
        opened = handle.open("alice")
        assert [opened.send("bob", "t", {}).sequence for _ in range(2)] == [1, 2]
    got = bob.receive(limit=20)
    assert [delivery.message.sequence for delivery in got] == [1, 2] * 5
    assert bob.gaps == 0


# ---------------------------------------------------------------- leaving


def test_closing_leaves_the_mailbox_registered(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    bob.close()
    bob.close()
    assert not bus.is_alive("bob")
    assert bus.agent("bob").alive is False
    alice.send("bob", "t", {})
    assert bus.count("bob") == 1


@pytest.mark.parametrize("verb", ["send", "send_batch", "receive", "request"])
def test_a_closed_mailbox_refuses_with_an_error_of_ours(bus: Bus, verb: str) -> None:
    bus.register("alice")
    bob = bus.register("bob")
    bob.close()
    calls: dict[str, Callable[[], object]] = {
        "send": lambda: bob.send("alice", "t", {}),
        "send_batch": lambda: bob.send_batch("alice", [Draft(type="t", payload={})]),
        "receive": bob.receive,
        "request": lambda: bob.request("alice", "t", {}, timeout_s=0.1),
    }
    with pytest.raises(CfnError):
        calls[verb]()
    assert bus.count("alice") == 0


def test_removing_buries_everything_with_the_reason(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    history = History(bus)
    alice, bob = bus.register("alice"), bus.register("bob")
    for lane in ("control", "high", "low"):
        history.send(alice, "bob", priority=lane)
    history.send(alice, "bob", delay_s=60)
    [claimed] = bob.receive()
    history.send(alice, "bob", priority="control")
    bob.receive()[0].bury("rejected")
    bob.remove("fenced")
    history.check(dead=5)
    assert sorted(letter.reason for letter in bus.dead("bob")) == ["fenced"] * 4 + ["rejected"]
    assert [info.agent for info in bus.agents()] == ["alice"]
    assert not bus.is_alive("bob")
    with pytest.raises(AgentGone):
        bus.count("bob")
    with pytest.raises((LeaseLost, Fenced)):
        claimed.ack()
    history.check(dead=5)


def test_removing_twice_is_harmless(bus: Bus) -> None:
    bob = bus.register("bob")
    bob.remove()
    bob.remove()
    bus.remove("bob")
    bus.remove("never-was")
    bob.close()
    assert bus.agents() == []


def test_a_removed_mailbox_is_fenced(bus: Bus) -> None:
    bus.register("alice")
    bob = bus.register("bob", attended=False)
    bus.remove("bob")
    for call in (lambda: bob.send("alice", "t", {}), bob.receive, lambda: bob.receive(0.1)):
        with pytest.raises(Fenced):
            call()
    assert bus.count("alice") == 0


def test_a_removed_mailbox_stays_fenced_when_its_name_is_taken_again(bus: Bus) -> None:
    bus.register("alice")
    old = bus.register("bob", attended=False)
    bus.remove("bob")
    new = bus.register("bob", attended=False)
    bus.open("alice").send("bob", "t", {})
    for call in (lambda: old.send("alice", "t", {}), old.receive):
        with pytest.raises(Fenced):
            call()
    old.remove()
    assert bus.count("alice") == 0
    assert len(new.receive()) == 1


def test_a_receiver_that_waits_learns_that_its_mailbox_was_removed(stage: Stage) -> None:
    bus = stage.open()
    waiting = stage.meanwhile(lambda: stage.open().register("bob", attended=False).receive(60))
    eventually(lambda: [info for info in bus.agents() if info.agent == "bob"], "bob registered")
    bus.remove("bob")
    with pytest.raises(Fenced):
        waiting.result(30)


def test_a_sweep_ends_the_mailboxes_of_dead_attended_agents_only_when_asked(stage: Stage) -> None:
    bus = stage.open()
    history = History(bus)
    alice = bus.register("alice")
    bus.register("shell", attended=False)
    other = stage.elsewhere()
    other.tell("register", agent="bob")
    history.send(alice, "bob")
    history.send(alice, "shell")
    other.kill()
    eventually(lambda: alice.beat() or not bus.is_alive("bob"), "bob is known to be dead, and alice beats")  # type: ignore[func-returns-value]
    assert bus.sweep().removed == []
    assert bus.sweep(dead_agents=True).removed == ["bob"]
    assert sorted(info.agent for info in bus.agents()) == ["alice", "shell"]
    assert [letter.reason for letter in bus.dead("bob")] == ["agent-gone"]
    history.check(dead=1, inbox=1)


def test_a_bus_that_is_closed_lets_go_of_its_agents(stage: Stage) -> None:
    bus = stage.open()
    bus.register("watcher", attended=False)
    with stage.open() as second:
        second.register("bob")
        assert second.is_alive("bob")
    assert not bus.is_alive("bob")
    assert bus.register("bob").epoch == 2


# ---------------------------------------------------------------- terms


def test_a_message_of_an_older_term_is_buried_as_fenced(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    bob.min_term = 3
    old = history.send(alice, "bob", term=2)
    batch = history.send_batch(alice, "bob", [Draft(type="t", payload={})], term=1)
    current = history.send(alice, "bob", term=3)
    newer = history.send(alice, "bob", term=4)
    plain = history.send(alice, "bob")
    assert [delivery.message for delivery in bob.receive(limit=10)] == [current, newer, plain]
    letters = bus.dead("bob")
    assert [letter.reason for letter in letters] == ["fenced", "fenced"]
    assert letters[0].message == old
    assert bob.gaps == 0
    history.check(dead=1 + len(batch), claimed=3)


def test_without_a_minimum_every_term_is_taken(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    assert bob.min_term == 0
    for term in (0, 1, None):
        alice.send("bob", "t", {}, term=term)
    assert len(bob.receive(limit=10)) == 3


def test_control_of_an_older_term_does_not_reach_a_waiting_sender(bus: Bus) -> None:
    alice = bus.register("alice")
    bus.register("bob", max_inbox=1)
    alice.send("bob", "t", {})
    alice.min_term = 2
    served: list[Any] = []
    alice.on_control = served.append
    bus.register("boss").send("alice", "cancel", {}, priority="control", term=1)
    with pytest.raises(InboxFull):
        alice.send("bob", "t", {}, timeout_s=0.2)
    assert served == []
    assert [letter.reason for letter in bus.dead("alice")] == ["fenced"]
