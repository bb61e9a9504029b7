"""Claim messages and print each delivery as one JSON line: agent, receipt, attempt, lease_until, message (or messages, a batch).

A delivery is not consumed by being printed. End it with `cfn ack RECEIPT` (or reply, release, bury); when its lease ends first,
it is delivered again. The receipt is good in any process. --ack acks each delivery once its line is written out: then a
reader that dies after that loses it.

Exit code 0 when something was printed, 4 when nothing came in time.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from cfn.cli.options import agent_id, count, open_bus, seconds
from cfn.cli.output import emit
from cfn.errors import Exit

if TYPE_CHECKING:
    from cfn.bus.protocol import Bus, Delivery, Mailbox

#: Longest single wait of --follow: between two waits it beats, so that watchers see the receiver live.
_WAIT_S = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", type=agent_id, metavar="AGENT")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="wait that long for the first (default: 0); with --follow, for the next (default: for ever)",
    )
    parser.add_argument("--follow", action="store_true", help="go on until interrupted")
    parser.add_argument(
        "--limit", type=count, metavar="N", help="most deliveries (default: 1; with --follow: no limit)"
    )
    parser.add_argument("--lease", type=seconds, metavar="S", help="how long each is held for you (default: CFN_LEASE)")
    parser.add_argument("--ack", action="store_true", help="ack each delivery as soon as it is printed")


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        mailbox = bus.open(args.agent)
        try:
            printed = _follow(args, bus, mailbox) if args.follow else _once(args, bus, mailbox)
        finally:
            mailbox.detach()  # not close(): what was printed stays claimed, judged by its lease, for who has the receipt
    return Exit.OK if printed else Exit.PARTIAL


def _once(args: argparse.Namespace, bus: Bus, mailbox: Mailbox) -> int:
    deliveries = mailbox.receive(args.timeout or 0.0, args.limit or 1, lease_s=args.lease or None)
    _hand_over(args, bus, deliveries)
    return len(deliveries)


def _follow(args: argparse.Namespace, bus: Bus, mailbox: Mailbox) -> int:
    """One delivery at a time: what is not printed yet is not claimed yet, so a slow reader holds no leases that run out."""
    printed = 0
    idle_until = None if args.timeout is None else time.monotonic() + args.timeout
    while args.limit is None or printed < args.limit:
        wait_s = _WAIT_S if idle_until is None else min(_WAIT_S, max(0.0, idle_until - time.monotonic()))
        deliveries = mailbox.receive(wait_s, 1, lease_s=args.lease or None)
        mailbox.beat()
        if deliveries:
            _hand_over(args, bus, deliveries)
            printed += len(deliveries)
            idle_until = None if args.timeout is None else time.monotonic() + args.timeout
        elif idle_until is not None and time.monotonic() >= idle_until:
            break
    return printed


def _hand_over(args: argparse.Namespace, bus: Bus, deliveries: list[Delivery]) -> None:
    """Print and, where asked, ack. What could not be written out goes back to the inbox; one that an interrupt fell upon may
    have been read already, so it stays claimed until its lease is over.
    """
    left = list(deliveries)
    try:
        while left:
            emit(as_line(args.agent, bus, left[0]))
            delivery = left.pop(0)
            if args.ack:
                delivery.ack()
    except BaseException as error:
        for delivery in left[1:] if isinstance(error, KeyboardInterrupt) else left:
            delivery.release()
        raise


def as_line(agent: str, bus: Bus, delivery: Delivery) -> dict[str, Any]:
    """What is printed of a delivery."""
    messages = [message.to_dict() for message in delivery.messages]
    return {
        "agent": agent,
        "receipt": delivery.receipt,
        "attempt": delivery.attempt,
        "lease_until": round(time.time() + (delivery.deadline - bus.now()) / 1e6, 3),
        **({"message": messages[0]} if len(messages) == 1 else {"messages": messages}),
    }
