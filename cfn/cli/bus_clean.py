"""Remove a whole bus, when nobody lives there: no attended agent alive, no other process that writes, no message that waits.

Steps: look; rename the folder aside (from that instant every send is refused with AgentGone, none is lost half-way); delete.
Where the folder cannot be renamed (it is a mount point) its contents are deleted instead. Only a bus is removed: a folder
without .cfn/bus.json, or one that also holds something else, is refused, with --force too.
"""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

from cfn.cli.options import open_bus, settings_of
from cfn.cli.output import emit, say
from cfn.errors import CfnError, UsageError

if TYPE_CHECKING:
    from cfn.bus.protocol import Bus


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="also while somebody lives there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    from cfn.bus import place

    root = place.find(settings_of(args))
    place.check(root)
    _only_a_bus(root)
    with open_bus(args) as bus:
        agents, reasons = _residents(bus, root)
    if reasons and not args.force:
        raise Inhabited(
            f"{root} is in use ({'; '.join(reasons)}): end them first (`cfn agent shutdown`, `cfn cancel`), or use --force",
            path=root,
        )
    if not args.dry_run:
        _delete(root)
    if args.json:
        emit({"path": root, "agents": agents, "removed": not args.dry_run, "in_use": reasons})
    else:
        say(f"{'would remove' if args.dry_run else 'removed'} {root} ({len(agents)} agents)")
    return 0


def _only_a_bus(root: str) -> None:
    """Raises: UsageError where deleting everything in `root` would delete something that is not of a bus."""
    if not os.path.isfile(os.path.join(root, ".cfn", "bus.json")):
        raise UsageError(f"{root} is not a bus (no .cfn/bus.json in it): name the bus with --bus")
    for name, path in _entries(root):
        if name != ".cfn" and not os.path.isdir(os.path.join(path, "inbox")):
            raise UsageError(f"{root} holds {name!r}, which is not of a bus: move it away first", path=path)


def _entries(root: str) -> list[tuple[str, str]]:
    """Name and path of what lies in the root, shards opened."""
    found = []
    for entry in os.scandir(root):
        if entry.name.startswith("shard-") and entry.is_dir(follow_symlinks=False):
            found += [(f"{entry.name}/{inner.name}", inner.path) for inner in os.scandir(entry.path)]
        else:
            found.append((entry.name, entry.path))
    return found


def _residents(bus: Bus, root: str) -> tuple[list[str], list[str]]:
    """All agents, and why the bus counts as inhabited."""
    agents = bus.agents()
    names = [info.agent for info in agents]
    alive = [info.agent for info in agents if info.alive]
    waiting = sum(bus.count(name, "inbox") + bus.count(name, "claimed") for name in names)
    reasons = []
    if alive:
        reasons.append(f"{len(alive)} agents alive, {alive[0]} among them")
    if writers := _living_writers(root):
        reasons.append(f"{writers} other processes write there")
    if waiting:
        reasons.append(f"{waiting} messages wait")
    return names, reasons


def _living_writers(root: str) -> int:
    from cfn.bus.capabilities import probe
    from cfn.bus.files import lock_held

    folder = os.path.join(root, ".cfn", "w")
    kind = probe(
        os.path.join(root, ".cfn", "new")
    ).lock  # a sweep would take what a probe leaves in w/ for a dead writer
    living = 0
    for name in os.listdir(folder):
        try:
            living += lock_held(os.path.join(folder, name), kind) is True
        except OSError:
            continue  # it left in between
    return living


def _delete(root: str) -> None:
    aside = os.path.join(os.path.dirname(root), f".{os.path.basename(root)}.removed-{os.urandom(4).hex()}")
    try:
        os.rename(root, aside)  # commit: the bus is gone
    except OSError:
        for entry in os.scandir(root):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        return
    shutil.rmtree(aside)


class Inhabited(CfnError):
    """Somebody lives on the bus that was to be removed. Fact: ``path``."""

    retry = "safe"
