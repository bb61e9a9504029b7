"""Done: the messages behind these receipts are finished and never come again.

A receipt whose lease ended is refused (exit code 3): someone else may have the message, and the work must not be counted.
"""

from __future__ import annotations

import argparse

from cfn.cli.receipts import add_receipts, settle


def configure(parser: argparse.ArgumentParser) -> None:
    add_receipts(parser)


def run(args: argparse.Namespace) -> int:
    return settle(args, "acked", lambda delivery: delivery.ack())
