"""Be an agent for one task: the bridge that a tool which spawns agents uses.

With a command after `--`: registers AGENT (attended), drains its inbox, runs the command once with
{"task_id", "task", "messages": [...]} as JSON on stdin and in CFN_TASK, answers each request, task and work message that it
drained with a `response`, acks, and prints one JSON result. Exit code 0 ok, 1 the command failed, 4 its time was over, 6 an
answer found its inbox full, 130 cancelled.

Without a command the caller does the work itself: registers AGENT (ephemeral), claims what waits, and prints
{"task_id", "task", "agent", "messages": [{"receipt", "attempt", "message"}]}; nothing is answered or acked, that is what
`cfn reply RECEIPT` and `cfn ack RECEIPT` are for.

Afterwards AGENT stays registered (ephemeral) when it was there before, when --stay says so, or when messages wait; else its
mailbox is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from cfn.cli.options import agent_id, open_bus, seconds
from cfn.cli.output import emit, note
from cfn.errors import CfnError, Exit, UsageError

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "cfn agent run AGENT TASK [options] [-- COMMAND ...]"
    parser.add_argument("agent", type=agent_id, metavar="AGENT")
    parser.add_argument("task", metavar="TASK", help="what is to be done, in words")
    parser.add_argument(
        "--coordinator", type=agent_id, metavar="AGENT", help="its coordinator (default: CFN_COORDINATOR)"
    )
    parser.add_argument("--task-id", metavar="ID", help="idempotency key (default: a new one each time)")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="end the command after S seconds")
    parser.add_argument("--role", help="what the agent is for")
    parser.add_argument("--team", help="the team that it belongs to")
    parser.add_argument("--cwd", metavar="DIR", help="where the command runs")
    parser.add_argument(
        "--results", metavar="DIR", help="where output above the message limit goes (default: in CFN_STATE_DIR)"
    )
    parser.add_argument("--stay", action="store_true", help="leave the agent registered")


def run(args: argparse.Namespace) -> int:
    from cfn.cli.bridge import Bridge, joined
    from cfn.message import new_id

    task_id = new_id() if args.task_id is None else args.task_id
    if not task_id or "\0" in task_id:
        raise UsageError(f"--task-id {task_id!r} is not usable: give a non-empty text")
    coordinator = args.coordinator or os.environ.get("CFN_COORDINATOR") or None
    if args.command:
        _check_command(args.command, args.cwd)
    identity = {"role": args.role, "team": args.team, "parent": coordinator}
    with _clean_end(), open_bus(args, create=True) as bus:
        if not args.command:
            emit(joined(bus, args.agent, args.task, task_id, identity))
            return Exit.OK
        bridge = Bridge(bus, args.agent, task_id, identity)
        spill_dir = args.results or _spill_dir(bus)
        with bridge.present(stay=args.stay):
            try:
                result = bridge.work(
                    args.task, args.command, cwd=args.cwd, timeout_s=args.timeout or None, spill_dir=spill_dir
                )
            except KeyboardInterrupt:
                emit({"task_id": task_id, "status": "cancelled", "agent": args.agent, "reason": "interrupted"})
                raise
        emit(result)
        for line in bridge.troubles:
            note(line)
    return _code(result["status"], bridge)


@contextlib.contextmanager
def _clean_end() -> Iterator[None]:
    """SIGTERM is an interrupt here: the command is ended, the messages go back, and the agent leaves."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _code(status: str, bridge: Any) -> Exit:
    code = {"ok": Exit.OK, "failed": Exit.ERROR, "timeout": Exit.PARTIAL, "cancelled": Exit.INTERRUPTED}[status]
    return Exit.FULL if code == Exit.OK and bridge.unanswered else code


def _check_command(command: list[str], cwd: str | None) -> None:
    """Before anything is claimed: a command that cannot be found must not cost a message an attempt."""
    import shutil

    if cwd is not None and not os.path.isdir(cwd):
        raise UsageError(f"--cwd {cwd!r} is not a folder: make it, or leave the option out")
    name = command[0]
    where = os.path.join(cwd or "", name) if os.sep in name else name
    if not name or shutil.which(where) is None:
        what = "is not an executable file" if os.sep in name else "is not on PATH"
        raise CommandNotFound(
            f"command {name!r} {what}: give its path, or install it; nothing was received", command=name
        )


def _spill_dir(bus: Any) -> str:
    state: str | None = bus.settings.state_dir
    if state is None:
        import platformdirs

        state = platformdirs.user_state_dir("cfn", appauthor=False)
    return os.path.join(state, "outputs")


class CommandNotFound(CfnError):
    """The command of the user does not exist or cannot be executed. Fact: ``command``."""

    exit_code = Exit.NOT_FOUND
