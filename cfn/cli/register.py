"""Give an agent a mailbox, or take an existing one again as a new incarnation.

The agent is ephemeral: no process holds it, its messages are judged by their leases. It stays until `cfn agent shutdown`.
Prints the agent's id and incarnation.
"""

from __future__ import annotations

import argparse

from cfn.cli.options import agent_id, count, open_bus
from cfn.cli.output import emit, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", type=agent_id, metavar="AGENT")
    parser.add_argument("--role", help="what it is for")
    parser.add_argument("--team", help="the team that it belongs to")
    parser.add_argument("--run", help="the run that it belongs to")
    parser.add_argument("--coordinator", type=agent_id, metavar="AGENT", help="who is told when it shuts down")
    parser.add_argument("--capability", action="append", default=[], metavar="WORD", help="what it can do (repeatable)")
    parser.add_argument("--shared", action="store_true", help="several receivers: no order is promised")
    parser.add_argument("--max-inbox", type=count, metavar="N", help="most files in its inbox before senders wait")


def run(args: argparse.Namespace) -> int:
    with open_bus(args, create=True) as bus:
        mailbox = bus.register(
            args.agent,
            role=args.role,
            team=args.team,
            run=args.run,
            parent=args.coordinator,
            capabilities=args.capability,
            attended=False,
            shared=args.shared,
            max_inbox=args.max_inbox,
        )
        if args.json:
            emit({"agent": mailbox.agent, "epoch": mailbox.epoch})
        else:
            say(f"{mailbox.agent} (incarnation {mailbox.epoch})")
    return 0
