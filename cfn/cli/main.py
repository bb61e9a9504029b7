"""The commands ``cfn`` and ``cfn-swarm``: one table, one door out.

Guarantees: only the module of the chosen command is imported; ``cfn --help`` comes out of the table alone. Whatever goes
wrong on purpose ends in one line on stderr, ``cfn: <what and how to mend it>``, and an exit code of
:class:`cfn.errors.Exit`; never in a traceback, unless ``--debug`` asks for one. Data goes to stdout, all else to stderr.
A reader that leaves (``| head``) is a clean end.

A command module has ``configure(parser)`` and ``run(args) -> int``. One that runs a command of the user says
``TAKES_COMMAND = True``: what follows the first ``--`` is then ``args.command`` (a list) and argparse never sees it.
Every command has ``--json``, ``--bus DIR`` and ``--debug``; a module may define them anew for itself.

Cost (CPython 3.11): the interpreter 10 ms, typing 10 ms, this module with its table, argparse and a command 4 ms; the bus that
a verb opens is the rest (35 ms).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from cfn.errors import CfnError, Exit, UsageError

if TYPE_CHECKING:
    import argparse

#: Heading -> command -> (module, one line). A name of two words is a command of a group (``cfn agent list``).
TABLE: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "a swarm": {
        "run": ("cfn.cli.run", "run a command per task in hundreds of agents, results as JSON lines"),
        "ps": ("cfn.cli.ps", "runs and agents that live now"),
        "cancel": ("cfn.cli.cancel", "end a run"),
        "coordinate": ("cfn.cli.coordinate", "join a run from outside as the coordinator of one team"),
        "rollout": ("cfn.cli.rollout", "phase1, phase2, phase3: swarms of rising size against criteria"),
    },
    "messages": {
        "register": ("cfn.cli.register", "give an agent a mailbox"),
        "send": ("cfn.cli.send", "send one message, or a batch"),
        "receive": ("cfn.cli.receive", "claim messages and print them with their receipts"),
        "ack": ("cfn.cli.ack", "done: a claimed message never comes again"),
        "renew": ("cfn.cli.renew", "hold a claimed message longer"),
        "release": ("cfn.cli.release", "give a claimed message back"),
        "bury": ("cfn.cli.bury", "put a claimed message to the dead letters"),
        "reply": ("cfn.cli.reply", "answer a claimed message and ack it"),
        "peek": ("cfn.cli.peek", "look at messages without taking them"),
        "count": ("cfn.cli.count", "how many messages wait"),
    },
    "agents": {
        "agent list": ("cfn.cli.agent_list", "who is here, and who lives"),
        "agent run": ("cfn.cli.agent_run", "be an agent for one task: inbox, command, replies, one JSON result"),
        "agent shutdown": ("cfn.cli.agent_shutdown", "end an agent: drain, tell its coordinator, remove its mailbox"),
    },
    "the bus": {
        "bus where": ("cfn.cli.bus_where", "the folder where the bus lives"),
        "bus init": ("cfn.cli.bus_init", "make the bus"),
        "bus sweep": ("cfn.cli.bus_sweep", "return what dead receivers held, discard torn writes"),
        "bus dead": ("cfn.cli.bus_dead", "list dead letters, or put one back"),
        "bus clean": ("cfn.cli.bus_clean", "remove a whole bus when nobody lives there"),
    },
    "this installation": {
        "config show": ("cfn.cli.config_show", "every setting, its value and where it came from"),
        "doctor": ("cfn.cli.doctor", "is this host fit for that many agents, and what mends it"),
    },
}
COMMANDS: Final = {name: row for rows in TABLE.values() for name, row in rows.items()}
GROUPS: Final = frozenset(name.split()[0] for name in COMMANDS if " " in name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        _speak_utf8()
        with _terminable():
            code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # argparse after --help
        return leaving.code if isinstance(leaving.code, int) else Exit.OK
    except BrokenPipeError:
        if debug:
            raise
        _close_stdout()
        return Exit.OK
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail("interrupted", Exit.INTERRUPTED)
    except CfnError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        return _fail(*_unexpected(error))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is an interrupt like Ctrl-C: what waits in a `finally` is done, and the exit code is 130."""
    import signal

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if ours:
            signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever called us has the signals
        ours = False
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _dispatch(arguments: list[str]) -> int:
    while arguments[:1] == ["--debug"]:
        del arguments[0]
    first = arguments[0] if arguments else ""
    if first in ("--help", "-h", "help"):
        print(_manual(arguments[1] if first == "help" and len(arguments) > 1 else ""))
        return Exit.OK
    if first in ("--version", "-V"):
        import cfn

        print(f"cfn {cfn.__version__}")
        return Exit.OK
    name, rest = _name(arguments)
    if name in GROUPS:
        print(_manual(name))
        return Exit.OK
    parser, module = _prepare(name)
    command: list[str] | None = None
    if getattr(module, "TAKES_COMMAND", False):
        cut = rest.index("--") if "--" in rest else len(rest)
        rest, command = rest[:cut], rest[cut + 1 :]
    args = parser.parse_args(rest)
    if command is not None:
        args.command = command
    _clear_dead_runs(args)
    return int(module.run(args))


def _clear_dead_runs(args: argparse.Namespace) -> None:
    """A run whose processes all died at once could not clear up after itself: the next command does. 20 µs otherwise."""
    from cfn.cli.options import settings_of
    from cfn.settings import state_dir

    found = settings_of(args)
    live = state_dir(found) / "live"
    if live.is_dir() and any(live.iterdir()):
        from cfn.swarm import janitor

        for run in janitor.clear_dead_runs(found):
            print(f"cfn: run {run} had died; its processes and mailboxes are removed", file=sys.stderr)


def _name(arguments: list[str]) -> tuple[str, list[str]]:
    """The command's name and what follows; the group's name alone where its help is asked. Raises: UsageError."""
    if not arguments:
        raise UsageError("no command given; `cfn --help` lists them")
    first, rest = arguments[0], arguments[1:]
    if first in COMMANDS:
        return first, rest
    if first in GROUPS:
        if rest[:1] in (["--help"], ["-h"]):
            return first, rest
        pair = f"{first} {rest[0]}" if rest else ""
        if pair in COMMANDS:
            return pair, rest[1:]
        choices = ", ".join(name.split()[1] for name in COMMANDS if name.startswith(first + " "))
        given = f"{rest[0]!r} is not a command of `cfn {first}`" if rest else f"`cfn {first}` needs a command"
        raise UsageError(f"{given}: use one of {choices}")
    from difflib import get_close_matches

    near = get_close_matches(first, [*COMMANDS, *GROUPS], n=1)
    hint = f"did you mean `cfn {near[0]}`?" if near else "`cfn --help` lists them"
    raise UsageError(f"{first[:80]!r} is not a command; {hint}", command=first)


def _prepare(name: str) -> tuple[argparse.ArgumentParser, Any]:
    import importlib

    from cfn.cli.options import Parser, add_common

    module = importlib.import_module(COMMANDS[name][0])
    line = COMMANDS[name][1]
    description = (module.__doc__ or line).strip()
    parser = Parser(prog=f"cfn {name}", description=description)
    add_common(parser)
    module.configure(parser)
    return parser, module


def _manual(group: str) -> str:
    """All commands, or those of one group, one line each."""
    out = [f"usage: cfn {group + ' ' if group else ''}COMMAND [options]", ""]
    if not group:
        out[1:1] = ["", "Hundreds to thousands of command-line agents on one host as a team, without a broker."]
    for heading, rows in TABLE.items():
        shown = {name: line for name, (_, line) in rows.items() if not group or name.split()[0] == group}
        if shown:
            out += [f"{heading}:", *(f"  {name:<15} {line}" for name, line in shown.items()), ""]
    out.append("`cfn COMMAND --help` says more. Everywhere: --json, --bus DIR, --debug. NO_COLOR is honoured.")
    out.append("Exit codes: " + ", ".join(f"{code.value} {meaning}" for code, meaning in _CODES.items()) + ".")
    return "\n".join(out)


_CODES: Final = {
    Exit.OK: "ok",
    Exit.ERROR: "error",
    Exit.USAGE: "usage",
    Exit.NOT_FOUND: "not found",
    Exit.PARTIAL: "deadline passed",
    Exit.UNFIT: "unfit environment",
    Exit.FULL: "full",
    Exit.INTERRUPTED: "interrupted",
}


def _unexpected(error: Exception) -> tuple[str, Exit]:
    """One line for what no room turned into a CfnError: the system's refusals by their errno, else a defect of ours."""
    import errno

    if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(
        error
    ):  # of an extension module: dlopen's text
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename!r}" if error.filename is not None else ""
        text = f"{error.strerror}{where}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{text}: make room on that file system and try again; nothing else was changed", Exit.FULL
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return f"{text}: raise the limit of open files (ulimit -n) and try again", Exit.FULL
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{text}: run as the owner, or choose another folder", Exit.UNFIT
        return text, Exit.ERROR
    return f"internal error, {type(error).__name__}: {error} (--debug shows where)", Exit.ERROR


def _fail(line: str, code: Exit) -> Exit:
    try:
        sys.stdout.flush()
    except OSError:  # newer Pythons keep what could not be written and refuse again here: that is what the line says
        _close_stdout()
    with contextlib.suppress(OSError):  # nobody listens; the code still tells
        print("cfn: " + " ".join(line.splitlines()), file=sys.stderr)
    return code


def _speak_utf8() -> None:
    """JSON is UTF-8 whatever the console's code page is."""
    for stream in (sys.stdout, sys.stderr):
        if (getattr(stream, "encoding", None) or "utf-8").lower() not in ("utf-8", "utf8") and hasattr(
            stream, "reconfigure"
        ):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _close_stdout() -> None:
    """Point stdout to nowhere, so that the interpreter's own flush at exit does not complain either."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError, AttributeError):
        pass  # stdout is no file (a test's, or closed): nothing to save


if __name__ == "__main__":
    sys.exit(main())
