"""Look at the messages of an agent without taking them: one JSON line each."""

from __future__ import annotations

import argparse

from cfn.cli.options import agent_id, count, open_bus
from cfn.cli.output import emit

#: As cfn.bus.protocol.BOXES; a test holds them equal.
BOXES = ("inbox", "claimed", "outbox", "dead")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", type=agent_id, metavar="AGENT")
    parser.add_argument("--box", choices=BOXES, default="inbox", help="which (default: inbox, control lane included)")
    parser.add_argument("--limit", type=count, default=100, metavar="N", help="most messages (default: 100)")


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        for message in bus.peek(args.agent, args.box, args.limit):
            emit(message.to_dict())
    return 0
