"""The sending half of a mailbox: numbers, backpressure, publish, ring.

Publish: write own ``tmp/<epoch>/N``, look at the recipient's depth and closed flag in one fstat, rename into its inbox (the commit
point), ring its bell. What a FileNotFoundError at the rename means: own tmp gone: Fenced; the source is still there, so the
target is gone: AgentGone (or made anew: once more); else the file was published already.

No lock that another agent can hold stands on this path. Cost on tmpfs: 20 µs a message at any depth.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cfn.bus import registry
from cfn.bus.files import CLOSED, Folder, full
from cfn.bus.names import AGING_US, LETTER
from cfn.errors import AgentGone, Fenced, InboxFull
from cfn.message import Lane, check_agent_id

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

#: Recipients whose folders stay open: three descriptors each, so a third of the common soft limit of 1024.
_OUTLETS: Final = 100
_WAIT_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)  # between two looks at a full inbox


class Outlet:
    """A recipient's mailbox, as its senders see it. Raises AgentGone."""

    __slots__ = ("_bell", "_bell_path", "agent", "control", "inbox", "made_at", "max_inbox")

    def __init__(self, bus: FileBus, agent: str) -> None:
        path = bus.agent_path(agent)
        try:
            with open(os.path.join(path, "agent.json"), "rb") as file:
                who = json.load(file)
            if who["agent"] != agent:  # a file system that ignores case found another one
                raise FileNotFoundError(path)
            self.inbox = Folder(os.path.join(path, "inbox"), bus.caps)
            try:
                self.control = Folder(os.path.join(path, "control"), bus.caps)
            except BaseException:
                self.inbox.close()
                raise
        except (FileNotFoundError, NotADirectoryError):
            raise gone(agent) from None
        except OSError as error:
            raise full(error, f"cannot open the mailbox of {agent!r}") from error
        self.agent = agent
        self.max_inbox = int(who["max_inbox"])
        self.made_at: int = who["made_at"]
        self._bell = -1
        self._bell_path = os.path.join(path, "bell") if bus.caps.doorbell else None

    def is_current(self) -> bool:
        """Whether this very mailbox is still there, where no descriptor tells."""
        found = registry.identity(os.path.dirname(self.inbox.path))
        return found is not None and found[0] == self.made_at

    def ring(self) -> None:
        """Wake the reader if there is one. A lost ring costs latency, never a message."""
        if self._bell_path is None:
            return
        try:
            if self._bell < 0:
                self._bell = os.open(self._bell_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.write(self._bell, b"\n")
        except BlockingIOError:
            pass  # the pipe is full of rings: it will wake
        except OSError:  # no reader now (ENXIO), it left (EPIPE), or no bell
            self._unbell()

    def _unbell(self) -> None:
        fd, self._bell = self._bell, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self.inbox.close()
        self.control.close()
        self._unbell()


def gone(agent: str) -> AgentGone:
    return AgentGone(f"no agent {agent!r} on this bus; `cfn agent list` shows who is there", agent=agent)


class Stream:
    """The numbers of one writer of one incarnation, shared by all mailboxes of that agent in this process: a number, and so a
    name, is never used twice, not even after the agent was removed and made anew.
    """

    __slots__ = ("last", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[str, tuple[int, int]] = {}  # recipient -> when its mailbox was made, next sequence
        self.last = 0  # name time of the last message: strictly rising


class Sender:
    """Numbers and publishes what one mailbox sends from this process."""

    def __init__(self, bus: FileBus, agent: str, epoch: int, tmp: Folder, meanwhile: Callable[[], None]) -> None:
        self._bus = bus
        self._agent = agent
        self._epoch = epoch
        self._tmp = tmp
        self._meanwhile = meanwhile
        self._outlets: OrderedDict[str, Outlet] = OrderedDict()
        self._stream = bus.streams.setdefault((agent, epoch), Stream())

    def reach(self, to: str) -> None:
        """Open the way to `to` now. Raises BadAgentId, AgentGone."""
        self._outlet(to)

    def next_sequence(self, to: str) -> int:
        """The number that the next message to `to` will get. Raises BadAgentId, AgentGone."""
        outlet = self._outlet(to)
        made_at, number = self._stream.numbers.get(to, (0, 1))
        return number if made_at == outlet.made_at else 1

    def publish(
        self, to: str, lane: Lane, make: Callable[[int], bytes], count: int | None, delay_us: int, timeout_s: float
    ) -> str:
        """Publish what `make(sequence)` encodes, as one file; its name. Raises as Mailbox.send."""
        while True:
            outlet = self._wait_for_room(to, lane, timeout_s)
            number = self.next_sequence(to)
            outlet = self._outlets[to]
            data = make(number)
            try:
                name = self._name(lane, number, count, delay_us)
            except OSError as error:  # of the writer's lock, taken with the first message
                raise full(error, f"cannot send to {to!r}") from error
            if self._commit(outlet, outlet.control if lane == "control" else outlet.inbox, name, data):
                self._stream.numbers[to] = (outlet.made_at, number + (count or 1))
                outlet.ring()
                return name

    def _name(self, lane: Lane, number: int, count: int | None, delay_us: int) -> str:
        self._stream.last = at = max(self._bus.now(), self._stream.last + 1)
        due = at + AGING_US[lane] + delay_us
        head = f"{due:016d}~{LETTER[lane]}~{self._agent}~{self._epoch}.{self._bus.writer.prove()}.{number}~1"
        return f"{head}.json" if count is None else f"{head}~{count}.jsonl"

    def _commit(self, outlet: Outlet, target: Folder, name: str, data: bytes) -> bool:
        """Write and rename. False: the recipient was replaced in between, look at it again."""
        tmp = self._tmp
        try:
            tmp.create(name, data)
        except FileNotFoundError:
            raise self._fenced() from None
        except OSError as error:
            raise full(error, f"cannot send to {outlet.agent!r}") from error
        try:
            tmp.rename(name, target, name)  # published
        except FileNotFoundError:
            if tmp.gone():
                raise self._fenced() from None
            if not tmp.has(name):
                return True  # an earlier try of this very rename got through
            self._discard(name)  # the recipient is gone; that another one may be in its place by now changes nothing
            self.drop(outlet.agent)
            return False
        except BaseException as error:
            self._discard(name)
            if isinstance(error, OSError):
                raise full(error, f"cannot send to {outlet.agent!r}") from error
            raise
        return True

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._tmp.unlink(name)

    def _fenced(self) -> Fenced:
        return Fenced(
            f"{self._agent!r} was replaced or removed; this process may no longer send for it", agent=self._agent
        )

    def _wait_for_room(self, to: str, lane: Lane, timeout_s: float) -> Outlet:
        end: float | None = None
        tries = 0
        while True:
            outlet = self._outlet(to)
            folder = outlet.control if lane == "control" else outlet.inbox
            try:
                found = folder.stat()
                if folder.fd is None and not outlet.is_current():
                    raise FileNotFoundError
                depth = self._bus.depth.entries(folder, found)
            except FileNotFoundError:
                self.drop(to)  # removed since it was opened: opening it again tells AgentGone or a new incarnation
                continue
            except OSError as error:
                raise full(error, f"cannot send to {to!r}") from error
            if found.st_mode & CLOSED:
                raise gone(to)
            if depth < outlet.max_inbox:
                return outlet
            now = time.monotonic()
            end = now + timeout_s if end is None else end
            if now >= end:
                raise InboxFull(
                    f"the inbox of {to!r} is full ({depth} of {outlet.max_inbox}) and stayed so for {timeout_s:g} s; nothing was "
                    "sent: try again later, or raise CFN_MAX_INBOX",
                    agent=to,
                    depth=depth,
                )
            self._meanwhile()
            outlet.ring()
            time.sleep(min(_WAIT_S[min(tries, len(_WAIT_S) - 1)], max(0.0, end - now)))
            tries += 1

    def _outlet(self, to: str) -> Outlet:
        outlet = self._outlets.get(to)
        if outlet is None:
            outlet = Outlet(self._bus, check_agent_id(to))
            self._outlets[to] = outlet
            if len(self._outlets) > _OUTLETS:
                self._outlets.popitem(last=False)[1].close()
        else:
            self._outlets.move_to_end(to)
        return outlet

    def drop(self, to: str) -> None:
        outlet = self._outlets.pop(to, None)
        if outlet is not None:
            outlet.close()

    def close(self) -> None:
        for outlet in self._outlets.values():
            outlet.close()
        self._outlets.clear()
