"""Send one message, or with --batch all lines of a file as one delivery. Prints the id of each message.

A batch file has one JSON object a line: {"payload": {...}} and, where wanted, "type", "reply_to", "expires_in" (seconds);
the options of the same names are what a line without them gets. A batch is sent whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from cfn.cli.options import add_payload, agent_id, json_object, open_bus, payload_of, seconds
from cfn.cli.output import emit, say
from cfn.errors import BadMessage, UsageError

if TYPE_CHECKING:
    from cfn.bus.protocol import Draft
    from cfn.message import Message

_LINE_KEYS = frozenset(("type", "payload", "reply_to", "expires_in"))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="sender", type=agent_id, required=True, metavar="AGENT")
    parser.add_argument("--to", type=agent_id, required=True, metavar="AGENT")
    parser.add_argument("--type", required=True, help="request, response, task, work, or a word of your own")
    add_payload(parser)
    parser.add_argument("--batch", metavar="FILE.jsonl", help="send its lines as one batch; `-` is stdin")
    parser.add_argument("--priority", choices=("control", "high", "normal", "low"), default="normal", help="the lane")
    parser.add_argument("--expires-in", type=seconds, metavar="S", help="bury it when nobody took it by then")
    parser.add_argument("--delay", type=seconds, default=0.0, metavar="S", help="deliver it that much later")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="wait at a full inbox (default: CFN_SEND_TIMEOUT; 0: no wait)"
    )
    parser.add_argument("--reply-to", metavar="MSG_ID", help="the message that this answers")


def run(args: argparse.Namespace) -> int:
    if args.type == "":
        raise UsageError("--type '' is empty: name what kind of message it is, such as request")
    if args.batch is not None and (args.payload is not None or args.dash is not None or args.delay):
        raise UsageError(
            "--batch takes neither --payload nor --delay: each of its lines is a message, delivered at once"
        )
    drafts = _drafts(args) if args.batch is not None else None
    payload = payload_of(args) if drafts is None else {}
    with open_bus(args) as bus:
        mailbox = bus.open(args.sender)
        if drafts is not None:
            _print(args, mailbox.send_batch(args.to, drafts, priority=args.priority, timeout_s=args.timeout))
            return 0
        message = mailbox.send(
            args.to,
            args.type,
            payload,
            priority=args.priority,
            reply_to=args.reply_to,
            expires_in_s=args.expires_in,
            delay_s=args.delay,
            timeout_s=args.timeout,
        )
        _print(args, [message])
    return 0


def _print(args: argparse.Namespace, messages: list[Message]) -> None:
    for message in messages:
        if args.json:
            emit(message.to_dict())
        else:
            say(message.msg_id)


def _drafts(args: argparse.Namespace) -> list[Draft]:
    """The lines of the batch file. Raises: BadMessage with the number of the line, UsageError."""
    from cfn.bus.protocol import Draft

    source = "stdin" if args.batch == "-" else args.batch
    if args.batch == "-":
        raw = sys.stdin.buffer.read()
    else:
        try:
            with open(args.batch, "rb") as file:
                raw = file.read()
        except OSError as error:
            raise UsageError(f"--batch {args.batch!r} cannot be read: {error.strerror}") from None
    drafts = []
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            drafts.append(Draft(**_line(json_object(line, f"{source} line {number}"), f"{source} line {number}", args)))
    if not drafts:
        raise UsageError(f"--batch {args.batch!r} holds no message: one JSON object a line is needed")
    return drafts


def _line(data: dict[str, Any], where: str, args: argparse.Namespace) -> dict[str, Any]:
    import time

    if not isinstance(data.get("payload"), dict):
        raise BadMessage(f"{where}: the key 'payload' must hold a JSON object; nothing was sent")
    for key in data:
        if key not in _LINE_KEYS:
            raise BadMessage(
                f"{where}: unknown key {key!r}: what the agent shall see belongs into 'payload'; nothing was sent"
            )
    for key in ("type", "reply_to"):
        if key in data and (not isinstance(data[key], str) or not data[key]):
            raise BadMessage(f"{where}: {key!r} must be a non-empty string; nothing was sent")
    expires = data.get("expires_in", args.expires_in)
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, (int, float)) or expires < 0):
        raise BadMessage(f"{where}: 'expires_in' must be a number of seconds >= 0; nothing was sent")
    return {
        "type": data.get("type", args.type),
        "payload": data["payload"],
        "reply_to": data.get("reply_to", args.reply_to),
        "expires_at": None if expires is None else time.time() + expires,
    }
