"""The other process of the wake figures: answers each message, then acks it; ends on `stop`, or with its parent."""

from __future__ import annotations

import os

from cfn.bus.filebus import FileBus


def main() -> None:
    parent = os.getppid()
    with FileBus(create=False) as bus:
        mailbox = bus.register("bench-echo")
        print("ready", flush=True)
        asked = ""
        while asked != "stop" and os.getppid() == parent:
            for delivery in mailbox.receive(1.0):
                asked = delivery.message.type
                if asked == "ping":
                    mailbox.reply(delivery.message, delivery.message.payload)
                delivery.ack()
        mailbox.remove()


if __name__ == "__main__":
    main()
