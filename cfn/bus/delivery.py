"""A claimed message of the file bus, and the text (receipt) that stands for it in another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cfn.bus import names
from cfn.bus.compose import BATCH_FACTOR, check_reason, lease_us, microseconds
from cfn.bus.events import Acked, Buried, Released
from cfn.bus.files import NotAFile
from cfn.bus.names import AGING_US, LANE, Claim, Name
from cfn.bus.protocol import Reason
from cfn.bus.transitions import AgentFolders
from cfn.errors import BadMessage, LeaseLost, UsageError
from cfn.message import Message, decode

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus


class FileDelivery:
    """See :class:`cfn.bus.protocol.Delivery`."""

    __slots__ = ("_acked", "_bus", "_claim", "_folders", "_held", "_messages", "_text")

    def __init__(
        self,
        bus: FileBus,
        folders: AgentFolders,
        text: str,
        claim: Claim,
        messages: Sequence[Message],
        held: dict[str, FileDelivery] | None = None,
    ) -> None:
        self._bus = bus
        self._folders = folders
        self._text = text
        self._claim = claim
        self._held = held
        self._acked = False
        self._messages = messages
        if held is not None:
            held[text] = self

    @property
    def messages(self) -> Sequence[Message]:
        return self._messages

    @property
    def message(self) -> Message:
        return self._messages[0]

    @property
    def attempt(self) -> int:
        return self._claim.name.delivery

    @property
    def deadline(self) -> int:
        return self._claim.deadline

    @property
    def receipt(self) -> str:
        return f"{self._folders.agent}/{self._text}"

    def ack(self) -> None:
        if self._acked:
            return
        self._folders.ack(self._text)
        self._acked = True
        self._end()
        if self._bus.observers:
            self._bus.announce(Acked(self._folders.agent, self._bus.now(), self._text))

    def renew(self, lease_s: float | None = None) -> None:
        deadline = self._bus.now() + lease_us(self._bus.settings.lease if lease_s is None else lease_s)
        text = self._folders.renew(self._text, self._claim, deadline)
        if self._held is not None:
            self._held.pop(self._text, None)
            self._held[text] = self
        self._text = text
        self._claim = self._claim._replace(deadline=deadline)

    def release(self, delay_s: float = 0.0) -> None:
        delay_us = microseconds(delay_s, "delay_s")
        name = self._claim.name
        due = self._bus.now() + delay_us + AGING_US[LANE[name.lane]] if delay_s else None
        given = self._folders.give_back(self._text, name, self._bus.settings.max_attempts, due)
        self._end()
        if self._bus.observers:
            kind = Buried(self._folders.agent, self._bus.now(), self._text, "attempts")
            self._bus.announce(
                kind if given == "buried" else Released(self._folders.agent, self._bus.now(), self._text)
            )

    def bury(self, reason: Reason = "rejected") -> None:
        check_reason(reason)
        self._folders.bury(self._text, self._claim.name, reason)
        self._end()
        if self._bus.observers:
            self._bus.announce(Buried(self._folders.agent, self._bus.now(), self._text, reason))

    def _end(self) -> None:
        if self._held is not None:
            self._held.pop(self._text, None)


def read_messages(folders: AgentFolders, folder: str, text: str, name: Name, max_message_bytes: int) -> list[Message]:
    """The messages of a file. Raises: BadMessage (what it holds is none), FileNotFoundError (it moved on), OSError."""
    limit = max_message_bytes if name.count is None else BATCH_FACTOR * max_message_bytes
    try:
        raw = folders[folder].read(text, limit)
    except NotAFile:
        raise BadMessage("not a regular file of ours, or larger than the limit") from None
    lines = [raw] if name.count is None else raw.splitlines()
    if name.count is not None and len(lines) != name.count:
        raise BadMessage(f"a batch of {len(lines)} lines whose name says {name.count}")
    messages = [decode(line) for line in lines]
    if any(message.sender != name.sender for message in messages):
        raise BadMessage(f"its name says that it is from {name.sender!r}, its content says otherwise")
    return messages


def redeem(bus: FileBus, receipt: str) -> FileDelivery:
    """See Bus.redeem."""
    agent, slash, text = receipt.partition("/")
    claim = names.parse_claimed(text) if slash else None
    if claim is None:
        raise UsageError(f"{receipt!r} is not a receipt; `cfn receive` prints one with each message")
    folders = bus.folders(agent)
    try:
        messages = read_messages(folders, "claimed", text, claim.name, bus.settings.max_message_bytes)
    except FileNotFoundError:
        raise LeaseLost(
            f"the lease behind this receipt of {agent!r} is over, or it was ended already; do not count this work",
            agent=agent,
            receipt=receipt,
        ) from None
    return FileDelivery(bus, folders, text, claim, messages)
