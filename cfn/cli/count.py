"""How many messages an agent has in a box (a batch counts as one)."""

from __future__ import annotations

import argparse

from cfn.cli.options import agent_id, open_bus
from cfn.cli.output import emit, say
from cfn.cli.peek import BOXES


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", type=agent_id, metavar="AGENT")
    parser.add_argument(
        "box", nargs="?", choices=BOXES, default="inbox", metavar="BOX", help=f"{', '.join(BOXES)} (default: inbox)"
    )


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        number = bus.count(args.agent, args.box)
        if args.json:
            emit({"agent": args.agent, "box": args.box, "count": number})
        else:
            say(str(number))
    return 0
