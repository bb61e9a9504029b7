"""The contract of every transport: :class:`Bus`, :class:`Mailbox`, :class:`Delivery`.

One test body (``tests/contract``) runs over every implementation. The promises behind these verbs:

* ``send`` returned: the message is in exactly one of outbox, inbox, claimed, acknowledged, dead. ``send`` raised: it was
  not sent (:class:`~cfn.errors.NoReply` of ``request`` excepted).
* ``ack`` returned: never claimed again. The lease was over: :class:`~cfn.errors.LeaseLost`, and the work must not count.
* First deliveries of one writer, in one lane, come in sequence order to an ordered mailbox.
* An inbox holds ``max_inbox`` files, a batch being one; a sender waits, then gets :class:`~cfn.errors.InboxFull`.
* The control lane is served first.

Times that a caller passes are seconds; deadlines and `at` are µs of bus time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cfn.bus.events import Observer
from cfn.message import Lane, Message

#: Why a message is in `dead`: the code is part of the name of the file.
Reason = Literal["expired", "attempts", "malformed", "fenced", "agent-gone", "rejected"]
REASONS: tuple[Reason, ...] = ("expired", "attempts", "malformed", "fenced", "agent-gone", "rejected")
#: Where the messages of an agent are. `inbox` counts the control folder too.
Box = Literal["inbox", "claimed", "outbox", "dead"]
BOXES: tuple[Box, ...] = ("inbox", "claimed", "outbox", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One message of a batch, before it has a number."""

    type: str
    payload: Mapping[str, Any]
    reply_to: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """Who an agent is (``agent.json``), and whether it lives."""

    agent: str
    epoch: int  # incarnation: the count of its registrations
    pid: int
    host: str
    attended: bool  # holds the `alive` lock while it lives
    alive: bool | None  # None: ephemeral, judged by lease and heartbeat alone
    beat_age_s: float | None  # since the last heartbeat, in bus time
    role: str | None = None
    team: str | None = None
    run: str | None = None
    parent: str | None = None  # its coordinator
    max_inbox: int = 1000
    shared: bool = False  # several receivers: no order is promised
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that was given up. `letter` is what ``put_back`` takes."""

    letter: str  # "<agent>/<name>"
    agent: str
    reason: str
    size_bytes: int
    sender: str | None  # None where the name does not follow the grammar
    message: Message | None  # None where the content is not a message (or is a batch)


@dataclass(slots=True, kw_only=True)
class Swept:
    """What a sweep did."""

    returned: int = 0  # claims whose lease or holder was gone, back in the inbox
    buried: int = 0  # of those, attempts spent
    discarded: int = 0  # unfinished writes of dead writers
    removed: list[str] = field(default_factory=list)  # mailboxes of dead attended agents


class Delivery(Protocol):
    """A claimed message or batch: exactly one of ack, release, bury ends it."""

    @property
    def messages(self) -> Sequence[Message]: ...  # one, or a batch in order

    @property
    def attempt(self) -> int: ...  # 1 = first delivery

    @property
    def receipt(self) -> str: ...  # opaque text; `Bus.redeem` makes a Delivery of it again in another process

    @property
    def message(self) -> Message: ...  # the first one

    @property
    def deadline(self) -> int: ...  # end of the lease, µs of bus time

    def ack(self) -> None:
        """Done for good. Raises LeaseLost. Acking twice on one object is harmless."""

    def renew(self, lease_s: float | None = None) -> None:
        """Hold it for `lease_s` from now. Raises LeaseLost."""

    def release(self, delay_s: float = 0.0) -> None:
        """Give it back, to be delivered again (attempt + 1) after `delay_s`; buried when attempts are spent. Raises LeaseLost."""

    def bury(self, reason: Reason = "rejected") -> None:
        """To the dead letters. Raises LeaseLost."""


class Mailbox(Protocol):
    """One agent's mailbox, opened by one process."""

    agent: str
    epoch: int
    min_term: int  # messages that carry an older term are buried as `fenced`; 0 accepts all
    on_control: Callable[[Delivery], None] | None  # called for control messages while a send waits at a full inbox
    gaps: int  # sequence numbers proven missing

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
        """Publish one message; returns it as it was sent. `timeout_s`: wait at a full inbox (None: the setting; 0: do not wait).

        Raises: AgentGone, Fenced, InboxFull, BadMessage, MessageTooLarge, BadAgentId, BusFull; in each case nothing was sent.
        """

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
        """Publish up to ``max_batch`` messages as one file: delivered, acked and buried whole. Raises as `send`."""

    def reply(self, to: Message, payload: Mapping[str, Any], *, type: str = "response", **options: Any) -> Message:
        """Answer `to` (sets `reply_to`). Options and errors as `send`."""

    def request(
        self, to: str, type: str, payload: Mapping[str, Any], *, timeout_s: float = 10.0, **options: Any
    ) -> Message:
        """Send and wait for the answer (it is acked). Other messages stay in the inbox. Raises as `send`, and NoReply."""

    def receive(
        self, timeout_s: float = 0.0, limit: int = 1, *, lease_s: float | None = None, control_only: bool = False
    ) -> list[Delivery]:
        """Claim up to `limit` deliveries: control first, then by due time with aging. Empty after `timeout_s`.

        `control_only` leaves everything but the control lane where it is.

        Expired, malformed, fenced and over-delivered messages are buried on the way. Raises: Fenced when the mailbox is gone.
        """

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when mail comes, for poll loops; None where there is no doorbell."""

    def drain_bell(self) -> None:
        """Swallow the rings so far. Order for a poll loop: drain, receive until empty, then poll."""

    def beat(self) -> None:
        """Heartbeat."""

    def close(self) -> None:
        """Leave: claims go back to the inbox, the mailbox stays registered."""

    def detach(self) -> None:
        """Leave, and leave the claims claimed: whoever has a receipt may still ack, until the lease is over."""

    def remove(self, reason: Reason = "agent-gone") -> None:
        """End the mailbox: what is in it goes to the bus's dead letters. Idempotent."""


class Bus(Protocol):
    """One bus, as this process sees it. A context manager; not for sharing between threads or across a fork."""

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
    ) -> Mailbox:
        """Create (or take again, as a new incarnation) the mailbox of `agent`.

        Raises: BadAgentId; AgentExists (a living process holds it, or an id that differs only by case exists); BusFull.
        """

    def open(self, agent: str) -> Mailbox:
        """The mailbox of a registered agent, without becoming it: one-shot sends and receives. Raises: AgentGone."""

    def redeem(self, receipt: str) -> Delivery:
        """The delivery behind a receipt. Raises: LeaseLost, UsageError (not a receipt)."""

    def agent(self, agent: str) -> AgentInfo:
        """Raises: AgentGone."""

    def agents(self) -> list[AgentInfo]: ...

    def is_alive(self, agent: str) -> bool:
        """Whether a process holds the agent's `alive` lock now. False also when there is no such agent."""

    def beat_age_s(self, agent: str) -> float | None:
        """Seconds of bus time since the agent's last heartbeat; None when there is no such agent or it is ephemeral."""

    def count(self, agent: str, box: Box = "inbox") -> int:
        """Files (a batch is one) in that box. Raises: AgentGone."""

    def peek(self, agent: str, box: Box = "inbox", limit: int = 100) -> list[Message]:
        """Messages without consuming them, in the order of their names. Raises: AgentGone."""

    def dead(self, agent: str | None = None) -> list[DeadLetter]:
        """Dead letters, of removed agents too."""

    def put_back(self, letter: str) -> None:
        """A dead letter into its agent's inbox again, attempts counted anew. Raises: AgentGone, UsageError."""

    def remove(self, agent: str, reason: Reason = "agent-gone") -> None:
        """End an agent's mailbox from outside. Idempotent."""

    def sweep(self, *, dead_agents: bool = False) -> Swept:
        """Return lost claims, discard torn writes; with `dead_agents` also end the mailboxes of dead attended agents."""

    def observe(self, observer: Observer) -> None: ...

    def now(self) -> int:
        """Bus time, µs."""

    def close(self) -> None: ...

    def __enter__(self) -> Bus: ...

    def __exit__(self, *exc: object) -> None: ...
