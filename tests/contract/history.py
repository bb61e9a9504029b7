"""An independent account of what was sent and what became of it (promise 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from cfn.bus.protocol import Bus, Delivery, Draft, Mailbox
from cfn.message import Message

EVERYTHING = 10**9


class History:
    """Every send that returned and every ack that returned goes through here; ``places`` says where each message is now."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.sent: dict[str, str] = {}  # msg_id -> recipient
        self.acked: Counter[str] = Counter()

    def send(self, mailbox: Mailbox, to: str, **options: Any) -> Message:
        message = mailbox.send(
            to, options.pop("type", "work"), options.pop("payload", {"n": len(self.sent)}), **options
        )
        self.note_sent([message])
        return message

    def send_batch(self, mailbox: Mailbox, to: str, drafts: Iterable[Draft], **options: Any) -> list[Message]:
        messages = mailbox.send_batch(to, drafts, **options)
        self.note_sent(messages)
        return messages

    def note_sent(self, messages: Iterable[Message]) -> None:
        for message in messages:
            assert message.msg_id not in self.sent, f"two sends made one msg_id: {message.msg_id}"
            self.sent[message.msg_id] = message.to

    def ack(self, delivery: Delivery) -> None:
        delivery.ack()
        self.acked.update(message.msg_id for message in delivery.messages)

    def places(self) -> dict[str, list[str]]:
        """msg_id -> where it is; more than one place, or none, breaks promise 1."""
        found: dict[str, list[str]] = {msg_id: ["acknowledged"] * count for msg_id, count in self.acked.items()}
        for info in self._bus.agents():
            for box in ("inbox", "claimed", "outbox", "dead"):
                for message in self._bus.peek(info.agent, box, EVERYTHING):
                    found.setdefault(message.msg_id, []).append(box)
        living = {info.agent for info in self._bus.agents()}
        for letter in self._bus.dead():
            if letter.message is not None and letter.message.msg_id not in found and letter.agent not in living:
                found.setdefault(letter.message.msg_id, []).append("dead")
        return found

    def check(self, **expected: int) -> None:
        """Each sent message is in exactly one place; `expected` counts some of the places."""
        places = self.places()
        wrong = {msg_id: places.get(msg_id, []) for msg_id in self.sent if len(places.get(msg_id, [])) != 1}
        assert not wrong, f"not in exactly one place: {wrong}"
        unknown = set(places) - set(self.sent)
        assert not unknown, f"on the bus, and never sent: {unknown}"
        counted = Counter(place for [place] in places.values())
        for place, count in expected.items():
            assert counted[place] == count, f"{place}: {counted[place]}, expected {count}; all: {dict(counted)}"
