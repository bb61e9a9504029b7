"""Another process on the same bus: what it can be told to do.

In this process it is an object (the in-memory bus is shared by threads); for the file bus this file is also a program that reads
one JSON command a line, answers with one JSON line, and can be killed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from cfn.bus.protocol import Bus, Mailbox


class Actor:
    """Does what it is told with its own mailbox."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.mailbox: Mailbox | None = None

    def register(self, agent: str, **options: Any) -> int:
        self.mailbox = self.bus.register(agent, **options)
        return self.mailbox.epoch

    def claim(self, limit: int, lease_s: float | None = None) -> list[str]:
        """Claim without ending; the msg_ids."""
        assert self.mailbox is not None
        return [d.message.msg_id for d in self.mailbox.receive(5.0, limit, lease_s=lease_s)]

    def flood(self, to: str, count: int, priority: str = "normal") -> list[str]:
        """Send `count` numbered messages; their msg_ids."""
        assert self.mailbox is not None
        sent = [self.mailbox.send(to, "work", {"n": n}, priority=priority, timeout_s=60) for n in range(count)]  # type: ignore[arg-type]
        return [message.msg_id for message in sent]

    def drain(self, want: int) -> list[str]:
        """Receive and acknowledge until `want` messages were acknowledged; their msg_ids."""
        assert self.mailbox is not None
        got: list[str] = []
        while len(got) < want:
            batch = self.mailbox.receive(30.0, 50)
            assert batch, f"nothing came for 30 s after {len(got)} of {want}"
            for delivery in batch:
                delivery.ack()
                got += [message.msg_id for message in delivery.messages]
        return got


def main() -> None:
    from cfn.bus.filebus import FileBus
    from cfn.settings import TABLE, Settings, Value

    root, flags = sys.argv[1], json.loads(sys.argv[2])
    settings = Settings({setting.name: Value(setting.default, "default") for setting in TABLE}).replace(**flags)
    actor = Actor(FileBus(root, settings))
    print("ready", flush=True)
    for line in sys.stdin:
        verb, options = json.loads(line)
        print(json.dumps(getattr(actor, verb)(**options)), flush=True)


if __name__ == "__main__":
    main()
