"""Runs and agents that live now.

A run is shown for as long as an agent of it is registered; agents that belong to no run come last. ALIVE counts the agents
whose lock a living process holds, BEAT is the oldest heartbeat among them: above three intervals, that agent hangs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cfn.cli.options import open_bus, settings_of
from cfn.cli.output import emit, note, table
from cfn.errors import Exit, NoSuchRun

if TYPE_CHECKING:
    from cfn.bus.protocol import AgentInfo


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="only this run, agent by agent")


def run(args: argparse.Namespace) -> int:
    """Raises: NoSuchRun."""
    agents = _agents(args)
    if args.run is not None:
        agents = [info for info in agents if info.run == args.run]
        if not agents:
            raise NoSuchRun(f"no run {args.run!r} lives on this bus; `cfn ps` shows those that do", run=args.run)
    rows = [_run_row(name, members) for name, members in _grouped(agents)]
    if args.json:
        for row in rows:
            emit(row)
    elif args.run is not None:
        table(("AGENT", "ROLE", "TEAM", "ALIVE", "BEAT", "PID"), [_agent_cells(info) for info in agents])
    elif rows:
        table(("RUN", "TEAMS", "COORDINATORS", "WORKERS", "OTHERS", "ALIVE", "BEAT"), [_run_cells(row) for row in rows])
    else:
        note("nobody is on this bus")
    return Exit.OK


def _agents(args: argparse.Namespace) -> list[AgentInfo]:
    """Everybody on the bus; nobody where there is no bus yet. Raises: UnfitPlace, FormatError."""
    from cfn.bus import place

    if not os.path.lexists(place.find(settings_of(args))):
        return []
    with open_bus(args) as bus:
        return bus.agents()


def _grouped(agents: Iterable[AgentInfo]) -> list[tuple[str | None, list[AgentInfo]]]:
    groups: dict[str | None, list[AgentInfo]] = {}
    for info in agents:
        groups.setdefault(info.run, []).append(info)
    return sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or ""))


def _run_row(name: str | None, members: list[AgentInfo]) -> dict[str, Any]:
    """One run in numbers, and its agents."""
    roles = [info.role for info in members]
    coordinators = sum(role in ("master", "coordinator") for role in roles)
    workers = sum(role == "worker" for role in roles)
    beats = [info.beat_age_s for info in members if info.alive and info.beat_age_s is not None]
    return {
        "run": name,
        "teams": sorted({info.team for info in members if info.team is not None}),
        "coordinators": coordinators,
        "workers": workers,
        "others": len(members) - coordinators - workers,
        "alive": sum(info.alive is True for info in members),
        "beat_age_s": max(beats, default=None),
        "agents": [asdict(info) for info in members],
    }


def _run_cells(row: dict[str, Any]) -> tuple[str, ...]:
    total = row["coordinators"] + row["workers"] + row["others"]
    return (
        row["run"] or "-",
        _shortened(row["teams"]),
        str(row["coordinators"]),
        str(row["workers"]),
        str(row["others"]),
        f"{row['alive']}/{total}",
        _beat(row["beat_age_s"]),
    )


def _agent_cells(info: AgentInfo) -> tuple[str, ...]:
    alive = {True: "yes", False: "no", None: "ephemeral"}[info.alive]
    return (info.agent, info.role or "-", info.team or "-", alive, _beat(info.beat_age_s), _pid(info))


def _pid(info: AgentInfo) -> str:
    return "-" if info.alive is None else str(info.pid)  # who registered an ephemeral agent has left


def _beat(age_s: float | None) -> str:
    return "-" if age_s is None else f"{age_s:.1f}s"


def _shortened(teams: list[str]) -> str:
    text = ",".join(teams)
    return (text if len(text) <= 30 else text[:27] + "...") or "-"
