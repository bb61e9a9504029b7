"""A bus in memory: the public test double, with the semantics of the file bus and none of its files.

    with MemoryBus() as bus:
        coordinator, worker = bus.register("coordinator"), bus.register("worker")
        coordinator.send("worker", "task", {"n": 1})
        [delivery] = worker.receive(timeout_s=1)
        delivery.ack()

Guarantees: those of :mod:`cfn.bus.protocol`, within one process. Unlike other buses it may be shared by the threads of the
process: hand the same object to all of them. Threads stand for processes here: each registers or opens its own mailbox, and
:meth:`MemoryBus.kill` is their SIGKILL.

Time is a parameter: `clock` gives µs of bus time; leases, delays, heartbeats and order follow it. Waiting ends by real time,
and looks at the clock every 50 ms. `expires_at` is Unix time and is judged by it.

Cost: about 50 µs a message, sent, received and acknowledged; one lock for the whole bus.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Sequence

from cfn import settings as settings_module
from cfn.bus.clock import bus_clock, new_offset_us
from cfn.bus.compose import check_box, check_reason, lease_us
from cfn.bus.events import Buried, Event, Observer, Registered, Released, Removed
from cfn.bus.memory_delivery import MemoryDelivery
from cfn.bus.memory_mailbox import MemoryMailbox
from cfn.bus.memory_store import Box, Claim, Grave, Parcel
from cfn.bus.names import AGING_US, LANE, claimed, dead, parse_claimed
from cfn.bus.protocol import AgentInfo, DeadLetter, Delivery, Reason, Swept
from cfn.bus.protocol import Box as BoxName
from cfn.errors import AgentExists, AgentGone, LeaseLost, UsageError
from cfn.message import Message, check_agent_id


class MemoryBus:
    """One bus in memory. A context manager; to be shared by threads."""

    def __init__(
        self, settings: settings_module.Settings | None = None, *, clock: Callable[[], int] | None = None
    ) -> None:
        self.settings = settings or settings_module.load()
        self.turn = threading.Condition(threading.RLock())  # the one lock; notified at every change
        self.boxes: dict[str, Box] = {}  # by id in lower case
        self._clock = clock or bus_clock(new_offset_us())
        self._epochs: dict[str, int] = {}
        self._graves: dict[str, Grave] = {}  # by letter
        self._mailboxes: list[MemoryMailbox] = []
        self._observers: list[Observer] = []

    # ---------------------------------------------------------------- agents

    def register(
        self,
        agent: str,
        *,
        role: str | None = None,
        team: str | None = None,
        run: str | None = None,
        parent: str | None = None,
        capabilities: Sequence[str] = (),
        attended: bool = True,
        shared: bool = False,
        max_inbox: int | None = None,
    ) -> MemoryMailbox:
        key = check_agent_id(agent).lower()
        if max_inbox is not None and max_inbox < 1:
            raise UsageError(f"max_inbox={max_inbox!r} must be at least 1")
        with self.turn:
            old = self.boxes.get(key)
            if old is not None and (old.agent != agent or old.owner is not None):
                why = "a living holder has it" if old.agent == agent else f"it differs from {old.agent!r} only by case"
                raise AgentExists(
                    f"agent id {agent!r} is taken: {why}; choose another id", agent=agent, holder=old.agent
                )
            epoch = self._epochs[key] = self._epochs.get(key, 0) + 1
            box = Box(
                agent=agent, epoch=epoch, max_inbox=max_inbox or self.settings.max_inbox, attended=attended, shared=shared,
                beat_at=self.now(), role=role, team=team, run=run, parent=parent, capabilities=tuple(capabilities),
            )  # fmt: skip
            if old is not None:
                self._inherit(box, old)
            self.boxes[key] = box
            mailbox = MemoryMailbox(self, box, attended=attended)
            box.owner = mailbox if attended else None
            self._mailboxes.append(mailbox)
            self.turn.notify_all()
            self.announce(Registered(agent, self.now(), epoch))
            return mailbox

    def _inherit(self, box: Box, old: Box) -> None:
        """A new incarnation: what waited still waits, what the old one held comes back, what it knew is known."""
        self._return(old, list(old.claims))
        box.control, box.inbox, box.seen = old.control, old.inbox, old.seen
        for reader in list(old.readers):
            reader.ring()  # let it find out that it was replaced

    def open(self, agent: str) -> MemoryMailbox:
        with self.turn:
            mailbox = MemoryMailbox(self, self.box(agent), attended=False)
            self._mailboxes.append(mailbox)
            return mailbox

    def agent(self, agent: str) -> AgentInfo:
        with self.turn:
            box = self.box(agent)
            return AgentInfo(
                agent=box.agent, epoch=box.epoch, pid=os.getpid(), host=platform.node(), attended=box.attended,
                alive=box.owner is not None if box.attended else None,
                beat_age_s=self.beat_age_s(agent),
                role=box.role, team=box.team, run=box.run, parent=box.parent, max_inbox=box.max_inbox, shared=box.shared,
                capabilities=box.capabilities,
            )  # fmt: skip

    def agents(self) -> list[AgentInfo]:
        with self.turn:
            return [self.agent(agent) for agent in sorted(box.agent for box in self.boxes.values())]

    def is_alive(self, agent: str) -> bool:
        with self.turn:
            box = self.boxes.get(check_agent_id(agent).lower())
            return box is not None and box.agent == agent and box.owner is not None

    def beat_age_s(self, agent: str) -> float | None:
        with self.turn:
            box = self.boxes.get(check_agent_id(agent).lower())
            if box is None or box.agent != agent or not box.attended:
                return None
            return (self.now() - box.beat_at) / 1e6

    def remove(self, agent: str, reason: Reason = "agent-gone") -> None:
        check_reason(reason)
        with self.turn:
            box = self.boxes.get(check_agent_id(agent).lower())
            if box is None or box.agent != agent:
                return
            del self.boxes[agent.lower()]
            for parcel in [*box.parcels("inbox"), *box.parcels("claimed")]:
                self._inter(agent, parcel, reason)
            box.claims.clear()
            for reader in list(box.readers):
                reader.ring()
            self.turn.notify_all()
            self.announce(Removed(agent, self.now(), reason))

    def kill(self, agent: str) -> None:
        """For tests: what SIGKILL does to the process that attends `agent`. Its claims stay claimed until a sweep."""
        with self.turn:
            box = self.box(agent)
            if box.owner is None:
                raise UsageError(f"nobody attends {agent!r}: there is no process to kill", agent=agent)
            box.owner.hang_up()
            box.owner = None

    # ---------------------------------------------------------------- looking

    def count(self, agent: str, box: BoxName = "inbox") -> int:
        check_box(box)
        with self.turn:
            found = self.box(agent)
            return len(self.graves_of(agent)) if box == "dead" else found.count(box)

    def peek(self, agent: str, box: BoxName = "inbox", limit: int = 100) -> list[Message]:
        check_box(box)
        with self.turn:
            found = self.box(agent)
            parcels = [grave.parcel for grave in self.graves_of(agent)] if box == "dead" else found.parcels(box)
        messages: list[Message] = []
        for parcel in parcels:
            if len(messages) >= limit:
                break
            messages += parcel.messages
        return messages[:limit]

    def dead(self, agent: str | None = None) -> list[DeadLetter]:
        with self.turn:
            graves = sorted(self._graves.items(), key=lambda item: item[0].partition("/")[2])
        return [_letter(text, grave) for text, grave in graves if agent in (None, grave.agent)]

    def put_back(self, letter: str) -> None:
        with self.turn:
            grave = self._graves.get(letter)
            if grave is None:
                raise UsageError(f"{letter!r} is not a dead letter: `cfn bus dead` lists them", letter=letter)
            box = self.box(grave.agent)
            del self._graves[letter]
            due = self.now() + AGING_US[LANE[grave.parcel.name.lane]]
            box.put(grave.parcel.renamed(attempt=0, due=due))
            self.turn.notify_all()

    # ---------------------------------------------------------------- leases

    def redeem(self, receipt: str) -> Delivery:
        agent, _, token = receipt.partition("/") if isinstance(receipt, str) else ("", "", "")
        if parse_claimed(token) is None:
            raise UsageError(f"{receipt!r} is not a receipt: `cfn receive` prints one", receipt=receipt)
        with self.turn:
            box = self.boxes.get(check_agent_id(agent).lower())
            if box is None or box.agent != agent or token not in box.claims:
                raise LeaseLost(f"the lease of this message of {agent!r} is over: others may have it", agent=agent)
            return MemoryDelivery(self, box, token, box.claims[token].parcel.messages)

    def sweep(self, *, dead_agents: bool = False) -> Swept:
        swept = Swept()
        with self.turn:
            for box in list(self.boxes.values()):
                self.sweep_box(box, swept)
                if dead_agents and box.attended and box.owner is None:
                    self.remove(box.agent)
                    swept.removed.append(box.agent)
        return swept

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def now(self) -> int:
        return self._clock()

    def close(self) -> None:
        with self.turn:
            for mailbox in list(self._mailboxes):
                self.leave(mailbox)

    def __enter__(self) -> MemoryBus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---------------------------------------------------------------- what mailboxes and deliveries ask of their bus

    def box(self, agent: str) -> Box:
        found = self.boxes.get(check_agent_id(agent).lower())
        if found is None or found.agent != agent:
            raise AgentGone(f"there is no agent {agent!r} on this bus: register it first", agent=agent)
        return found

    def graves_of(self, agent: str) -> list[Grave]:
        return [grave for _, grave in sorted(self._graves.items()) if grave.agent == agent]

    def announce(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    def lease_us(self, lease_s: float | None) -> int:
        return lease_us(self.settings.lease if lease_s is None else lease_s)

    def claim(self, box: Box, parcel: Parcel, holder: MemoryMailbox, lease_us: int) -> str:
        """Lease it; returns the name of the claim."""
        deadline = self.now() + lease_us
        token = claimed(parcel.name.text, holder.writer, deadline)
        box.claims[token] = Claim(parcel, holder, deadline)
        return token

    def give_back(self, box: Box, parcel: Parcel, text: str, ready_at: int | None = None) -> bool:
        """Onto its shelf again as the next attempt; False when its attempts are spent: then it is buried."""
        if parcel.name.delivery >= self.settings.max_attempts:
            self.bury(box, parcel, text, "attempts")
            return False
        due = None if ready_at is None else ready_at + AGING_US[LANE[parcel.name.lane]]
        box.put(parcel.renamed(attempt=parcel.name.delivery + 1, due=due))
        self.turn.notify_all()
        self.announce(Released(box.agent, self.now(), text))
        return True

    def bury(self, box: Box, parcel: Parcel, text: str, reason: Reason) -> None:
        self._inter(box.agent, parcel, reason)
        self.announce(Buried(box.agent, self.now(), text, reason))

    def _inter(self, agent: str, parcel: Parcel, reason: Reason) -> None:
        self._graves[f"{agent}/{dead(parcel.name, reason)}"] = Grave(agent, reason, parcel)

    def sweep_box(self, box: Box, swept: Swept | None = None) -> None:
        """Return the claims whose lease is over or whose attending holder is dead."""
        now = self.now()
        lost = [text for text, claim in box.claims.items() if claim.deadline <= now or claim.holder.lost]
        self._return(box, lost, swept)

    def _return(self, box: Box, texts: list[str], swept: Swept | None = None) -> None:
        for text in texts:
            returned = self.give_back(box, box.claims.pop(text).parcel, text)
            if swept is not None:
                swept.returned += returned
                swept.buried += not returned

    def leave(self, mailbox: MemoryMailbox, *, keep_claims: bool = False) -> None:
        """What it still holds goes back, unless that is to be kept; the mailbox stays."""
        with self.turn:
            if mailbox.dead:
                return
            mailbox.hang_up()
            self._mailboxes.remove(mailbox)
            box = mailbox.box
            if box.owner is mailbox:
                box.owner = None
            if not keep_claims:
                self._return(box, [text for text, claim in box.claims.items() if claim.holder is mailbox])


def _letter(text: str, grave: Grave) -> DeadLetter:
    parcel = grave.parcel
    return DeadLetter(
        letter=text,
        agent=grave.agent,
        reason=grave.reason,
        size_bytes=len(parcel.raw),
        sender=parcel.name.sender,
        message=parcel.messages[0] if parcel.name.count is None else None,
    )
