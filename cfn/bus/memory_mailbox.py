"""A mailbox of the in-memory bus, told in the verbs of :mod:`cfn.bus.protocol`.

Guarantees: those of the contract. Every change of state is made in one go under the bus's one lock, so that no thread sees half
of it; waiting (for room, for mail, for a reply) gives the lock up. Handlers that the caller gave (`on_control`) run without the
lock. A writer is a mailbox object: each numbers its own streams, under the lock, so that a mailbox may serve several threads.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from cfn.bus import compose
from cfn.bus.events import Delivered, GapFound, Sent
from cfn.bus.memory_delivery import MemoryDelivery
from cfn.bus.memory_store import Box, Parcel, Shelf, span
from cfn.bus.names import AGING_US, LETTER, Name
from cfn.bus.protocol import Delivery, Draft, Reason
from cfn.bus.sequences import spans
from cfn.errors import Fenced, InboxFull, NoReply, UsageError
from cfn.message import Lane, Message, check_agent_id, encode

if TYPE_CHECKING:
    from cfn.bus.memory import MemoryBus

#: Longest wait between two looks: a clock that a test moves, or a claim whose lease ends, rings no bell.
LOOK_S: Final = 0.05


class MemoryMailbox:
    """One agent's mailbox, opened by whoever holds this object."""

    def __init__(self, bus: MemoryBus, box: Box, *, attended: bool) -> None:
        self.agent = box.agent
        self.epoch = box.epoch
        self.min_term = 0
        self.on_control: Callable[[Delivery], None] | None = None
        self.gaps = 0
        self.dead = False  # left, or was killed
        self._attended = attended
        self.writer = os.urandom(5).hex()  # numbers its streams and names its claims
        self._bus = bus
        self._box = box
        self._last = 0
        self._next: WeakKeyDictionary[Shelf, int] = WeakKeyDictionary()  # by the recipient's inbox: made anew, from 1
        self._bell: tuple[socket.socket, socket.socket] | None = None

    # ---------------------------------------------------------------- sending

    def send(
        self,
        to: str,
        type: str,
        payload: Mapping[str, Any],
        *,
        priority: Lane = "normal",
        reply_to: str | None = None,
        expires_in_s: float | None = None,
        delay_s: float = 0.0,
        term: int | None = None,
        run: str | None = None,
        trace: str | None = None,
        timeout_s: float | None = None,
    ) -> Message:
        compose.check_draft(type, payload, priority)
        compose.check_optional(reply_to, term, run, trace)
        expires_at = compose.expires_at(expires_in_s)
        draft = Draft(type=type, payload=payload, reply_to=reply_to, expires_at=expires_at)
        optional = {"term": term, "run": run, "trace": trace}
        delay_us = compose.microseconds(delay_s, "delay_s")
        return self._publish(to, [draft], None, priority, optional, delay_us, timeout_s)[0]

    def send_batch(
        self,
        to: str,
        drafts: Iterable[Draft],
        *,
        priority: Lane = "normal",
        timeout_s: float | None = None,
        term: int | None = None,
        run: str | None = None,
    ) -> list[Message]:
        batch = compose.check_drafts(drafts, priority, self._bus.settings)
        compose.check_optional(None, term, run, None)
        return self._publish(to, batch, len(batch), priority, {"term": term, "run": run}, 0, timeout_s)

    def reply(self, to: Message, payload: Mapping[str, Any], *, type: str = "response", **options: Any) -> Message:
        return self.send(to.sender, type, payload, reply_to=to.msg_id, **options)

    def request(
        self, to: str, type: str, payload: Mapping[str, Any], *, timeout_s: float = 10.0, **options: Any
    ) -> Message:
        give_up = time.monotonic() + timeout_s
        sent = self.send(to, type, payload, timeout_s=timeout_s, **options)
        with self._bus.turn:
            while True:
                reply = self._take_reply(sent.msg_id)
                if reply is not None:
                    return reply
                if not self._wait(give_up):
                    raise NoReply(
                        f"no reply from {to!r} within {timeout_s} s; it may have acted", agent=to, msg_id=sent.msg_id
                    )

    def _take_reply(self, msg_id: str) -> Message | None:
        self._check()
        for shelf in (self._box.control, self._box.inbox):
            parcel = shelf.reply_to(msg_id)
            if parcel is not None:
                shelf.discard(parcel)
                delivery = self._hand_over(parcel, self._bus.lease_us(None))
                if delivery is not None:
                    delivery.ack()
                    return delivery.message
        return None

    def _publish(
        self,
        to: str,
        drafts: list[Draft],
        count: int | None,
        priority: Lane,
        optional: dict[str, Any],
        delay_us: int,
        timeout_s: float | None,
    ) -> list[Message]:
        """Onto the recipient's shelf, in one go; while that is full, wait and serve the own control lane."""
        check_agent_id(to)
        give_up = time.monotonic() + (self._bus.settings.send_timeout if timeout_s is None else timeout_s)
        lane = LETTER[priority]
        while True:
            with self._bus.turn:
                self._check()
                box = self._bus.box(to)
                seq = self._next.get(box.inbox, 1)
                messages, raw = self._compose(to, seq, drafts, count, priority, optional)
                depth = len(box.shelf(lane))
                if depth < box.max_inbox:
                    now = self._bus.now()
                    self._last = max(now, self._last + 1)
                    due = self._last + delay_us + AGING_US[priority]
                    name = Name(due, lane, self.agent, self.epoch, self.writer, seq, 1, count)
                    box.put(Parcel(name, raw, None if count else messages[0].reply_to))
                    self._next[box.inbox] = seq + len(messages)
                    self._bus.turn.notify_all()
                    self._bus.announce(Sent(self.agent, now, to, name.text, len(messages)))
                    return messages
                urgent = (
                    None if self.on_control is None else self._claim_next(self._bus.lease_us(None), control_only=True)
                )
                if urgent is None and not self._wait(give_up):
                    raise InboxFull(
                        f"the inbox of {to!r} stayed full ({depth} files); the message was not sent: try again later",
                        agent=to,
                        depth=depth,
                    )
            if urgent is not None and self.on_control is not None:
                self.on_control(urgent)

    def _compose(
        self, to: str, seq: int, drafts: list[Draft], count: int | None, priority: Lane, optional: dict[str, Any]
    ) -> tuple[list[Message], bytes]:
        messages = [
            compose.compose(
                self.agent,
                self.epoch,
                to,
                seq + n,
                draft.type,
                draft.payload,
                priority,
                reply_to=draft.reply_to,
                expires_at=draft.expires_at,
                **optional,
            )
            for n, draft in enumerate(drafts)
        ]
        settings = self._bus.settings
        if count is None:
            return messages, encode(messages[0], settings.max_message_bytes)
        return messages, compose.encode_batch(messages, settings)

    # ---------------------------------------------------------------- receiving

    def receive(
        self, timeout_s: float = 0.0, limit: int = 1, *, lease_s: float | None = None, control_only: bool = False
    ) -> list[Delivery]:
        give_up = time.monotonic() + timeout_s
        lease_us = self._bus.lease_us(lease_s)
        with self._bus.turn:
            while True:
                self._check()
                self._bus.sweep_box(self._box)
                got: list[Delivery] = []
                while len(got) < limit:
                    delivery = self._claim_next(lease_us, control_only=control_only)
                    if delivery is None:
                        break
                    got.append(delivery)
                if got or not self._wait(give_up, self._box.next_ready_at()):
                    return got

    def _claim_next(self, lease_us: int, *, control_only: bool = False) -> MemoryDelivery | None:
        shelf = self._box.control if control_only else self._box
        while (parcel := shelf.take(self._bus.now())) is not None:
            delivery = self._hand_over(parcel, lease_us)
            if delivery is not None:
                return delivery
        return None

    def _hand_over(self, parcel: Parcel, lease_us: int) -> MemoryDelivery | None:
        """Claim it, or bury it where it must not be delivered. It has left its shelf; the shelf has room again."""
        self._bus.turn.notify_all()
        self._note(parcel)
        messages = parcel.messages
        reason = self._verdict(parcel, messages)
        if reason is not None:
            self._bus.bury(self._box, parcel, parcel.name.text, reason)
            return None
        text = self._bus.claim(self._box, parcel, self, lease_us)
        self._bus.announce(Delivered(self.agent, self._bus.now(), text, parcel.name.delivery))
        return MemoryDelivery(self._bus, self._box, text, messages)

    def _verdict(self, parcel: Parcel, messages: list[Message]) -> Reason | None:
        """Why this must not be handed over; None when it may. A batch is over when all its messages are."""
        if parcel.name.delivery > self._bus.settings.max_attempts:
            return "attempts"
        now = time.time()
        if all(message.expires_at is not None and message.expires_at <= now for message in messages):
            return "expired"
        if all(message.term is not None and message.term < self.min_term for message in messages):
            return "fenced"
        return None

    def _note(self, parcel: Parcel) -> None:
        """Remember its numbers; count those before it that are proven missing: waiting, claimed and buried nowhere."""
        name, seen = parcel.name, self._box.seen
        hole = None if name.attempt != 1 else seen.hole_before(name.stream, name.seq)
        seen.add(name.stream, name.seq, name.count or 1)
        if hole is None:
            return
        first, last = hole
        here = self._box.numbers(name.stream)
        for grave in self._bus.graves_of(self.agent):
            if grave.parcel.name.stream == name.stream:
                here.update(span(grave.parcel.name))
        missing = [number for number in range(first, last + 1) if number not in here]
        self.gaps += len(missing)
        for gap_first, gap_last in spans(missing):
            self._bus.announce(GapFound(self.agent, self._bus.now(), name.sender, gap_first, gap_last))

    # ---------------------------------------------------------------- doorbell, life

    def fileno(self) -> int | None:
        with self._bus.turn:
            self._check()
            if self._bell is None:
                self._bell = socket.socketpair()
                for end in self._bell:
                    end.setblocking(False)
                self._box.readers.append(self)
                if self._box.count("inbox"):
                    self.ring()
            return self._bell[0].fileno()

    def ring(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):
                self._bell[1].send(b"\1")

    def drain_bell(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):
                while self._bell[0].recv(4096):
                    pass

    def beat(self) -> None:
        with self._bus.turn:
            self._check()
            self._box.beat_at = self._bus.now()

    def close(self) -> None:
        self._bus.leave(self)

    def detach(self) -> None:
        self._attended = False  # from now on its claims are judged by their leases alone
        self._bus.leave(self, keep_claims=True)

    def remove(self, reason: Reason = "agent-gone") -> None:
        with self._bus.turn:
            if self._current():
                self._bus.remove(self.agent, reason)

    def hang_up(self) -> None:
        """What the end of a process does to this object: it is nobody's from now on."""
        self.dead = True
        if self in self._box.readers:
            self._box.readers.remove(self)
        for end in self._bell or ():
            end.close()
        self._bell = None

    @property
    def lost(self) -> bool:
        """Whether this holder is proven dead. One that does not attend is judged by its leases alone."""
        return self._attended and self.dead

    @property
    def box(self) -> Box:
        return self._box

    def _current(self) -> bool:
        """Whether this is still the agent's mailbox: not removed, and not a former incarnation's."""
        return self._bus.boxes.get(self.agent.lower()) is self._box

    def _check(self) -> None:
        if not self._current():
            raise Fenced(f"{self.agent!r} was replaced or removed: this mailbox can no longer act", agent=self.agent)
        if self.dead:
            raise UsageError(f"this mailbox of {self.agent!r} is closed: register or open it again", agent=self.agent)

    def _wait(self, give_up: float, ready_at: int | None = None) -> bool:
        """Wait for a change, at most one look. False when the time was over before."""
        left = min(give_up - time.monotonic(), LOOK_S)
        if left <= 0:
            return False
        if ready_at is not None:
            left = min(left, max((ready_at - self._bus.now()) / 1e6, 0.0005))
        self._bus.turn.wait(left)
        return True
