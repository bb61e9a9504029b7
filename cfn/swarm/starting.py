"""What starting a command takes: a stdin that is full already, a process group, and the reason why it did not start."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO, Any


def group_options(process_group: int | None) -> dict[str, Any]:
    if process_group is None:
        return {}
    if os.name == "posix":
        return {"process_group": process_group}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def filled(data: bytes) -> int:
    """A descriptor from which `data` can be read to its end: a pipe that holds all of it, else an unnamed file."""
    if not data:
        return os.open(os.devnull, os.O_RDONLY)
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            if os.write(writer, data) == len(data):
                return reader
    finally:
        os.close(writer)
    os.close(reader)
    return file_of(data)


def file_of(data: bytes) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("task", os.MFD_CLOEXEC)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        return os.dup(file.fileno())


def unnamed() -> IO[bytes]:
    return tempfile.TemporaryFile()


def signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def why_not(
    error: OSError | ValueError, argv: list[str], env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
) -> tuple[int | None, str]:
    """Exit code and reason for a command that could not be started; 126 and 127 as shells use them (POSIX 2.8.2)."""
    name = argv[0] if argv else ""
    if not isinstance(error, OSError):
        return None, f"cannot start {name!r}: {error}"
    if cwd is not None and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) and not os.path.isdir(cwd):
        return None, f"cannot start {name!r}: the folder {os.fspath(cwd)!r} does not exist (--cwd)"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.sep in name and os.path.exists(os.path.join(cwd or "", name)):
            return 127, f"cannot start {name!r}: the interpreter that its first line names does not exist"
        where = "does not exist" if os.sep in name else "is not on PATH"
        return 127, f"command not found: {name!r} {where}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EISDIR):
        return 126, f"cannot start {name!r}: it is not executable (chmod +x?)"
    if error.errno == errno.ENOEXEC:
        return 126, f"cannot start {name!r}: neither a program nor a script with a #! line"
    if error.errno == errno.E2BIG:
        return 126, f"cannot start {name!r}: its arguments and environment are too long; read the task from stdin"
    return None, f"cannot start {name!r}: {error.strerror}"
