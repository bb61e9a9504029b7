"""Facts about this host that limit a swarm: each function asks the system once and says None where it does not tell."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Room(NamedTuple):
    """Free room of a file system. `inodes` is None where it has no fixed number (btrfs, Windows)."""

    total_bytes: int
    free_bytes: int
    inodes: int | None


def room(path: str) -> Room | None:
    """Of the file system that holds `path`, or its nearest existing parent."""
    here = nearest(path)
    try:
        if hasattr(os, "statvfs"):
            found = os.statvfs(here)
            inodes = found.f_favail if found.f_files else None
            return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, inodes)
        import shutil

        usage = shutil.disk_usage(here)
        return Room(usage.total, usage.free, None)
    except OSError:
        return None


def nearest(path: str) -> str:
    """`path`, or the closest folder above it that exists."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def open_files() -> tuple[int, int] | None:
    """Soft and hard limit of open files of one process (a large number stands for no limit)."""
    return _limit("RLIMIT_NOFILE")


def pid_limits() -> dict[str, int]:
    """How many more processes each limit allows, by its name. What does not limit is left out."""
    found: dict[str, int] = {}
    # The kernel does not hold root, or who has CAP_SYS_RESOURCE, to RLIMIT_NPROC (setrlimit(2)).
    nproc = _limit("RLIMIT_NPROC")
    if nproc is not None and hasattr(os, "geteuid") and os.geteuid() != 0 and nproc[0] < 1 << 30:
        found["RLIMIT_NPROC (ulimit -u)"] = nproc[0] - _processes_of_user()
    for name in ("pid_max", "threads-max"):
        most = _number(Path("/proc/sys/kernel", name))
        if most is not None:
            found[f"kernel.{name}"] = most - _threads()
    for folder in cgroups("pids"):
        most, now = _number(folder / "pids.max"), _number(folder / "pids.current")
        if most is not None:
            found[f"pids.max of cgroup {folder}"] = most - (now or 0)
    return found


def memory() -> tuple[int, str]:
    """Bytes that can still be had, and what limits them: the machine or a cgroup."""
    import psutil

    available, limit = int(psutil.virtual_memory().available), "the machine"
    for folder in cgroups("memory"):
        most = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        now = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        if most is not None and most - now < available:
            available, limit = most - now, f"cgroup {folder}"
    return available, limit


def cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups for `controller`, its own first, then those above (cgroups(7))."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("utf-8", "surrogateescape").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and not controllers:
                top = root
            elif controller in controllers.split(","):
                top = root / controllers
            else:
                continue
            folder = top / path.lstrip("/")
            while True:
                if folder.is_dir():
                    yield folder
                if folder == top or top not in folder.parents:
                    break
                folder = folder.parent


def in_container() -> bool:
    """Whether this is a container, by the marks that engines leave."""
    if any(os.path.exists(mark) for mark in ("/.dockerenv", "/run/.containerenv")) or os.environ.get("container"):  # noqa: SIM112 - systemd's name for it, in lower case
        return True
    with contextlib.suppress(OSError):
        return any(
            word in Path("/proc/1/cgroup").read_text() for word in ("docker", "kubepods", "containerd", "libpod")
        )
    return False


def engine() -> tuple[str | None, str]:
    """The container engine that answers, or None; and what was tried."""
    tried = []
    for name, address in _sockets():
        if _answers(address):
            return name, f"{name} answers at {address}"
        tried.append(f"{name} does not answer at {address}")
    import shutil

    for program in ("docker", "podman"):
        if shutil.which(program) and not any(program in line for line in tried):
            tried.append(f"{program} is installed, its service was not found")
    return None, "; ".join(tried) or "neither docker nor podman is installed"


def _sockets() -> list[tuple[str, str]]:
    given = os.environ.get("DOCKER_HOST")
    if given:
        return [("docker", given)]
    user = os.environ.get("XDG_RUNTIME_DIR") or (f"/run/user/{os.geteuid()}" if hasattr(os, "geteuid") else "")
    paths = [("docker", "/var/run/docker.sock"), ("docker", f"{user}/docker.sock")]
    paths += [("podman", "/run/podman/podman.sock"), ("podman", f"{user}/podman/podman.sock")]
    return [(name, f"unix://{path}") for name, path in paths if os.path.exists(path)]


def _answers(address: str) -> bool:
    """GET /_ping, which docker and podman both answer; an address that is no unix socket is tried as TCP."""
    import socket

    kind, _, where = address.partition("://")
    try:
        host, _, port = where.partition(":")
        line = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_STREAM)
        with line:
            line.settimeout(2)
            line.connect(where if kind == "unix" else (host, int(port or 2375)))
            line.sendall(b"GET /_ping HTTP/1.0\r\nHost: cfn\r\n\r\n")
            return b" 200 " in line.recv(64)
    except (OSError, ValueError, AttributeError):
        return False


def _limit(name: str) -> tuple[int, int] | None:
    if sys.platform == "win32":
        return None
    import resource

    if not hasattr(resource, name):
        return None
    soft, hard = resource.getrlimit(getattr(resource, name))
    return tuple(1 << 60 if value == resource.RLIM_INFINITY else value for value in (soft, hard))  # type: ignore[return-value]


def _number(path: Path) -> int | None:
    """The number in a small file; None for "max", a file that is not there, and v1's way to say no limit (near 2^63)."""
    try:
        value = int(path.read_text().strip())
    except (OSError, ValueError):
        return None
    return value if value < 1 << 60 else None


def _threads() -> int:
    """Threads on this machine, from /proc/loadavg's "running/total"."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def _processes_of_user() -> int:
    import psutil

    me, found = os.getuid(), 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += process.uids().real == me
    return found
