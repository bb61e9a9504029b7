"""List the dead letters, of removed agents too, or put some back into their agent's inbox with their attempts counted anew."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cfn.cli.options import agent_id, open_bus
from cfn.cli.output import emit, table

if TYPE_CHECKING:
    from cfn.bus.protocol import DeadLetter


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", nargs="?", type=agent_id, metavar="AGENT", help="only those of this agent")
    parser.add_argument(
        "--put-back", action="append", default=[], metavar="LETTER", help="as the list names it (repeatable)"
    )


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        for letter in args.put_back:
            bus.put_back(letter)
            if args.json:
                emit({"letter": letter, "put_back": True})
        if args.put_back:
            return 0
        letters = bus.dead(args.agent)
    if args.json:
        for found in letters:
            emit(_as_dict(found))
    elif letters:
        table(("REASON", "FROM", "TYPE", "BYTES", "LETTER"), [_row(found) for found in letters])
    return 0


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    return {
        "letter": letter.letter,
        "agent": letter.agent,
        "reason": letter.reason,
        "size_bytes": letter.size_bytes,
        "from": letter.sender,
        "message": letter.message.to_dict() if letter.message else None,
    }


def _row(letter: DeadLetter) -> tuple[str, ...]:
    kind = letter.message.type if letter.message else "-"
    return (letter.reason, letter.sender or "-", kind, str(letter.size_bytes), letter.letter)
