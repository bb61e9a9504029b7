"""Hold claimed messages longer, from now. Prints the new receipt of each: the old one is void."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cfn.cli.options import seconds
from cfn.cli.receipts import add_receipts, settle

if TYPE_CHECKING:
    from cfn.bus.protocol import Delivery


def configure(parser: argparse.ArgumentParser) -> None:
    add_receipts(parser)
    parser.add_argument("--lease", type=seconds, metavar="S", help="how long (default: CFN_LEASE)")


def run(args: argparse.Namespace) -> int:
    def renew(delivery: Delivery) -> str:
        delivery.renew(args.lease or None)
        return delivery.receipt

    return settle(args, "renewed", renew)
