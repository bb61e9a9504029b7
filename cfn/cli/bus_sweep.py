"""Return what dead receivers held to the inboxes, discard torn writes of dead senders; with --dead-agents also end the mailboxes
of attended agents that died (what they held goes to the dead letters)."""

from __future__ import annotations

import argparse

from cfn.cli.options import open_bus
from cfn.cli.output import emit, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dead-agents", action="store_true", help="also end the mailboxes of attended agents that died"
    )


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        swept = bus.sweep(dead_agents=args.dead_agents)
    if args.json:
        emit(
            {
                "returned": swept.returned,
                "buried": swept.buried,
                "discarded": swept.discarded,
                "removed": swept.removed,
            }
        )
    else:
        say(
            f"{swept.returned} returned to their inboxes, {swept.buried} buried (attempts spent), "
            f"{swept.discarded} torn writes discarded, {len(swept.removed)} mailboxes of dead agents ended"
        )
    return 0
