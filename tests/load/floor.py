"""The floor below a message: the same system calls and nothing else, in C where there is a compiler, else in bare Python.

``floor.c`` is compiled on the spot (0.1 s) and run as a program of its own; it times itself, so that its start counts for
nothing. Both floors work in one folder with tmp/, inbox/ and claimed/ in it, on the file system of the bus.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

SOURCE: Final = Path(__file__).with_name("floor.c")
_LIMIT_S: Final = 120.0  # a block takes milliseconds; this ends one that hangs
_BINARY: Final = getattr(os, "O_BINARY", 0)


class Floor(Protocol):
    """What every floor can tell. Times are nanoseconds."""

    language: str

    def send(self, count: int, size_bytes: int) -> float:
        """Create, write, close and rename that many files; how long one took."""

    def take(self, count: int, size_bytes: int) -> float:
        """Rename, open, read, close and unlink the files of the last `send`; how long one took."""

    def ping(self, count: int) -> list[float] | None:
        """Round trips of one byte between two processes through two FIFOs; None where there is no FIFO or no fork."""


def make(folder: Path, build: Path, say: Callable[[str], None]) -> Floor:
    """A floor in `folder`; the compiled program goes to `build`, or beside the folder where that cannot execute."""
    for part in ("tmp", "inbox", "claimed"):
        (folder / part).mkdir()
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if os.name != "posix" or compiler is None:
        say("no C compiler here: the floor is bare Python")
        return PythonFloor(folder)
    problem = ""
    for place in (build, folder):  # either may be mounted so that nothing in it can be executed
        program = place / "floor"
        try:
            _compile(compiler, program)
            found = CFloor(folder, program)
            found.take(0, 0)
        except (OSError, subprocess.SubprocessError) as error:
            problem = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
            continue
        return found
    say(f"{compiler} gave no program that runs ({problem}): the floor is bare Python")
    return PythonFloor(folder)


def _compile(compiler: str, program: Path) -> None:
    command = [*compiler.split(), "-O2", "-o", str(program), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)


class CFloor:
    """See the module."""

    language = "C"

    def __init__(self, folder: Path, program: Path) -> None:
        self._folder = folder
        self._program = program

    def send(self, count: int, size_bytes: int) -> float:
        return self._run("send", count, size_bytes)[0] / max(1, count)

    def take(self, count: int, size_bytes: int) -> float:
        return self._run("take", count, size_bytes)[0] / max(1, count)

    def ping(self, count: int) -> list[float] | None:
        return self._run("ping", count)

    def _run(self, what: str, *numbers: int) -> list[float]:
        command = [str(self._program), what, str(self._folder), *map(str, numbers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)
        return [float(line) for line in done.stdout.split()]


class PythonFloor:
    """See the module. Folders are descriptors where the host allows that."""

    language = "bare Python"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []

    def send(self, count: int, size_bytes: int) -> float:
        data = b"x" * size_bytes
        self._names = [f"{n:016d}~n~bench-a~1.0123456789.{n}~1.json" for n in range(count)]
        with self._open("tmp") as (at_tmp, tmp), self._open("inbox") as (at_inbox, inbox):
            began = time.perf_counter_ns()
            for name in self._names:
                fd = os.open(at_tmp + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600, dir_fd=tmp)
                os.write(fd, data)
                os.close(fd)
                os.rename(at_tmp + name, at_inbox + name, src_dir_fd=tmp, dst_dir_fd=inbox)
            return (time.perf_counter_ns() - began) / max(1, count)

    def take(self, count: int, size_bytes: int) -> float:
        pairs = [(name, f"{name}~0123456789~0123456789012345.json") for name in self._names[:count]]
        with self._open("inbox") as (at_inbox, inbox), self._open("claimed") as (at_claimed, claimed):
            began = time.perf_counter_ns()
            for name, mine in pairs:
                os.rename(at_inbox + name, at_claimed + mine, src_dir_fd=inbox, dst_dir_fd=claimed)
                fd = os.open(at_claimed + mine, os.O_RDONLY | _BINARY, dir_fd=claimed)
                os.read(fd, size_bytes + 1)
                os.close(fd)
                os.unlink(at_claimed + mine, dir_fd=claimed)
            return (time.perf_counter_ns() - began) / max(1, count)

    def ping(self, count: int) -> list[float] | None:
        if not hasattr(os, "mkfifo") or not hasattr(os, "fork"):
            return None
        there, back = str(self._folder / "there"), str(self._folder / "back")
        os.mkfifo(there, 0o600)
        os.mkfifo(back, 0o600)
        other = os.fork()
        if other == 0:
            _echo(there, back)
        out, into = os.open(there, os.O_WRONLY), os.open(back, os.O_RDONLY)
        try:
            times = []
            for _ in range(count):
                began = time.perf_counter_ns()
                os.write(out, b"x")
                os.read(into, 1)
                times.append(float(time.perf_counter_ns() - began))
        finally:
            os.close(out)
            os.close(into)
            os.waitpid(other, 0)
            os.unlink(there)
            os.unlink(back)
        return times

    @contextlib.contextmanager
    def _open(self, part: str) -> Iterator[tuple[str, int | None]]:
        """The prefix of names in that folder, and its descriptor."""
        path = str(self._folder / part)
        if os.open not in os.supports_dir_fd:
            yield path + os.sep, None
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            yield "", fd
        finally:
            os.close(fd)


def _echo(there: str, back: str) -> None:
    """The other process: ends when the first one closes its end."""
    try:
        into, out = os.open(there, os.O_RDONLY), os.open(back, os.O_WRONLY)
        while byte := os.read(into, 1):
            os.write(out, byte)
    finally:
        os._exit(0)
