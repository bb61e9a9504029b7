"""Dead letters of the file bus: listed, and put back."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from cfn.bus import names
from cfn.bus.delivery import read_messages
from cfn.bus.names import AGING_US, LANE
from cfn.bus.protocol import DeadLetter
from cfn.bus.transitions import AgentFolders
from cfn.errors import AgentGone, BadMessage, UsageError
from cfn.message import check_agent_id

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus


def list_dead(bus: FileBus, agent: str | None) -> list[DeadLetter]:
    """Of one agent or of all, living and gone, by name (so by time)."""
    living = bus.agent_ids() if agent is None else [check_agent_id(agent)]
    buried = sorted(os.listdir(bus.dead_dir)) if agent is None else [agent]
    out: list[DeadLetter] = []
    for who in living:
        out += _read(bus, who, bus.folders(who))
    for who in buried:
        out += _read(bus, who, _graves(bus, who))
    return sorted(out, key=lambda letter: letter.letter.partition("/")[2])


def _graves(bus: FileBus, agent: str) -> AgentFolders:
    """The dead letters of an agent that is gone, seen as the `dead` folder of an agent: .cfn/dead/<agent> is that folder."""
    folders = AgentFolders(agent, bus.dead_dir, bus.caps)
    with contextlib.suppress(FileNotFoundError):
        folders.alias("dead", check_agent_id(agent))
        return folders
    return AgentFolders(agent, os.path.join(bus.dead_dir, agent), bus.caps)  # none: its "dead" will not be found


def _read(bus: FileBus, agent: str, folders: AgentFolders) -> list[DeadLetter]:
    out: list[DeadLetter] = []
    try:
        for text in folders["dead"].names():
            with contextlib.suppress(FileNotFoundError):
                out.append(_letter(bus, agent, folders, text))
    except (FileNotFoundError, NotADirectoryError):
        return out
    finally:
        folders.close()
    return out


def _letter(bus: FileBus, agent: str, folders: AgentFolders, text: str) -> DeadLetter:
    grave = names.parse_dead(text)
    name = grave.name if grave else None
    message = None
    if name is not None and name.count is None:
        with contextlib.suppress(BadMessage):
            message = read_messages(folders, "dead", text, name, bus.settings.max_message_bytes)[0]
    return DeadLetter(
        letter=f"{agent}/{text}",
        agent=agent,
        reason=grave.reason if grave else "malformed",
        size_bytes=folders["dead"].size(text),
        sender=name.sender if name else None,
        message=message,
    )


def forget_control(bus: FileBus, run: str) -> None:
    """Discard what agents of `run` said to each other in the control lane and found its reader gone: "stop" to one that has
    left says nothing any more. Only among agents that are gone; everything else is kept."""
    ours = f"{run}."
    for agent in os.listdir(bus.dead_dir):
        if not agent.startswith(ours):
            continue
        graves = os.path.join(bus.dead_dir, agent)
        for text in os.listdir(graves):
            grave = names.parse_dead(text)
            name = grave.name if grave is not None and grave.reason == "agent-gone" else None
            if name is not None and LANE[name.lane] == "control" and name.sender.startswith(ours):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(graves, text))
        with contextlib.suppress(OSError):  # what is kept keeps its folder
            os.rmdir(graves)


def put_back(bus: FileBus, letter: str) -> None:
    """See Bus.put_back: one rename into the inbox, with attempt 0 ("put back") and a new time."""
    agent, slash, text = letter.partition("/")
    grave = names.parse_dead(text) if slash and "/" not in text else None
    if grave is None or grave.name is None:
        raise UsageError(f"{letter!r} is not a dead letter that can be put back; `cfn bus dead` lists them")
    target = bus.folders(agent)
    fresh = grave.name._replace(attempt=0, due=bus.now() + AGING_US[LANE[grave.name.lane]])
    try:
        home = target.home(fresh)
    except FileNotFoundError:
        raise AgentGone(
            f"no agent {agent!r} on this bus; register it first, then put its letters back", agent=agent
        ) from None
    for source in (target, _graves(bus, agent)):
        with contextlib.suppress(FileNotFoundError):
            source["dead"].rename(text, home, fresh.text)
            return
    raise UsageError(f"no dead letter {letter!r}; `cfn bus dead` lists them")
