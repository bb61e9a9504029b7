"""Sweeping: what the dead and the late left behind goes back into circulation.

A claim is returned when its deadline is over, or lies further ahead than any lease can (another boot), or when its holder's
lock file is there and free. Unfinished writes are discarded when their writer is proven dead, never by age. Any process may
sweep at any time: each step is a compare-and-swap on a name, and losing it means that another one did it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from cfn.bus import ending, names
from cfn.bus.compose import LONGEST_LEASE_S
from cfn.bus.events import Buried, Released
from cfn.bus.protocol import Swept
from cfn.bus.registry import info
from cfn.bus.transitions import AgentFolders
from cfn.bus.writer import is_dead
from cfn.errors import AgentGone, LeaseLost

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

#: With some slack: the lease was measured from the claim.
_LONGEST_LEASE_US: Final = (LONGEST_LEASE_S + 60) * 1_000_000


def sweep_agent(
    bus: FileBus, folders: AgentFolders, dead: dict[str, bool] | None = None, *, of_all: bool = False
) -> Swept:
    """Return the lost claims of one mailbox. `dead`: verdicts on holders, so that each is asked once. `of_all`: every claim."""
    swept = Swept()
    verdicts = {} if dead is None else dead
    try:
        texts = folders["claimed"].names()
    except FileNotFoundError:
        return swept
    for text in texts:
        claim = names.parse_claimed(text)
        if claim is None:
            folders.quarantine(folders["claimed"], text, bus.now())
        elif of_all or _is_over(bus, claim, verdicts):
            with contextlib.suppress(LeaseLost, FileNotFoundError):
                given = folders.give_back(text, claim.name, bus.settings.max_attempts)
                _count(bus, folders.agent, swept, given, text)
    return swept


def _is_over(bus: FileBus, claim: names.Claim, verdicts: dict[str, bool]) -> bool:
    now = bus.now()
    if now >= claim.deadline or claim.deadline > now + _LONGEST_LEASE_US:
        return True
    if claim.holder == bus.writer.id:
        return False
    if claim.holder not in verdicts:
        verdicts[claim.holder] = is_dead(bus.w_dir, claim.holder, bus.caps.lock)
    return verdicts[claim.holder]


def _count(bus: FileBus, agent: str, swept: Swept, given: str, text: str) -> None:
    if given == "buried":
        swept.buried += 1
    else:
        swept.returned += 1
    if bus.observers:
        at = bus.now()
        bus.announce(Buried(agent, at, text, "attempts") if given == "buried" else Released(agent, at, text))


def sweep_bus(bus: FileBus, dead_agents: bool) -> Swept:
    """Everything: claims, unfinished writes, interrupted ends; with `dead_agents` mailboxes of dead attended agents."""
    ending.finish_all(bus)
    total = Swept()
    verdicts = {w: is_dead(bus.w_dir, w, bus.caps.lock) for w in os.listdir(bus.w_dir) if not w.startswith(".")}
    for agent in bus.agent_ids():
        if dead_agents and _died(bus, agent):
            bus.remove(agent)
            total.removed.append(agent)
            continue
        folders = bus.folders(agent)
        try:
            swept = sweep_agent(bus, folders, verdicts)
        finally:
            folders.close()
        total.returned += swept.returned
        total.buried += swept.buried
        total.discarded += _discard_torn(bus, agent, verdicts)
    for writer, dead in verdicts.items():
        if dead:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(bus.w_dir, writer))
    _discard_unborn(bus)
    return total


def _died(bus: FileBus, agent: str) -> bool:
    try:
        found = info(bus, agent)
    except (AgentGone, ValueError, KeyError):
        return False
    return found.attended and not found.alive


def _discard_torn(bus: FileBus, agent: str, verdicts: dict[str, bool]) -> int:
    """Unfinished writes in tmp/ whose writer is dead: their sends never returned."""
    count = 0
    top = os.path.join(bus.agent_path(agent), "tmp")
    with contextlib.suppress(OSError):
        for epoch in os.listdir(top):
            for text in os.listdir(os.path.join(top, epoch)):
                name = names.parse(text)
                if name is not None and verdicts.get(name.writer, False):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(top, epoch, text))
                        count += 1
    return count


def _discard_unborn(bus: FileBus) -> None:
    """Agent folders and scratch files whose making was interrupted: their `alive` (or own) lock is free, or they hold none yet.

    One that is being made right now loses nothing that was promised: its maker starts again with an error of its own; to
    keep that from happening they are left alone until they are a minute old in the file system's own time.
    """
    import shutil
    import time

    for entry in os.listdir(bus.new_dir):
        path = os.path.join(bus.new_dir, entry)
        with contextlib.suppress(OSError):
            if time.time() - os.lstat(path).st_ctime > 60:
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)
