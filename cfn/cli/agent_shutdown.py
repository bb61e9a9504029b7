"""End an agent gracefully: its inbox is drained, its coordinator is told, its mailbox is removed.

A living attended agent is told (a control message `shutdown`), does those three itself, and this command waits for its end.
An ephemeral agent has no process: while messages are left this command refuses; with --timeout it waits for a receiver to
take them and then buries what is left as `agent-gone` (exit code 4), with --force it does so at once. Then the coordinator
gets `shutdown` {"reason": "graceful"} from the agent, and the mailbox goes. Buried messages stay in `cfn bus dead`.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from cfn.cli.options import agent_id, open_bus, seconds
from cfn.cli.output import emit, note, say
from cfn.errors import AgentGone, CfnError, Exit, InboxFull

if TYPE_CHECKING:
    from cfn.bus.protocol import AgentInfo, Bus

_POLL_S = 0.05
#: How long an attended agent has for its end where --timeout does not say: it may finish the task that it is at.
_ATTENDED_S = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", type=agent_id, metavar="AGENT")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="wait that long (default: 30 for an attended agent, else 0)"
    )
    parser.add_argument("--force", action="store_true", help="bury what is left in its inbox and remove it now")


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        info = bus.agent(args.agent)
        if info.alive:
            return _tell(args, bus)
        return _end(args, bus, info)


def _tell(args: argparse.Namespace, bus: Bus) -> int:
    """Ask a living agent to leave, and see it go."""
    timeout_s = _ATTENDED_S if args.timeout is None else args.timeout
    bus.open(args.agent).send(args.agent, "shutdown", {"reason": "graceful"}, priority="control", timeout_s=1.0)
    until = time.monotonic() + timeout_s
    while bus.is_alive(args.agent):
        if time.monotonic() >= until:
            raise StillThere(
                f"{args.agent} was told to shut down and still lives after {timeout_s:g} s: "
                "it finishes its task first; wait longer with --timeout, or end its process",
                agent=args.agent,
            )
        time.sleep(_POLL_S)
    _report(args, told=True, buried=0)
    return Exit.OK


def _end(args: argparse.Namespace, bus: Bus, info: AgentInfo) -> int:
    """End an agent that no process attends."""
    until = time.monotonic() + (args.timeout or 0.0)
    while (left := _left(bus, args.agent)) and not args.force and time.monotonic() < until:
        time.sleep(_POLL_S)
    if left and not args.force and args.timeout is None:
        raise StillThere(
            f"{args.agent} still has {_messages(left)}: receive and ack them, wait with --timeout S, "
            "or bury them with --force",
            agent=args.agent,
            left=left,
        )
    told = _tell_parent(bus, info)
    bus.remove(args.agent, "agent-gone")
    _report(args, told=told, buried=left)
    return Exit.PARTIAL if left and not args.force else Exit.OK


def _left(bus: Bus, agent: str) -> int:
    """Messages that nobody has finished."""
    return bus.count(agent, "inbox") + bus.count(agent, "claimed")


def _tell_parent(bus: Bus, info: AgentInfo) -> bool:
    """The agent's last message. A coordinator that cannot be told does not keep the agent here."""
    if info.parent is None:
        return False
    try:
        bus.open(info.agent).send(info.parent, "shutdown", {"reason": "graceful"}, priority="control", timeout_s=1.0)
    except (AgentGone, InboxFull) as error:
        note(f"its coordinator {info.parent} was not told: {error}")
        return False
    return True


def _report(args: argparse.Namespace, *, told: bool, buried: int) -> None:
    if args.json:
        emit({"agent": args.agent, "removed": True, "coordinator_told": told, "buried": buried})
    else:
        say(
            f"{args.agent} is gone" + (f"; {_messages(buried)} buried as agent-gone (`cfn bus dead`)" if buried else "")
        )


def _messages(number: int) -> str:
    return f"{number} message{'s' if number != 1 else ''}"


class StillThere(CfnError):
    """The agent could not be ended as asked. Facts: ``agent``, ``left``."""

    retry = "safe"
    exit_code = Exit.PARTIAL
