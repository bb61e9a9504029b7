"""End a run: its tasks are cancelled, what was finished is still printed by the `cfn run` that started it.

The run's master gets a control message, which it reads before anything else; this command waits until it has left the bus.
A run whose master died is cleaned up instead.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Final

from cfn.cli.options import open_bus, seconds, settings_of
from cfn.cli.output import emit, note
from cfn.errors import AgentGone, CfnError, Exit, NoSuchRun

_POLL_S: Final = 0.05


class StillRunning(CfnError):
    """The run was told and has not ended in time. Fact: ``run``."""

    exit_code = Exit.PARTIAL


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's id, as `cfn run` and `cfn ps` show it")
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="wait so long for its end (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Raises: NoSuchRun, StillRunning, BadAgentId."""
    from cfn.bus import place
    from cfn.message import check_agent_id
    from cfn.swarm import janitor
    from cfn.swarm.run import send_cancel

    master = check_agent_id(f"{args.run}.master")
    if not os.path.lexists(place.find(settings_of(args))):
        raise _no_such(args.run)
    with open_bus(args) as bus:
        if args.run in janitor.clear_dead_runs(bus.settings):
            _report(args, "dead", f"run {args.run}: its master had died; its processes and mailboxes are removed")
            return Exit.OK
        try:
            send_cancel(bus, args.run, lambda: False)
        except AgentGone:
            raise _no_such(args.run) from None
        until = time.monotonic() + args.timeout
        while bus.is_alive(master):
            if time.monotonic() >= until:
                raise StillRunning(
                    f"run {args.run} was told to end and still lives after {args.timeout:g} s: wait longer with --timeout",
                    run=args.run,
                )
            time.sleep(_POLL_S)
    _report(args, "cancelled", f"run {args.run} is cancelled")
    return Exit.OK


def _no_such(run: str) -> NoSuchRun:
    return NoSuchRun(f"no run {run!r} lives on this bus; `cfn ps` shows those that do", run=run)


def _report(args: argparse.Namespace, state: str, line: str) -> None:
    if args.json:
        emit({"run": args.run, "state": state})
    else:
        note(line)
