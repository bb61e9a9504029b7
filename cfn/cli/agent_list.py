"""Who is registered on the bus, and who lives.

`alive` is proven by a lock for attended agents; an ephemeral one holds no lock: its last heartbeat is all there is to say.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cfn.cli.options import open_bus
from cfn.cli.output import emit, table

if TYPE_CHECKING:
    from cfn.bus.protocol import AgentInfo


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", help="only those of this run")
    parser.add_argument("--team", help="only those of this team")
    parser.add_argument("--alive", action="store_true", help="only attended agents that live now")


def run(args: argparse.Namespace) -> int:
    with open_bus(args) as bus:
        agents = [
            info
            for info in bus.agents()
            if args.run in (None, info.run)
            and args.team in (None, info.team)
            and (info.alive is True or not args.alive)
        ]
    if args.json:
        from dataclasses import asdict

        for info in agents:
            emit(asdict(info))
    else:
        table(("AGENT", "STATE", "BEAT", "ROLE", "TEAM", "RUN", "COORDINATOR", "PID"), [_row(info) for info in agents])
    return 0


def _row(info: AgentInfo) -> tuple[str, ...]:
    state = {True: "alive", False: "dead", None: "ephemeral"}[info.alive]
    beat = "-" if info.beat_age_s is None else f"{info.beat_age_s:.1f}s"
    return (
        info.agent,
        state,
        beat,
        info.role or "-",
        info.team or "-",
        info.run or "-",
        info.parent or "-",
        "-" if info.alive is None else str(info.pid),  # who registered an ephemeral agent has left
    )
