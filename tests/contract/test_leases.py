"""Promise 2: at least once to the handler, once to the ledger."""

from __future__ import annotations

import time

import pytest

from cfn.bus.protocol import Bus
from cfn.errors import CfnError, LeaseLost, UsageError

from .history import History
from .stage import HandClock, Stage, eventually


def test_after_an_ack_the_message_is_never_claimed_again(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    history = History(bus)
    alice, bob = bus.register("alice"), bus.register("bob")
    history.send(alice, "bob")
    history.ack(bob.receive()[0])
    clock.advance(3600)
    swept = bus.sweep()
    assert (swept.returned, swept.buried) == (0, 0)
    assert bob.receive() == []
    history.check(acknowledged=1)


def test_acking_twice_on_one_object_is_harmless(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    delivery.ack()
    delivery.ack()
    assert bus.count("bob", "claimed") == 0


@pytest.mark.parametrize("end", ["release", "bury"])
def test_an_ack_after_another_end_is_refused(bus: Bus, end: str) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    getattr(delivery, end)()
    with pytest.raises(LeaseLost):
        getattr(delivery, end)()
    with pytest.raises(LeaseLost):
        delivery.renew()
    assert bus.count("bob", "claimed") == 0


@pytest.mark.parametrize("end", ["release", "bury"])
def test_an_ack_after_release_or_bury_must_not_look_like_success(bus: Bus, end: str) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    getattr(delivery, end)()
    with pytest.raises(LeaseLost):
        delivery.ack()


@pytest.mark.parametrize("verb", ["ack", "renew", "release", "bury"])
def test_after_a_sweep_took_the_claim_its_late_holder_can_do_nothing(stage: Stage, clock: HandClock, verb: str) -> None:
    bus, sweeper = stage.open(clock=clock), stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [late] = bob.receive(lease_s=5)
    clock.advance(6)
    assert sweeper.sweep().returned == 1
    with pytest.raises(LeaseLost) as caught:
        getattr(late, verb)()
    assert caught.value.exit_code == 3
    [again] = bob.receive()
    assert again.attempt == 2
    assert again.message == late.message
    again.ack()
    with pytest.raises(LeaseLost):
        getattr(late, verb)()


def test_a_lease_that_is_not_over_is_left_alone(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive(lease_s=5)
    clock.advance(4.9)
    assert stage.open(clock=clock).sweep().returned == 0
    assert bob.receive() == []
    delivery.ack()


def test_the_lease_is_the_setting_unless_the_receiver_asks_for_another(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock, lease=30)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    alice.send("bob", "t", {})
    [usual] = bob.receive()
    assert usual.deadline - clock.at == pytest.approx(30e6, abs=1e4)
    [longer] = bob.receive(lease_s=90)
    assert longer.deadline - clock.at == pytest.approx(90e6, abs=1e4)


def test_renewing_holds_it_from_now_on(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive(lease_s=5)
    for _ in range(5):
        clock.advance(4)
        delivery.renew(5)
        assert delivery.deadline - clock.at == pytest.approx(5e6, abs=1e4)
        assert bus.sweep().returned == 0
    delivery.ack()
    assert bus.count("bob", "claimed") == 0


def test_a_receiver_takes_back_what_another_let_lapse_without_any_sweeper(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, one = bus.register("alice"), bus.register("bob", shared=True)
    two = stage.open(clock=clock).open("bob")
    sent = alice.send("bob", "t", {})
    one.receive(lease_s=5)
    assert two.receive() == []
    clock.advance(6)
    [delivery] = two.receive()
    assert delivery.message == sent
    assert delivery.attempt == 2


def test_a_released_message_comes_again_and_says_so(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    history.send(alice, "bob")
    bob.receive()[0].release()
    history.check(inbox=1)
    [again] = bob.receive()
    assert again.attempt == 2
    history.ack(again)
    history.check(acknowledged=1)


def test_a_release_with_delay_comes_when_the_delay_is_over_and_not_before(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    bob.receive()[0].release(10)
    clock.advance(9)
    assert bob.receive() == []
    assert bus.count("bob") == 1
    clock.advance(2)
    [again] = bob.receive()
    assert again.attempt == 2


def test_a_message_released_with_delay_does_not_hold_up_the_others(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    first, second = alice.send("bob", "t", {}), alice.send("bob", "t", {})
    bob.receive()[0].release(60)
    [other] = bob.receive(limit=5)
    assert other.message == second
    other.ack()
    clock.advance(61)
    assert [delivery.message for delivery in bob.receive(limit=5)] == [first]


@pytest.mark.parametrize("delay_s", [-1, float("nan")])
def test_a_delay_that_is_no_time_is_refused_and_the_claim_stays(bus: Bus, delay_s: float) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    with pytest.raises(UsageError):
        delivery.release(delay_s)
    delivery.ack()


def test_a_sent_delay_is_kept(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {}, delay_s=10)
    clock.advance(9)
    assert bob.receive() == []
    clock.advance(2)
    assert bob.receive()[0].attempt == 1


def test_a_waiting_receiver_gets_a_delayed_message_when_it_is_due(stage: Stage) -> None:
    bus = stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = alice.send("bob", "t", {}, delay_s=0.2)
    assert bob.receive() == []
    [delivery] = bob.receive(20)
    assert delivery.message == sent
    assert delivery.deadline - bus.now() > 0


def test_when_the_attempts_are_spent_it_goes_to_the_dead_letters(stage: Stage) -> None:
    bus = stage.open(max_attempts=3)
    history = History(bus)
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = history.send(alice, "bob")
    for attempt in (1, 2, 3):
        [delivery] = bob.receive()
        assert delivery.attempt == attempt
        delivery.release()
    assert bob.receive() == []
    history.check(dead=1)
    [letter] = bus.dead("bob")
    assert (letter.reason, letter.message, letter.agent, letter.sender) == ("attempts", sent, "bob", "alice")


def test_a_message_that_keeps_killing_its_receivers_is_buried_by_the_sweep(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock, max_attempts=2)
    sweeper = stage.open(clock=clock, max_attempts=2)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive(lease_s=5)
    clock.advance(6)
    assert (sweeper.sweep().returned, bus.count("bob")) == (1, 1)
    [delivery] = bob.receive(lease_s=5)
    assert delivery.attempt == 2
    clock.advance(6)
    swept = sweeper.sweep()
    assert swept.buried == 1
    assert [letter.reason for letter in bus.dead("bob")] == ["attempts"]


@pytest.mark.parametrize("reason", ["expired", "attempts", "malformed", "fenced", "agent-gone", "rejected"])
def test_a_buried_message_is_dead_for_that_reason(bus: Bus, history: History, reason: str) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = history.send(alice, "bob")
    bob.receive()[0].bury(reason)  # type: ignore[arg-type]
    history.check(dead=1)
    [letter] = bus.dead()
    assert (letter.reason, letter.message) == (reason, sent)
    assert bob.receive() == []


@pytest.mark.parametrize("reason", ["", "because", "../x", "a~b"])
def test_an_unknown_reason_is_refused_and_the_claim_stays(bus: Bus, reason: str) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    with pytest.raises(UsageError):
        delivery.bury(reason)  # type: ignore[arg-type]
    assert bus.count("bob", "claimed") == 1
    with pytest.raises(UsageError):
        bus.remove("bob", reason)  # type: ignore[arg-type]
    assert [info.agent for info in bus.agents()] == ["alice", "bob"]


def test_an_expired_message_is_buried_and_the_next_is_delivered(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    old = history.send(alice, "bob", expires_in_s=0.01)
    fresh = history.send(alice, "bob", expires_in_s=60)
    eventually(lambda: time.time() > (old.expires_at or 0), "the message's time is over")
    [delivery] = bob.receive(limit=5)
    assert delivery.message == fresh
    [letter] = bus.dead("bob")
    assert (letter.reason, letter.message) == ("expired", old)
    assert bob.gaps == 0
    history.check(dead=1, claimed=1)


def test_closing_gives_claims_back(bus: Bus, history: History) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    history.send(alice, "bob")
    history.send(alice, "bob")
    bob.receive(limit=2)[0].ack()
    bob.close()
    assert bus.count("bob", "claimed") == 0
    [again] = bus.register("bob").receive(limit=5)
    assert again.attempt == 2


def test_a_killed_holders_claims_come_back_without_waiting_for_the_lease(stage: Stage) -> None:
    if not stage.sees_death:
        pytest.skip("without kernel locks claims are judged by their lease alone")
    bus = stage.open()
    other = stage.elsewhere()
    alice = bus.register("alice")
    other.tell("register", agent="bob")
    sent = [alice.send("bob", "t", {}).msg_id for _ in range(3)]
    assert sorted(other.tell("claim", limit=3, lease_s=3600)) == sorted(sent)
    assert bus.sweep().returned == 0
    other.kill()
    assert bus.sweep().returned == 3
    assert bus.count("bob") == 3
    again = bus.register("bob").receive(limit=5)
    assert [(d.message.msg_id, d.attempt) for d in again] == [(msg_id, 2) for msg_id in sent]


def test_a_killed_holders_claims_come_back_when_the_lease_is_over(stage: Stage) -> None:
    bus = stage.open()
    other = stage.elsewhere()
    alice = bus.register("alice")
    other.tell("register", agent="bob")
    sent = alice.send("bob", "t", {})
    assert other.tell("claim", limit=1, lease_s=1) == [sent.msg_id]
    other.kill()
    eventually(lambda: bus.sweep().returned == 1, "the claim of the dead holder came back", within_s=5)
    assert [message.msg_id for message in bus.peek("bob")] == [sent.msg_id]


def test_an_ephemeral_claim_is_judged_by_its_lease_alone(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice = bus.register("alice")
    bob = bus.register("bob", attended=False)
    alice.send("bob", "t", {})
    bob.receive(lease_s=60)
    clock.advance(59)
    assert bus.sweep(dead_agents=True).returned == 0
    clock.advance(2)
    swept = bus.sweep(dead_agents=True)
    assert (swept.returned, swept.removed) == (1, [])


# ---------------------------------------------------------------- receipts


def test_a_receipt_acknowledges_from_another_handle(stage: Stage) -> None:
    bus, second = stage.open(), stage.open()
    history = History(bus)
    alice, bob = bus.register("alice"), bus.register("bob")
    sent = history.send(alice, "bob")
    [delivery] = bob.receive()
    other = second.redeem(delivery.receipt)
    assert (other.message, other.attempt, other.deadline) == (sent, delivery.attempt, delivery.deadline)
    history.ack(other)
    history.check(acknowledged=1)
    with pytest.raises(LeaseLost):
        delivery.ack()
    with pytest.raises(LeaseLost):
        second.redeem(delivery.receipt)


@pytest.mark.parametrize("verb", ["renew", "release", "bury"])
def test_a_receipt_does_all_that_a_delivery_does(stage: Stage, verb: str) -> None:
    bus, second = stage.open(), stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    getattr(second.redeem(delivery.receipt), verb)()
    box = {"renew": "claimed", "release": "inbox", "bury": "dead"}[verb]
    assert bus.count("bob", box) == 1  # type: ignore[arg-type]


def test_the_receipt_after_a_renewal_is_good(stage: Stage, clock: HandClock) -> None:
    bus, second = stage.open(clock=clock), stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive(lease_s=5)
    clock.advance(1)
    delivery.renew(60)
    second.redeem(delivery.receipt).ack()
    assert bus.count("bob", "claimed") == 0


def test_a_receipt_of_a_lost_lease_is_worth_nothing(stage: Stage, clock: HandClock) -> None:
    bus = stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive(lease_s=5)
    clock.advance(6)
    bus.sweep()
    with pytest.raises(LeaseLost):
        bus.redeem(delivery.receipt)


def test_a_receipt_of_a_removed_agent_is_worth_nothing(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    [delivery] = bob.receive()
    bus.remove("bob")
    with pytest.raises(LeaseLost):
        bus.redeem(delivery.receipt)


@pytest.mark.parametrize(
    "receipt", ["", "x", "bob", "bob/", "/x", "bob/x.json", "../bob/x", "bob/../../etc/passwd", "bob/~~"]
)
def test_what_is_not_a_receipt_is_a_usage_error(bus: Bus, receipt: str) -> None:
    bus.register("bob")
    with pytest.raises(UsageError):
        bus.redeem(receipt)


def test_a_receipt_cannot_be_turned_into_a_path(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob")
    alice.send("bob", "t", {})
    name = bob.receive()[0].receipt.partition("/")[2]
    for agent in ("..", "../bob", ".cfn", "bob/../bob", "nul.txt"):
        with pytest.raises(CfnError) as caught:
            bus.redeem(f"{agent}/{name}")
        assert isinstance(caught.value, (UsageError, LeaseLost))
    assert bus.count("bob", "claimed") == 1


# ---------------------------------------------------------------- leaving without letting go


@pytest.mark.parametrize("attended", [True, False])
def test_detaching_leaves_claims_to_who_has_the_receipt(stage: Stage, clock: HandClock, attended: bool) -> None:
    bus, second = stage.open(clock=clock), stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob", attended=attended)
    alice.send("bob", "t", {})
    alice.send("bob", "t", {})
    first, other = bob.receive(limit=2, lease_s=60)
    bob.detach()
    assert bus.count("bob", "claimed") == 2
    assert not bus.is_alive("bob")
    assert second.sweep().returned == 0
    second.redeem(first.receipt).ack()
    clock.advance(61)
    assert second.sweep().returned == 1
    with pytest.raises(LeaseLost):
        second.redeem(other.receipt)


def test_closing_after_detaching_gives_nothing_back(bus: Bus) -> None:
    alice, bob = bus.register("alice"), bus.register("bob", attended=False)
    alice.send("bob", "t", {})
    bob.receive()
    bob.detach()
    bob.close()
    assert bus.count("bob", "claimed") == 1
    with pytest.raises(CfnError):
        bob.receive()
