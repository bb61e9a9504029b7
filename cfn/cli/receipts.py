"""What ack, renew, release and bury share: one or many receipts on the command line, each ended on its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cfn.cli.options import open_bus
from cfn.cli.output import emit, note, say
from cfn.errors import CfnError, Exit

if TYPE_CHECKING:
    from cfn.bus.protocol import Delivery


def add_receipts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "receipts", nargs="+", metavar="RECEIPT", help="as `cfn receive` printed it; `-` reads one a line from stdin"
    )


def settle(args: argparse.Namespace, done: str, act: Callable[[Delivery], str | None]) -> int:
    """Do `act` with the delivery behind each receipt; one that fails does not keep the others back.

    `act` returns what to print instead of nothing (a new receipt). The exit code is that of the first failure.
    """
    code = Exit.OK
    receipts: list[str] = []
    for given in args.receipts:
        receipts += [line.strip() for line in sys.stdin if line.strip()] if given == "-" else [given]
    with open_bus(args) as bus:
        for receipt in receipts:
            try:
                printed = act(bus.redeem(receipt))
            except CfnError as error:
                if len(receipts) == 1:
                    raise
                note(f"{receipt[:120]}: {error}")
                code = code or error.exit_code
                continue
            if args.json:
                line: dict[str, Any] = {"receipt": printed or receipt, "done": done}
                emit(line)
            elif printed:
                say(printed)
    return code
