"""Who is on the bus: agent folders made whole by one rename, incarnations, liveness.

A new agent's folder is built in ``.cfn/new/`` with its `alive` lock already held, then renamed into place: nobody ever sees
half an agent. An existing folder is taken again (next incarnation) only by who gets its `alive` lock; its ``tmp/<epoch>`` is
replaced, so that the kernel refuses every later send of the old incarnation.

Ids are unique without regard to case: an id with capitals leaves a mark in ``.cfn/ids/<lower>`` before its folder appears, an
id without looks for that mark after its own: of two that race, at least one sees the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

from cfn.bus.ending import discard
from cfn.bus.files import Lock, full, lock_held
from cfn.bus.protocol import AgentInfo
from cfn.bus.transitions import FOLDERS
from cfn.errors import AgentExists, AgentGone, CfnError, UnfitPlace
from cfn.message import dump_json

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus


def enter(bus: FileBus, agent: str, attended: bool, who: dict[str, Any]) -> tuple[int, Lock | None, bool]:
    """Make or take the folder of `agent`: (epoch, its alive lock if attended, whether the folder is new).

    Raises: AgentExists, BusFull.
    """
    try:
        _mark_case(bus, agent)
        while True:
            if not os.path.isdir(bus.agent_path(agent)):
                made = _create(bus, agent, attended, who)
                if made is not None:
                    _check_case(bus, agent)
                    return 1, made[0], True
            taken = _take_again(bus, agent, attended, who)
            if taken is not None:
                return (*taken, False)
            if os.path.isdir(bus.agent_path(agent)) and not os.path.exists(f"{bus.agent_path(agent)}/agent.json"):
                raise UnfitPlace(
                    f"{bus.agent_path(agent)} is in the way: a folder without agent.json is no agent's; remove it",
                    path=bus.agent_path(agent),
                )
    except OSError as error:
        if isinstance(error, CfnError):
            raise
        raise full(error, f"cannot register {agent!r}") from error


def _create(bus: FileBus, agent: str, attended: bool, who: dict[str, Any]) -> tuple[Lock | None] | None:
    """Build and publish a new folder; None when another one was there first."""
    new = os.path.join(bus.new_dir, f"{agent}~{os.urandom(5).hex()}")
    os.mkdir(new, 0o700)
    lock: Lock | None = None
    try:
        for folder in FOLDERS:
            os.mkdir(f"{new}/{folder}", 0o700)
        os.mkdir(f"{new}/tmp/1", 0o700)
        if bus.caps.doorbell:
            os.mkfifo(f"{new}/bell", 0o600)
        lock = _lock_alive(bus, new, attended)
        _write(f"{new}/agent.json", _record(bus, agent, 1, attended, who))
        try:
            os.rename(new, bus.agent_path(agent))  # from here on the agent exists
        except OSError:
            if not os.path.isdir(bus.agent_path(agent)):
                raise
            shutil.rmtree(new, ignore_errors=True)
            if lock is not None:
                lock.close()
            return None
        if lock is not None:
            lock.path = os.path.join(bus.agent_path(agent), "alive")
        return (lock,)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if lock is not None:
            lock.close()
        raise


def _take_again(bus: FileBus, agent: str, attended: bool, who: dict[str, Any]) -> tuple[int, Lock | None] | None:
    """The next incarnation in an existing folder; None when the folder went away meanwhile."""
    path = bus.agent_path(agent)
    if is_alive(bus, agent):
        raise AgentExists(
            f"agent {agent!r} is alive: a running process holds this identity; choose another id or shut it down first",
            agent=agent,
            holder=agent,
        )
    try:
        lock = _lock_alive(bus, path, attended)
    except FileNotFoundError:
        return None
    if attended and lock is None:
        raise AgentExists(
            f"agent {agent!r} was taken by another process this instant; choose another id", agent=agent, holder=agent
        )
    try:
        old = read_record(path)
        epoch = _next_epoch(path, int(old["epoch"]))
        who = {**who, "made_at": old["made_at"]}
        part = f"{path}/tmp/{epoch}/agent.json"
        while (
            int(read_record(path)["epoch"]) < epoch
        ):  # again where two ephemeral ones wrote at once: the later one stays
            _write(part, _record(bus, agent, epoch, attended, who))
            os.replace(part, f"{path}/agent.json")
            for entry in os.listdir(f"{path}/tmp"):
                if entry.isdigit() and int(entry) < epoch:
                    discard(f"{path}/tmp/{entry}")  # fences the old incarnation
    except BaseException as error:
        if lock is not None:
            lock.close()
        if isinstance(error, FileNotFoundError):
            return None
        raise
    return epoch, lock


def _next_epoch(path: str, last: int) -> int:
    """Its tmp/ is made: the first number after `last` that no one used, also not one that died while it registered."""
    while True:
        last += 1
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{path}/tmp/{last}", 0o700)
            return last


def _lock_alive(bus: FileBus, path: str, attended: bool) -> Lock | None:
    alive = os.path.join(path, "alive")
    lock: Lock | None = None
    if attended:
        lock = Lock.take(alive, bus.caps.lock)
    else:
        os.close(os.open(alive, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
    if lock is not None or not attended:
        now = bus.now()
        os.utime(alive, ns=(now * 1000, now * 1000) if attended else (0, 0))
    return lock


def _record(bus: FileBus, agent: str, epoch: int, attended: bool, who: dict[str, Any]) -> bytes:
    return dump_json(
        {
            "agent": agent,
            "epoch": epoch,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "attended": attended,
            "registered_at": (now := bus.now()),
            "made_at": now,  # of the mailbox: stays the same when it is registered again
            **{name: value for name, value in who.items() if value is not None},
        }
    )


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read_record(path: str) -> dict[str, Any]:
    """agent.json. Raises FileNotFoundError."""
    with open(os.path.join(path, "agent.json"), "rb") as file:
        record: dict[str, Any] = json.load(file)
    return record


def identity(path: str) -> tuple[int, int] | None:
    """Which mailbox lies there, and its incarnation; None when there is none. 15 µs."""
    try:
        record = read_record(path)
        return int(record["made_at"]), int(record["epoch"])
    except (OSError, ValueError, KeyError):
        return None


def set_pid(bus: FileBus, agent: str, pid: int) -> None:
    """Rewrite agent.json with another pid. An agent that left meanwhile is left alone."""
    path = bus.agent_path(agent)
    part = os.path.join(bus.new_dir, f"{agent}~{os.urandom(5).hex()}.json")
    with contextlib.suppress(FileNotFoundError):
        _write(part, dump_json({**read_record(path), "pid": pid}))
        try:
            os.replace(part, os.path.join(path, "agent.json"))
        except FileNotFoundError:
            os.unlink(part)


def leave(bus: FileBus, agent: str) -> None:
    """Take the mark of an id with capitals away."""
    if agent != agent.lower():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(bus.ids_dir, agent.lower()))


def _mark_case(bus: FileBus, agent: str) -> None:
    lower = agent.lower()
    if agent != lower:
        mark = os.path.join(bus.ids_dir, lower)
        part = f"{mark}~{os.urandom(5).hex()}"
        _write(part, agent.encode())
        try:
            os.link(part, mark) if hasattr(os, "link") else os.rename(part, mark)
        except FileExistsError:
            pass
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
        if os.path.isdir(bus.agent_path(lower)) and read_record(bus.agent_path(lower))["agent"] == lower:
            leave(bus, agent)
            raise _collision(agent, lower)
    _check_case(bus, agent)


def _check_case(bus: FileBus, agent: str) -> None:
    mark = os.path.join(bus.ids_dir, agent.lower())
    try:
        with open(mark, encoding="ascii") as file:
            other = file.read()
    except FileNotFoundError:
        return
    if other == agent:
        return
    if os.path.isdir(bus.agent_path(other)):
        raise _collision(agent, other)
    with contextlib.suppress(FileNotFoundError):  # left by an agent that is gone
        os.unlink(mark)
    if agent != agent.lower():
        _mark_case(bus, agent)


def _collision(agent: str, other: str) -> AgentExists:
    return AgentExists(
        f"agent id {agent!r} differs from the registered {other!r} only by case; choose another id",
        agent=agent,
        holder=other,
    )


def is_alive(bus: FileBus, agent: str) -> bool:
    """Whether a process holds the `alive` lock; where no lock can be asked, whether the heartbeat is fresh."""
    path = os.path.join(bus.agent_path(agent), "alive")
    try:
        held = lock_held(path, bus.caps.lock)
        if held is not None:
            return held
        beat_us = os.stat(path).st_mtime_ns // 1000
    except FileNotFoundError:
        return False
    except OSError as error:
        raise full(error, f"cannot look whether {agent!r} lives") from error
    return beat_us > 0 and bus.now() - beat_us < 3 * bus.settings.heartbeat * 1e6


def beat_age_s(bus: FileBus, agent: str) -> float | None:
    try:
        beat_us = os.stat(os.path.join(bus.agent_path(agent), "alive")).st_mtime_ns // 1000
    except FileNotFoundError:
        return None
    return (bus.now() - beat_us) / 1e6 if beat_us else None


def info(bus: FileBus, agent: str) -> AgentInfo:
    """Raises: AgentGone."""
    path = bus.agent_path(agent)
    try:
        record = read_record(path)
        beat_us = os.stat(os.path.join(path, "alive")).st_mtime_ns // 1000
        attended = bool(record["attended"])
        return AgentInfo(
            agent=agent,
            epoch=int(record["epoch"]),
            pid=int(record["pid"]),
            host=str(record["host"]),
            attended=attended,
            alive=is_alive(bus, agent) if attended else None,
            beat_age_s=(bus.now() - beat_us) / 1e6 if beat_us else None,
            role=record.get("role"),
            team=record.get("team"),
            run=record.get("run"),
            parent=record.get("parent"),
            max_inbox=int(record["max_inbox"]),
            shared=bool(record.get("shared", False)),
            capabilities=tuple(record.get("capabilities", ())),
        )
    except (FileNotFoundError, NotADirectoryError):
        raise AgentGone(f"no agent {agent!r} on this bus; `cfn agent list` shows who is there", agent=agent) from None
