"""A claimed parcel of the in-memory bus, and how it ends: acknowledged, released, or buried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cfn.bus.compose import check_reason, microseconds
from cfn.bus.events import Acked
from cfn.bus.memory_store import Box, Claim
from cfn.bus.names import TIME_DIGITS
from cfn.bus.protocol import Reason
from cfn.errors import LeaseLost
from cfn.message import Message

if TYPE_CHECKING:
    from cfn.bus.memory import MemoryBus


class MemoryDelivery:
    """See :class:`cfn.bus.protocol.Delivery`. The name that the claim would have on disk stands for it: whoever renews, ends or
    returns the claim changes that name, so that exactly one of them wins.
    """

    __slots__ = ("_acked", "_box", "_bus", "attempt", "messages", "receipt")

    def __init__(self, bus: MemoryBus, box: Box, text: str, messages: Sequence[Message]) -> None:
        self._bus = bus
        self._box = box
        self._acked = False
        self.receipt = f"{box.agent}/{text}"
        self.messages = messages
        self.attempt = box.claims[text].parcel.name.delivery

    @property
    def message(self) -> Message:
        return self.messages[0]

    @property
    def deadline(self) -> int:
        return int(self.receipt.rpartition(".")[0][-TIME_DIGITS:])

    def ack(self) -> None:
        if self._acked:
            return
        with self._bus.turn:
            text, _ = self._end()
            self._acked = True
            self._bus.announce(Acked(self._box.agent, self._bus.now(), text))

    def renew(self, lease_s: float | None = None) -> None:
        lease_us = self._bus.lease_us(lease_s)
        with self._bus.turn:
            _, claim = self._end()
            text = self._bus.claim(self._box, claim.parcel, claim.holder, lease_us)
            self.receipt = f"{self._box.agent}/{text}"

    def release(self, delay_s: float = 0.0) -> None:
        ready_at = self._bus.now() + microseconds(delay_s, "delay_s") if delay_s else None
        with self._bus.turn:
            text, claim = self._end()
            self._bus.give_back(self._box, claim.parcel, text, ready_at)

    def bury(self, reason: Reason = "rejected") -> None:
        check_reason(reason)
        with self._bus.turn:
            text, claim = self._end()
            self._bus.bury(self._box, claim.parcel, text, reason)

    def _end(self) -> tuple[str, Claim]:
        text = self.receipt.partition("/")[2]
        claim = self._box.claims.pop(text, None)
        if claim is None:
            raise LeaseLost(
                f"the lease on a message of {self._box.agent!r} is over: others may have it; do not count this work",
                agent=self._box.agent,
                receipt=self.receipt,
            )
        self._bus.turn.notify_all()
        return text, claim
