"""The only code that touches the file system for messages: create, rename, read, list, lock, ring.

Guarantees: a file appears under its final name complete or not at all (written in the sender's tmp/, then one rename); no
operation follows a symlink out of its folder; every descriptor is close-on-exec. A :class:`Folder` keeps a descriptor of its
directory where the host allows it (`dir_fd`), so that a folder that was removed or replaced refuses at once, from the kernel,
and so that names are never resolved twice; without it, the same calls run on paths.

Cost on tmpfs: create + write + close 9 µs, rename 3 µs, open + read + close 6 µs, fstat 0.6 µs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from cfn.bus.capabilities import Capabilities, LockKind, ofd_held, ofd_request
from cfn.errors import BusFull

CLOSED: Final = stat.S_ISVTX  # on an inbox: the mailbox is ending; senders read it in the fstat that tells the depth
#: Errors that mean "no room or no descriptor now": nothing was changed, and the same call may succeed later.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG})
_READ_FIRST: Final = 32 * 1024  # one read serves nearly every message; a 1 MiB buffer costs 14 µs to clear
_O_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_O_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
_O_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_O_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
_O_BINARY: Final = getattr(os, "O_BINARY", 0)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW | _O_CLOEXEC | _O_BINARY
_READ: Final = os.O_RDONLY | _O_NOFOLLOW | _O_NONBLOCK | _O_CLOEXEC | _O_BINARY


class NotAFile(Exception):
    """What lies under that name is not a regular file of ours, or is too large: it belongs in quarantine."""


def full(error: OSError, what: str) -> OSError:
    """`error` as BusFull where it means "no room"; else unchanged."""
    if error.errno not in FULL:
        return error
    mend = (
        "raise the limit of open files (ulimit -n)"
        if error.errno in (errno.EMFILE, errno.ENFILE)
        else "free space on the bus"
    )
    return BusFull(f"{what}: {error.strerror}; nothing was changed: {mend}", errno=error.errno)


def _patiently(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Windows: another process may have the file open for an instant (sharing violation): 10 tries in 100 ms."""
    for pause_s in (0.001, 0.002, 0.004, 0.008, 0.01, 0.015, 0.02, 0.02, 0.02):
        try:
            return call(*args, **options)
        except PermissionError:
            time.sleep(pause_s)
    return call(*args, **options)


class Folder:
    """One directory of the bus, opened. Raises FileNotFoundError where it is not there."""

    __slots__ = ("_patient", "fd", "path")

    def __init__(self, path: str, caps: Capabilities) -> None:
        self.path = path
        self._patient = caps.sharing_retries
        if caps.dir_fd:
            self.fd: int | None = os.open(path, os.O_RDONLY | _O_DIRECTORY | _O_NOFOLLOW | _O_CLOEXEC)
        else:
            self.fd = None
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd is not None and fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        """As a file object: who lets go of a folder (a redeemed delivery, a letter put back) need not close it."""
        if getattr(self, "fd", None) is not None:
            self.close()

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if self.fd is None else name

    def names(self) -> list[str]:
        """Everything in it, in no order. A listing that races with renames may miss a name."""
        return os.listdir(self.path if self.fd is None else self.fd)

    def stat(self) -> os.stat_result:
        """Of the directory. Raises FileNotFoundError when it was removed."""
        if self.fd is None:
            return os.stat(self.path)
        found = os.fstat(self.fd)
        if found.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        return found

    def gone(self) -> bool:
        """Whether it was removed, or is being removed: what is missing in it then says nothing."""
        try:
            return bool(self.stat().st_mode & CLOSED)
        except FileNotFoundError:
            return True

    def create(self, name: str, data: bytes) -> None:
        """Write a new file. On failure nothing is left under that name."""
        fd = os.open(self._at(name), _CREATE, 0o600, dir_fd=self.fd)
        try:
            try:
                written = os.write(fd, data)
                while written < len(data):
                    written += os.write(fd, data[written:])
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(name)
            raise

    def rename(self, name: str, to: Folder, new: str) -> None:
        """The commit point of every transition."""
        if self._patient:
            _patiently(os.rename, self._at(name), to._at(new))
        else:
            os.rename(self._at(name), to._at(new), src_dir_fd=self.fd, dst_dir_fd=to.fd)

    def unlink(self, name: str) -> None:
        if self._patient:
            _patiently(os.unlink, self._at(name))
        else:
            os.unlink(self._at(name), dir_fd=self.fd)

    def read(self, name: str, limit_bytes: int) -> bytes:
        """The content of a regular file of ours. Raises NotAFile for anything else, FileNotFoundError when it moved on."""
        try:
            fd = os.open(self._at(name), _READ, dir_fd=self.fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise NotAFile(name) from None
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > limit_bytes or not _ours(found):
                raise NotAFile(name)
            data = os.read(fd, _READ_FIRST)
            while len(data) < found.st_size:
                more = os.read(fd, found.st_size - len(data))
                if not more:
                    break
                data += more
            return data
        except IsADirectoryError:
            raise NotAFile(name) from None
        finally:
            os.close(fd)

    def has(self, name: str) -> bool:
        try:
            os.stat(self._at(name), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        return os.stat(self._at(name), dir_fd=self.fd, follow_symlinks=False).st_size


def _ours(found: os.stat_result) -> bool:
    return sys.platform == "win32" or found.st_uid == os.geteuid()


class DepthRule:
    """How the number of entries of a directory is read off its size, where the file system keeps that (tmpfs: 20 bytes an entry).

    Learned by experiment when the bus is made; (0, 0) means that entries must be listed and counted.
    """

    __slots__ = ("base", "step")

    def __init__(self, base: int, step: int) -> None:
        self.base = base
        self.step = step

    def entries(self, folder: Folder, found: os.stat_result) -> int:
        if self.step:
            return (found.st_size - self.base) // self.step
        return len(folder.names())

    @classmethod
    def learn(cls, path: str) -> DepthRule:
        """Try it in a scratch directory under `path`: names of several lengths, additions and removals."""
        scratch = os.path.join(path, f"probe-{os.getpid()}-{os.urandom(4).hex()}.d")
        os.mkdir(scratch, 0o700)
        names = ["a", "b" * 40, "c" * 90, "d" * 160]
        made: list[str] = []
        try:
            sizes = [os.stat(scratch).st_size]
            for name in names:
                os.close(os.open(os.path.join(scratch, name), os.O_CREAT | os.O_WRONLY, 0o600))
                made.append(name)
                sizes.append(os.stat(scratch).st_size)
            os.unlink(os.path.join(scratch, made.pop(0)))
            after = os.stat(scratch).st_size
        finally:
            for name in made:
                os.unlink(os.path.join(scratch, name))
            os.rmdir(scratch)
        step = sizes[1] - sizes[0]
        linear = step > 0 and all(b - a == step for a, b in itertools.pairwise(sizes)) and after == sizes[-2]
        return cls(sizes[0], step) if linear else cls(0, 0)


#: Descriptors of locks that this process holds: a forked child closes them first thing, touching nothing else.
_locks: set[int] = set()


def _forked() -> None:
    for fd in _locks:
        os.close(fd)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Lock:
    """A lock file held by this process until it is closed or the process dies, however it dies.

    OFD lock where there is one: it belongs to the open file description, so closing another descriptor of the file does not
    drop it (POSIX locks) and only a forked child that keeps the descriptor can hold it longer: children close it first thing.
    That also allows to hand a lock over: taken before the fork, kept by the child, closed by the parent.
    """

    __slots__ = ("fd", "kind", "path")

    def __init__(self, path: str, fd: int, kind: LockKind) -> None:
        self.path = path
        self.fd = fd
        self.kind = kind
        _locks.add(fd)

    def leave_to_child(self) -> None:
        """Before a fork: the next child keeps this one."""
        _locks.discard(self.fd)

    def adopt(self) -> None:
        """After it: in that child, and in the parent until it closes its own; not for further children."""
        _locks.add(self.fd)

    @classmethod
    def take(cls, path: str, kind: LockKind) -> Lock | None:
        """Lock the file (created if missing); None when another holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _O_NOFOLLOW | _O_CLOEXEC, 0o600)
        try:
            if _lock(fd, kind):
                return cls(path, fd, kind)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            _locks.discard(fd)
            os.close(fd)


def _lock(fd: int, kind: LockKind) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        if kind == "ofd":
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, ofd_request(fcntl.F_WRLCK))
        elif kind == "flock":
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock_held(path: str, kind: LockKind) -> bool | None:
    """Whether some process holds the lock on this file. None: cannot be known (no lock kind). Raises FileNotFoundError."""
    fd = os.open(path, os.O_RDWR | _O_NOFOLLOW | _O_CLOEXEC)
    try:
        if kind == "ofd":
            return ofd_held(fd)
        if kind == "none":
            return None
        if sys.platform == "win32":
            return not _lock(fd, kind)
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    finally:
        os.close(fd)
