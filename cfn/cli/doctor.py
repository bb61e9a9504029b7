"""Is this host fit for that many agents? One line a check, ok, warn or bad, with what mends it. Exit code 5 when one is bad.

Nothing is changed on the host. Needs are what an agent costs (cfn/swarm/footprint.py) times the agents; commands that agents
run come on top, which is why a margin below 2 is a warning already.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from cfn.cli import host
from cfn.cli.options import count, settings_of
from cfn.cli.output import emit, paint, say
from cfn.errors import CfnError, Exit
from cfn.swarm import footprint

if TYPE_CHECKING:
    from cfn.settings import Settings

Verdict = Literal["ok", "warn", "bad"]
_COLOUR = {"ok": 32, "warn": 33, "bad": 31}
#: File systems where rename is not atomic between hosts, or locks are not kept: the bus must not live there.
_REMOTE = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs", "virtiofs")
)
#: Docker's default size of /dev/shm.
_SHM_DEFAULT_BYTES = 64 << 20


class Line(NamedTuple):
    """What one check found."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""


class Plan(NamedTuple):
    """What the checks are made against."""

    settings: Settings
    root: str  # of the bus
    agents: int
    team: int  # most agents below one coordinator


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=count, metavar="N", help="how many are planned (default: CFN_MAX_AGENTS)")


def run(args: argparse.Namespace) -> int:
    lines = list(examine(_plan(args)))
    for line in lines:
        if args.json:
            emit(line._asdict())
        else:
            say(f"{paint(f'{line.verdict:<4}', _COLOUR[line.verdict])} {line.check:<16} {line.found}")
            if line.mend:
                say(f"{'':<21} -> {line.mend}")
    return Exit.UNFIT if any(line.verdict == "bad" for line in lines) else Exit.OK


def _plan(args: argparse.Namespace) -> Plan:
    from cfn.bus import place

    settings = settings_of(args)
    agents = args.agents or settings.max_agents
    return Plan(settings, place.find(settings), agents, min(agents, settings.workers_per_coordinator))


def examine(plan: Plan) -> Iterator[Line]:
    """All checks, in the order in which they are read."""
    for check in CHECKS:
        yield from check(plan)


# ---------------------------------------------------------------- the checks


def _python(plan: Plan) -> Iterator[Line]:
    version = sys.version.split()[0]
    yield Line("python", "ok", f"{sys.implementation.name} {version} ({sys.executable})")
    from cfn.bus.capabilities import can_fork

    if not can_fork(plan.settings.without):
        yield Line(
            "fork", "warn", "no fork here: workers are spawned, 10 to 30 ms each", "use --pool, so that few are started"
        )


def _place(plan: Plan) -> Iterator[Line]:
    from cfn.bus import place

    if os.path.lexists(plan.root):
        try:
            place.check(plan.root)
        except CfnError as error:
            yield Line("bus folder", "bad", plan.root, str(error))
            return
        yield Line("bus folder", "ok", f"{plan.root}, private to you")
    else:
        parent = host.nearest(plan.root)
        fit = os.access(parent, os.W_OK | os.X_OK)
        mend = "" if fit else "set CFN_MESSAGE_BASE_DIR to a folder of yours"
        yield Line("bus folder", "ok" if fit else "bad", f"{plan.root}, to be made in {parent}", mend)


def _kind(plan: Plan) -> Iterator[Line]:
    from cfn.bus import place

    kind = place.filesystem(host.nearest(plan.root))
    if kind in _REMOTE:
        yield Line(
            "file system",
            "bad",
            f"{kind}, a network file system",
            "set CFN_MESSAGE_BASE_DIR to a local folder, best on tmpfs",
        )
    elif kind in ("tmpfs", "ramfs"):
        yield Line("file system", "ok", kind)
    else:
        yield Line(
            "file system",
            "warn",
            f"{kind}: messages go to a disk",
            "set CFN_MESSAGE_BASE_DIR to a folder on tmpfs, such as in /dev/shm",
        )


def _locks(plan: Plan) -> Iterator[Line]:
    from cfn.bus.capabilities import probe

    if not os.path.isdir(plan.root) or not os.access(plan.root, os.W_OK):
        return  # the bus is not made yet: its folder's checks say what there is to say
    try:
        found = probe(plan.root, plan.settings.without)
    except OSError as error:
        yield Line("locks", "bad", f"they could not be tried: {error.strerror}", "free space, or raise ulimit -n")
        return
    missing = [name for name, works in (("doorbell", found.doorbell), ("dir_fd", found.dir_fd)) if not works]
    if found.lock == "none":
        yield Line(
            "locks",
            "warn",
            "no file locks: a dead agent is known by its heartbeat only",
            "use a local file system that has locks",
        )
    else:
        yield Line("locks", "ok", found.lock)
    if missing:
        yield Line(
            "capabilities",
            "warn",
            f"without {', '.join(missing)}: slower, same promises",
            "unset CFN_WITHOUT if it was set by mistake",
        )


def _space(plan: Plan) -> Iterator[Line]:
    room = host.room(plan.root)
    if room is None:
        yield Line("space", "warn", f"the file system of {plan.root} does not tell its room")
        return
    bigger = "mount it larger (size=), or set CFN_MESSAGE_BASE_DIR elsewhere"
    yield _margin("space", room.free_bytes, plan.agents * footprint.TMPFS_BYTES, _mb, "free", bigger)
    if room.inodes is not None:
        yield _margin(
            "inodes", room.inodes, plan.agents * footprint.INODES, str, "free", "mount it with more inodes (nr_inodes=)"
        )


def _shm(plan: Plan) -> Iterator[Line]:
    """The trap of containers: 64 MB, shared by all, and a write beyond it kills nobody loudly."""
    if not host.in_container() or not os.path.isdir("/dev/shm"):
        return
    room = host.room("/dev/shm")
    if room is None or room.total_bytes > _SHM_DEFAULT_BYTES:
        yield Line("/dev/shm", "ok", "in a container, larger than the default" if room else "in a container")
        return
    need = plan.agents * footprint.TMPFS_BYTES
    here = plan.root.startswith("/dev/shm/")
    verdict: Verdict = "ok" if not here or need * 2 <= room.free_bytes else "warn" if need <= room.free_bytes else "bad"
    mend = (
        ""
        if verdict == "ok"
        else "start the container with --shm-size=1g, or mount a tmpfs and set CFN_MESSAGE_BASE_DIR to it"
    )
    yield Line("/dev/shm", verdict, f"in a container with the default of {_mb(room.total_bytes)}", mend)


def _descriptors(plan: Plan) -> Iterator[Line]:
    limits = host.open_files()
    if limits is None:
        return
    soft, hard = limits
    need = footprint.OWN_DESCRIPTORS + footprint.COORDINATOR_DESCRIPTORS * plan.team
    mend = (
        f"ulimit -n {max(need * 2, 65536)}"
        if hard >= need * 2
        else f"the hard limit is {hard}: LimitNOFILE= in the unit, or docker run --ulimit nofile=65536"
    )
    yield _margin("open files", soft, need, str, f"allowed to one coordinator of {plan.team}", mend)


def _pids(plan: Plan) -> Iterator[Line]:
    limits = host.pid_limits()
    if not limits:
        yield Line("processes", "ok", "no limit found")
        return
    name, free = min(limits.items(), key=lambda item: item[1])
    need = plan.agents * footprint.PIDS + plan.agents // max(1, plan.team) + 1
    yield _margin(
        "processes", free, need, str, f"left by {name}", f"raise {name}, or use --pool: few agents take many tasks each"
    )


def _memory(plan: Plan) -> Iterator[Line]:
    available, limit = host.memory()
    yield _margin(
        "memory",
        available,
        plan.agents * footprint.MEMORY_BYTES,
        _mb,
        f"available on {limit}",
        "fewer --agents, or --pool",
    )


def _engine(plan: Plan) -> Iterator[Line]:
    del plan
    name, tried = host.engine()
    mend = "" if name else "only `--site containers` needs one: install docker.io or podman, or start its service"
    yield Line("container engine", "ok" if name else "warn", tried, mend)


CHECKS: tuple[Callable[[Plan], Iterator[Line]], ...] = (
    _python, _place, _kind, _locks, _space, _shm, _descriptors, _pids, _memory, _engine,
)  # fmt: skip


def _margin(check: str, have: int, need: int, unit: Callable[[int], str], what: str, mend: str) -> Line:
    """ok with twice the need, warn with less, bad below the need."""
    verdict: Verdict = "ok" if have >= 2 * need else "warn" if have >= need else "bad"
    found = f"{unit(max(0, have))} {what}, {unit(need)} needed"
    return Line(check, verdict, found, "" if verdict == "ok" else mend)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MB"
