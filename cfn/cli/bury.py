"""Put claimed messages to the dead letters of their agent. `cfn bus dead` lists them and puts one back."""

from __future__ import annotations

import argparse

from cfn.cli.receipts import add_receipts, settle

#: As cfn.bus.protocol.REASONS, which is 8 ms to import; a test holds them equal.
REASONS = ("expired", "attempts", "malformed", "fenced", "agent-gone", "rejected")


def configure(parser: argparse.ArgumentParser) -> None:
    add_receipts(parser)
    parser.add_argument("--reason", choices=REASONS, default="rejected", help="why (default: rejected)")


def run(args: argparse.Namespace) -> int:
    return settle(args, "buried", lambda delivery: delivery.bury(args.reason))
