"""What this host and this file system can do, found by trying, never by the platform's name.

Each can be switched off with the setting ``without`` (``CFN_WITHOUT=doorbell,dir_fd``): the same transitions then run on what
is left, slower, with the same promises. What is lost:

* ``dir_fd`` off: paths are built and resolved at every call.
* ``ofd`` off: liveness by flock; a probe then tries a shared lock for an instant.
* ``flock`` off: no kernel lock at all: liveness is the heartbeat's age, claims are judged by their lease alone.
* ``doorbell`` off: a reader polls, every 50 ms at most.
* ``fast_depth`` off: the depth of an inbox is counted by listing it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

LockKind = Literal["ofd", "flock", "msvcrt", "none"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the file layer may use."""

    dir_fd: bool
    lock: LockKind
    doorbell: bool
    fast_depth: bool
    sharing_retries: (
        bool  # rename and unlink may fail for an instant because another process has the file open (Windows)
    )


def probe(folder: str, without: Collection[str] = ()) -> Capabilities:
    """Find out what works in `folder` (which must be writable). 60 µs on tmpfs. Raises OSError when that cannot be learned
    now (no room, no descriptor): an agent without a lock would count as dead to all who have locks.
    """
    return Capabilities(
        dir_fd="dir_fd" not in without and _dir_fd_works(),
        lock=_lock_kind(folder, without),
        doorbell="doorbell" not in without and _fifo_works(folder),
        fast_depth="fast_depth" not in without,
        sharing_retries=os.name == "nt",
    )


def can_fork(without: Collection[str] = ()) -> bool:
    """Whether children may be forked warm (else they are spawned)."""
    return "fork" not in without and hasattr(os, "fork") and sys.platform != "darwin"


def _dir_fd_works() -> bool:
    wanted = {os.open, os.rename, os.unlink, os.stat, os.mkdir, os.rmdir}
    return wanted <= os.supports_dir_fd and os.listdir in os.supports_fd


def _fifo_works(folder: str) -> bool:
    if not hasattr(os, "mkfifo"):
        return False
    path = os.path.join(folder, f"probe-{os.getpid()}-{os.urandom(4).hex()}.fifo")
    try:
        os.mkfifo(path, 0o600)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        os.unlink(path)
    return True


def _lock_kind(folder: str, without: Collection[str]) -> LockKind:
    if "flock" in without:
        return "none"
    if sys.platform == "win32":
        return "msvcrt"
    path = os.path.join(folder, f"probe-{os.getpid()}-{os.urandom(4).hex()}.lock")
    first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    second = -1
    try:
        second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if "ofd" not in without and _ofd_excludes(first, second):
            return "ofd"
        return "flock" if _flock_excludes(first, second) else "none"
    finally:
        os.close(first)
        if second >= 0:
            os.close(second)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _ofd_excludes(first: int, second: int) -> bool:
    """fcntl_locking(2): an open file description lock excludes another description, also in the same process."""
    import fcntl

    if not hasattr(fcntl, "F_OFD_SETLK"):
        return False
    try:
        fcntl.fcntl(first, fcntl.F_OFD_SETLK, ofd_request(fcntl.F_WRLCK))
        return ofd_held(second)
    except OSError:
        return False


def _flock_excludes(first: int, second: int) -> bool:
    import fcntl

    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: type, whence, start, len, pid (0 as OFD locks demand)


def ofd_request(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def ofd_held(fd: int) -> bool:
    """Whether another open file description holds a lock on this file; asks, never tries (F_OFD_GETLK)."""
    import fcntl

    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, ofd_request(fcntl.F_WRLCK))
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
