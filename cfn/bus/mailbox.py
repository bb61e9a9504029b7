"""One agent's mailbox on the file bus: what it sends (:mod:`cfn.bus.sending`) and how it receives.

Receive: drain the bell, list, claim by rename, look at the deadline again, read, hand over; when nothing is there, poll the
bell for 50 ms at most. One listing serves max(256, a quarter) claims, so that a deep backlog is not listed for each message.
The control folder is looked at before every claim.

Order: names sort by due time; a writer's name times rise strictly. A listing that raced with renames may miss a name, so when
a number is skipped the folders are listed once more before the later message is handed over; only then is a gap counted.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from cfn.bus import names, registry
from cfn.bus.compose import (
    check_draft,
    check_drafts,
    check_optional,
    compose,
    encode_batch,
    expires_at,
    lease_us,
    microseconds,
)
from cfn.bus.delivery import FileDelivery, read_messages
from cfn.bus.events import Buried, Delivered, GapFound, Sent
from cfn.bus.files import Folder, Lock, full
from cfn.bus.names import Name
from cfn.bus.protocol import Delivery, Draft, Reason
from cfn.bus.sending import Sender
from cfn.bus.sequences import Sequences, spans
from cfn.bus.transitions import AgentFolders
from cfn.errors import BadMessage, Fenced, LeaseLost, NoReply, UsageError
from cfn.message import Lane, Message, encode

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

_POLL_S: Final = 0.05  # longest wait between two listings: what a lost ring can cost
_RELIST_MIN: Final = 256
_SWEEP_US: Final = 200_000  # how often a receiver returns the claims of others that ended in its own mailbox


class FileMailbox:
    """See :class:`cfn.bus.protocol.Mailbox`."""

    def __init__(
        self,
        bus: FileBus,
        folders: AgentFolders,
        epoch: int,
        *,
        alive: Lock | None,
        holder: str,
        fresh: bool,
        ordered: bool,
    ) -> None:
        self.bus = bus
        self.agent = folders.agent
        self.epoch = epoch
        self.min_term = 0
        self.on_control: Callable[[Delivery], None] | None = None
        self.gaps = 0
        self.folders = folders
        self._alive = alive
        self._holder = holder
        self._tmp = Folder(os.path.join(folders.path, "tmp", str(epoch)), bus.caps)
        self._sender = Sender(bus, self.agent, epoch, self._tmp, self._serve_control)
        self._closed = False
        #: Where no descriptor of tmp/ refuses for us: which incarnation of which mailbox this is.
        self._identity = None if self._tmp.fd is not None else registry.identity(folders.path)
        self._held: dict[str, FileDelivery] = {}
        self._queue: list[str] = []  # names still to claim, last first
        self._budget = 0  # claims until the next listing
        self._soonest = 0  # earliest ready_at among the delayed ones of the last listing
        self._sequences = Sequences(from_one=fresh) if ordered else None
        self._swept_at = 0
        self._beat_at = 0
        self._bell = self._open_bell()
        self._poll: Any = None
        if self._bell is not None:
            self._poll = select.poll()
            self._poll.register(self._bell, select.POLLIN)

    # ------------------------------------------------------------ sending

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
        check_draft(type, payload, priority)
        check_optional(reply_to, term, run, trace)
        delay_us = microseconds(delay_s, "delay_s")
        optional = {
            "reply_to": reply_to,
            "expires_at": expires_at(expires_in_s),
            "term": term,
            "run": run,
            "trace": trace,
        }
        sent: list[Message] = []

        def make(sequence: int) -> bytes:
            message = compose(self.agent, self.epoch, to, sequence, type, payload, priority, **optional)
            sent[:] = [message]
            return encode(message, self.bus.settings.max_message_bytes)

        self._publish(to, priority, make, None, delay_us, timeout_s)
        return sent[0]

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
        batch = check_drafts(drafts, priority, self.bus.settings)
        check_optional(None, term, run, None)
        sent: list[Message] = []

        def make(sequence: int) -> bytes:
            sent[:] = [
                compose(
                    self.agent, self.epoch, to, sequence + place, draft.type, draft.payload, priority,
                    reply_to=draft.reply_to, expires_at=draft.expires_at, term=term, run=run,
                )
                for place, draft in enumerate(batch)
            ]  # fmt: skip
            return encode_batch(sent, self.bus.settings)

        self._publish(to, priority, make, len(batch), 0, timeout_s)
        return sent

    def _publish(
        self,
        to: str,
        lane: Lane,
        make: Callable[[int], bytes],
        count: int | None,
        delay_us: int,
        timeout_s: float | None,
    ) -> None:
        self._check(sending=True)
        wait_s = self.bus.settings.send_timeout if timeout_s is None else timeout_s
        name = self._sender.publish(to, lane, make, count, delay_us, wait_s)
        if self.bus.observers:
            self.bus.announce(Sent(self.agent, self.bus.now(), to, name, count or 1))

    def reply(self, to: Message, payload: Mapping[str, Any], *, type: str = "response", **options: Any) -> Message:
        return self.send(to.sender, type, payload, reply_to=to.msg_id, **options)

    def request(
        self, to: str, type: str, payload: Mapping[str, Any], *, timeout_s: float = 10.0, **options: Any
    ) -> Message:
        end = time.monotonic() + timeout_s
        asked = self.send(to, type, payload, timeout_s=timeout_s, **options)
        looked: set[str] = set()
        while True:
            self._check()
            self.drain_bell()
            answer = self._find_reply(to, asked.msg_id, looked)
            if answer is not None:
                return answer
            left = end - time.monotonic()
            if left <= 0:
                raise NoReply(
                    f"{to!r} did not answer within {timeout_s:g} s; it may still act on the request",
                    agent=to,
                    msg_id=asked.msg_id,
                )
            self._wait(left)

    def _find_reply(self, sender: str, msg_id: str, looked: set[str]) -> Message | None:
        for place in ("control", "inbox"):
            folder = self._folder(place)
            for text in self._list(folder):
                name = names.parse(text)
                if name is None or name.sender != sender or text in looked:
                    continue
                looked.add(text)
                try:
                    messages = read_messages(self.folders, place, text, name, self.bus.settings.max_message_bytes)
                except (FileNotFoundError, BadMessage):
                    continue
                if messages[0].reply_to == msg_id:
                    delivery = self._take(folder, text, name, self.bus.settings.lease)
                    if delivery is not None:
                        delivery.ack()
                        return messages[0]
        return None

    def _serve_control(self) -> None:
        """While a send waits: hand control messages over, so that a cancel gets through a full tree."""
        if self.on_control is not None:
            for delivery in self._from_control(
                1, self.bus.settings.lease
            ):  # one: the handler may end the send by raising
                self.on_control(delivery)
        self._beat_if_due()

    # ------------------------------------------------------------ receiving

    def receive(
        self, timeout_s: float = 0.0, limit: int = 1, *, lease_s: float | None = None, control_only: bool = False
    ) -> list[Delivery]:
        lease = self.bus.settings.lease if lease_s is None else lease_s
        lease_us(lease)
        end: float | None = None
        pause_s = 0.001
        while True:
            self._check()
            self.drain_bell()
            self._beat_if_due()
            self._sweep_if_due()
            out = self._from_control(limit, lease)
            if len(out) < limit and not control_only:
                out += self._from_inbox(limit - len(out), lease)
            if out or timeout_s <= 0:
                return out
            now = time.monotonic()
            end = now + timeout_s if end is None else end
            if now >= end:
                return out
            left = end - now
            if self._soonest:
                left = min(left, max(0.0, (self._soonest - self.bus.now()) / 1e6))
            self._wait(left, pause_s)
            pause_s = min(pause_s * 2, _POLL_S)

    def _wait(self, left_s: float, pause_s: float = 0.005) -> None:
        if self._poll is not None:
            self._poll.poll(min(_POLL_S, left_s) * 1000)
        else:
            time.sleep(min(pause_s, left_s))

    def _from_control(self, limit: int, lease_s: float) -> list[Delivery]:
        folder = self._folder("control")
        if self.bus.depth.step:
            try:
                if self.bus.depth.entries(folder, folder.stat()) == 0:
                    return []
            except FileNotFoundError:
                raise self._fenced() from None
        out: list[Delivery] = []
        for text in sorted(self._list(folder)):
            if len(out) >= limit:
                break
            delivery = self._consider(folder, text, lease_s)
            if delivery is not None:
                out.append(delivery)
        return out

    def _consider(self, folder: Folder, text: str, lease_s: float) -> Delivery | None:
        name = names.parse(text)
        if name is None:
            self._quarantine(folder, text)
            return None
        if self._delayed(name):
            return None
        return self._take(folder, text, name, lease_s)

    def _delayed(self, name: Name) -> bool:
        """Whether it is not due yet; the earliest of those ends the next wait."""
        if name.ready_at <= self.bus.now():
            return False
        self._soonest = min(self._soonest or name.ready_at, name.ready_at)
        return True

    def _from_inbox(self, limit: int, lease_s: float) -> list[Delivery]:
        folder = self._folder("inbox")
        out: list[Delivery] = []
        listed = False
        while len(out) < limit:
            if not self._queue or self._budget <= 0:
                if not self._queue and (out or listed):
                    break  # hand over what is there; the next call lists again. What is only delayed must not be listed for ever
                self._relist(folder)
                listed = True
                if not self._queue:
                    break
            text = self._queue[-1]
            name = names.parse(text)
            if name is not None and self._delayed(name):
                self._pass_delayed()  # not counted: a budget spent on these would list them again and never pass them
                continue
            if name is not None and self._skips(name) and self._look_again(folder, name):
                continue
            self._queue.pop()
            self._budget -= 1
            delivery = self._consider(folder, text, lease_s)
            if delivery is not None:
                out.append(delivery)
        return out

    def _relist(self, folder: Folder) -> None:
        self._soonest = 0
        self._queue = sorted(self._list(folder), reverse=True)
        self._budget = max(_RELIST_MIN, len(self._queue) // 4)
        self._pass_delayed()

    def _pass_delayed(self) -> None:
        """Drop the delayed ones at the head: the head is the next that may be delivered."""
        while self._queue and (name := names.parse(self._queue[-1])) is not None and self._delayed(name):
            self._queue.pop()

    def _folder(self, place: str) -> Folder:
        try:
            return self.folders[place]
        except FileNotFoundError:
            raise self._fenced() from None
        except OSError as error:
            raise full(error, f"cannot open the mailbox of {self.agent!r}") from error

    def _list(self, folder: Folder) -> list[str]:
        try:
            return folder.names()
        except FileNotFoundError:
            raise self._fenced() from None
        except OSError as error:
            raise full(error, f"cannot list the mailbox of {self.agent!r}") from error

    def _take(self, folder: Folder, text: str, name: Name, lease_s: float) -> FileDelivery | None:
        """Claim and read one; None when another took it or it was buried."""
        deadline = self.bus.now() + lease_us(lease_s)
        try:
            claimed = self.folders.claim(folder, text, self._holder, deadline)
        except OSError as error:
            raise full(error, f"cannot claim for {self.agent!r}") from error
        if claimed is None:
            return None
        claim = names.Claim(name, self._holder, deadline)
        try:
            messages = read_messages(self.folders, "claimed", claimed, name, self.bus.settings.max_message_bytes)
        except FileNotFoundError:
            return None  # swept away between claim and read
        except BadMessage:
            self._bury(claimed, name, "malformed")
            return None
        except OSError as error:
            with contextlib.suppress(LeaseLost):
                self.folders.restore(claimed, name)
            raise full(error, f"cannot read a message of {self.agent!r}") from error
        reason = self._unwanted(messages)
        if reason is not None:
            self._bury(claimed, name, reason)
            return None
        if self.bus.now() >= deadline:
            return None  # this process slept through its own lease: a sweep returns it
        if self._sequences is not None:
            self._sequences.add(name.stream, name.seq, name.count or 1)
        if self.bus.observers:
            self.bus.announce(Delivered(self.agent, self.bus.now(), claimed, name.delivery))
        return FileDelivery(self.bus, self.folders, claimed, claim, messages, self._held)

    def _unwanted(self, messages: list[Message]) -> Reason | None:
        if self.min_term and all(m.term is not None and m.term < self.min_term for m in messages):
            return "fenced"
        now = time.time()
        if all(m.expires_at is not None and m.expires_at <= now for m in messages):
            return "expired"
        return None

    def _bury(self, claimed: str, name: Name, reason: Reason) -> None:
        with contextlib.suppress(LeaseLost):
            self.folders.bury(claimed, name, reason)
            if self._sequences is not None:
                self._sequences.add(name.stream, name.seq, name.count or 1)
            if self.bus.observers:
                self.bus.announce(Buried(self.agent, self.bus.now(), claimed, reason))

    def _quarantine(self, folder: Folder, text: str) -> None:
        grave = self.folders.quarantine(folder, text, self.bus.now())
        if grave is not None and self.bus.observers:
            self.bus.announce(Buried(self.agent, self.bus.now(), grave, "malformed"))

    # ------------------------------------------------------------ gaps

    def _skips(self, name: Name) -> bool:
        if self._sequences is None or name.attempt != 1:
            return False
        return self._sequences.hole_before(name.stream, name.seq) is not None

    def _look_again(self, folder: Folder, name: Name) -> bool:
        """A number was skipped. List once more; count what is nowhere; True when the queue changed and must be looked at anew."""
        assert self._sequences is not None
        hole = self._sequences.hole_before(name.stream, name.seq)
        if hole is None:
            return False
        before = self._queue[-1]
        self._relist(folder)
        missing = set(range(hole[0], hole[1] + 1)) - self._numbers_present(name.stream)
        for first, last in spans(missing):
            self._sequences.add(name.stream, first, last - first + 1)
            self.gaps += last - first + 1
            if self.bus.observers:
                self.bus.announce(GapFound(self.agent, self.bus.now(), name.sender, first, last))
        changed = not self._queue or self._queue[-1] != before
        if not changed and missing != set(range(hole[0], hole[1] + 1)):
            # the rest waits in another lane or folder: remember the jump as looked at
            self._sequences.add(name.stream, name.seq, name.count or 1)
        return changed

    def _numbers_present(self, stream: tuple[str, int, str]) -> set[int]:
        found: set[int] = set()
        for place in ("control", "inbox", "claimed", "dead"):
            for text in self._list(self._folder(place)):
                name = names.parse_in(place, text)
                if name is not None and name.stream == stream:
                    found.update(range(name.seq, name.seq + (name.count or 1)))
        return found

    # ------------------------------------------------------------ waking, liveness, end

    def _open_bell(self) -> int | None:
        if not self.bus.caps.doorbell:
            return None
        try:
            return os.open(
                os.path.join(self.folders.path, "bell"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            )
        except OSError:
            return None

    def fileno(self) -> int | None:
        return self._bell

    def drain_bell(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 65536)

    def beat(self) -> None:
        self._beat_at = now = self.bus.now()
        self._utime(now)

    def _utime(self, at: int) -> None:
        if self._alive is not None:
            target: int | str = self._alive.fd if os.utime in os.supports_fd else self._alive.path
            with contextlib.suppress(OSError):
                os.utime(target, ns=(at * 1000, at * 1000))

    def _beat_if_due(self) -> None:
        if self.bus.now() - self._beat_at >= self.bus.settings.heartbeat * 1e6:
            self.beat()

    def _sweep_if_due(self) -> None:
        now = self.bus.now()
        if now - self._swept_at >= _SWEEP_US:
            self._swept_at = now
            self.bus.sweep_agent(self.folders)

    def close(self) -> None:
        if self._closed:
            return
        for delivery in list(self._held.values()):
            with contextlib.suppress(LeaseLost, OSError):
                delivery.release()
        self.detach()

    def detach(self) -> None:
        if self._closed:
            return  # what has its name now is another's
        self._end()
        if self._alive is not None:
            self._utime(0)  # says "left" where no lock can be asked
            self._alive.close()

    def remove(self, reason: Reason = "agent-gone") -> None:
        if not self._closed and not self._replaced():  # else what is there now is not ours
            self.bus.remove(self.agent, reason)
        self._end()
        if self._alive is not None:
            self._alive.close()

    def _check(self, *, sending: bool = False) -> None:
        """Raises Fenced (replaced, removed, or opened before a fork), UsageError (closed). When sending, the kernel looks itself
        whether tmp/ is still there, where it has a descriptor of it.
        """
        self.bus.check_process()
        if self._closed:
            raise UsageError(f"this mailbox of {self.agent!r} is closed: register or open it again", agent=self.agent)
        if not (sending and self._identity is None) and self._replaced():
            raise self._fenced()

    def _replaced(self) -> bool:
        if self._identity is None:
            return self._tmp.gone()
        return registry.identity(self.folders.path) != self._identity

    def _end(self) -> None:
        self._closed = True
        self.bus.forget(self)
        self._held.clear()
        self._sender.close()
        self.folders.close()
        self._tmp.close()
        bell, self._bell, self._poll = self._bell, None, None
        if bell is not None:
            os.close(bell)

    # ------------------------------------------------------------ from a parent to its forked child

    def leave_to_child(self, reach: str) -> None:
        """Before the fork. The way to `reach` is opened here, where that copies no pages."""
        self._sender.reach(reach)
        self.bus.writer.leave_to_child()
        if self._alive is not None:
            self._alive.leave_to_child()

    def adopt(self) -> None:
        """In the child: from now on this mailbox and its bus are this process's. In the parent: not for the next child."""
        self.bus.adopt()
        if self._alive is not None:
            self._alive.adopt()

    def hand_over(self) -> None:
        """In the parent, after the fork: let go of every descriptor, touch nothing on disk."""
        if self._alive is not None:
            self._alive.close()
        self.bus.writer.hand_over()
        self._end()

    def _fenced(self) -> Fenced:
        return Fenced(
            f"the mailbox of {self.agent!r} was replaced or removed; this process may no longer use it",
            agent=self.agent,
        )
