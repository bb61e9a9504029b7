"""What the options of all commands have in common: the parser, their types, and the bus and settings that they name."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from cfn.errors import BadAgentId, BadMessage, UsageError

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus
    from cfn.settings import Settings


class Parser(argparse.ArgumentParser):
    """argparse with our manners: an error is one line (raised as UsageError), no guessed abbreviations."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            conflict_handler="resolve",  # a command may define a common option anew
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; `{self.prog} --help` shows how")


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    group = parser.add_argument_group("everywhere")
    group.add_argument("--json", action="store_true", help="machine-readable output, one JSON object a line")
    group.add_argument(
        "--bus", "--message-base-dir", dest="bus", metavar="DIR", help="root of the bus (default: CFN_MESSAGE_BASE_DIR)"
    )
    group.add_argument("--debug", action="store_true", help="show a traceback where something goes wrong")


def settings_of(args: argparse.Namespace, **flags: Any) -> Settings:
    """The settings in force for this command line. Raises: UsageError."""
    from cfn import settings

    return settings.load({"message_base_dir": getattr(args, "bus", None), **flags})


def open_bus(args: argparse.Namespace, *, create: bool = False, **flags: Any) -> FileBus:
    """The bus that the command line names. Raises: UnfitPlace, FormatError, UsageError."""
    from cfn.bus.filebus import FileBus

    return FileBus(settings=settings_of(args, **flags), create=create)


# ---------------------------------------------------------------- types of options


def seconds(text: str) -> float:
    """A duration: seconds >= 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds >= 0")
    return value


def count(text: str) -> int:
    """A number of things: an integer >= 1."""
    if not text.isascii() or not text.isdigit() or int(text[:10]) < 1 or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number >= 1")
    return int(text)


def agent_id(text: str) -> str:
    """A legal agent id."""
    from cfn.message import check_agent_id

    try:
        return check_agent_id(text)
    except BadAgentId as error:  # a ValueError, of which argparse would only say "invalid value"
        raise argparse.ArgumentTypeError(str(error)) from None


def add_payload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--payload", metavar="JSON", help="a JSON object; `-` reads it from stdin (default: {})")
    parser.add_argument("dash", nargs="?", metavar="-", help="read the payload from stdin")


def payload_of(args: argparse.Namespace) -> dict[str, Any]:
    """The payload that the command line gives. Raises: UsageError, BadMessage naming what was given."""
    if args.dash not in (None, "-"):
        raise UsageError(f"{args.dash!r} is one argument too many: quote the JSON and give it with --payload")
    if args.dash == "-" and args.payload not in (None, "-"):
        raise UsageError("--payload and `-` both name a payload: give one of them")
    if args.dash == "-" or args.payload == "-":
        return json_object(sys.stdin.buffer.read(), "stdin")
    return json_object(args.payload.encode(errors="surrogateescape"), "--payload") if args.payload is not None else {}


def json_object(raw: bytes, source: str) -> dict[str, Any]:
    """A JSON object out of `raw`. Raises: BadMessage that names `source` and shows what stands there."""
    from cfn.message import load_json

    shown = raw[:60].decode(errors="backslashreplace").strip() + ("..." if len(raw) > 60 else "")
    try:
        value = load_json(raw)
    except BadMessage as error:
        raise BadMessage(f"{source}: {shown!r} is {error}; give a JSON object such as '{{\"key\": 1}}'") from None
    if not isinstance(value, dict):
        raise BadMessage(f"{source}: {shown!r} is not a JSON object; wrap it, as in '{{\"value\": ...}}'")
    return value
