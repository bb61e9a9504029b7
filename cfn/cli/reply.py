"""Answer a claimed message to its sender, and ack it. Prints the id of the answer.

The answer comes from the agent that received the message. It is sent first and the ack follows: when this process dies in
between, the message is delivered again and the sender may get two answers with the same reply_to, never none.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cfn.cli.options import add_payload, open_bus, payload_of, seconds
from cfn.cli.output import emit, say
from cfn.errors import UsageError

if TYPE_CHECKING:
    from cfn.bus.protocol import Delivery
    from cfn.message import Message


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("receipt", metavar="RECEIPT", help="as `cfn receive` printed it")
    add_payload(parser)
    parser.add_argument("--type", default="response", help="of the answer (default: response)")
    parser.add_argument("--message", metavar="MSG_ID", help="which message of a batch is answered")
    parser.add_argument("--no-ack", action="store_true", help="keep the message claimed")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="wait at a full inbox (default: CFN_SEND_TIMEOUT)")


def run(args: argparse.Namespace) -> int:
    payload = payload_of(args)
    with open_bus(args) as bus:
        delivery = bus.redeem(args.receipt)
        message = _answered(delivery, args.message)
        mailbox = bus.open(message.to)
        answer = mailbox.reply(message, payload, type=args.type, timeout_s=args.timeout)
        if not args.no_ack:
            delivery.ack()
        if args.json:
            emit(answer.to_dict())
        else:
            say(answer.msg_id)
    return 0


def _answered(delivery: Delivery, msg_id: str | None) -> Message:
    if msg_id is None and len(delivery.messages) > 1:
        raise UsageError(
            f"that receipt holds a batch of {len(delivery.messages)} messages: say with --message which one is answered, "
            "with --no-ack until the last"
        )
    for message in delivery.messages:
        if msg_id in (None, message.msg_id):
            return message
    raise UsageError(f"--message {msg_id!r} is not in that delivery")
