"""Give claimed messages back: they are delivered again, with their attempt counted up; dead letters once attempts are spent."""

from __future__ import annotations

import argparse

from cfn.cli.options import seconds
from cfn.cli.receipts import add_receipts, settle


def configure(parser: argparse.ArgumentParser) -> None:
    add_receipts(parser)
    parser.add_argument("--delay", type=seconds, default=0.0, metavar="S", help="not before S seconds from now")


def run(args: argparse.Namespace) -> int:
    return settle(args, "released", lambda delivery: delivery.release(args.delay))
