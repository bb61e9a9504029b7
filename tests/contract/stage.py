"""A bus for a test and those who use it, the same words for every transport."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cfn
from cfn.bus import names
from cfn.bus.filebus import FileBus
from cfn.bus.memory import MemoryBus
from cfn.bus.protocol import Bus
from cfn.settings import TABLE, Settings, Value

from .actor import Actor

T = TypeVar("T")

#: Name of a transport -> capabilities that it must do without.
FILE_TRANSPORTS: dict[str, tuple[str, ...]] = {
    "file": (),
    "file-on-tmpfs": (),
    "file-without-doorbell": ("doorbell",),
    "file-without-dir_fd": ("dir_fd",),
    "file-without-ofd": ("ofd",),
    "file-without-flock": ("flock", "ofd"),
    "file-without-fast_depth": ("fast_depth",),
    "file-without-shm": ("shm",),
    "file-without-all": ("doorbell", "dir_fd", "flock", "ofd", "fast_depth", "shm"),
}
TRANSPORTS = ("memory", *FILE_TRANSPORTS)


def plain_settings(**flags: Any) -> Settings:
    """The defaults, whatever this machine's environment and files say."""
    return Settings({setting.name: Value(setting.default, "default") for setting in TABLE}).replace(**flags)


def eventually(look: Callable[[], T], what: str, within_s: float = 20.0) -> T:
    """Look until it is true; the test fails with the last state that was seen."""
    end = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {within_s} s: {what}; last seen: {seen!r}"
        time.sleep(0.002)


class HandClock:
    """Bus time in µs that moves only when a test says so, and by one µs a look (no two looks are simultaneous)."""

    def __init__(self) -> None:
        self.at = time.time_ns() // 1000

    def __call__(self) -> int:
        self.at += 1
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += int(seconds * 1e6)


class Elsewhere(Protocol):
    """A process other than ours, as an :class:`Actor`."""

    def tell(self, verb: str, **options: Any) -> Any: ...

    def start(self, verb: str, **options: Any) -> Future[Any]: ...

    def kill(self) -> None:
        """SIGKILL. Returns when it is dead."""


class Stage:
    """One bus on one transport. ``open()`` as often as there are processes in the story."""

    #: Whether the death of a holder shows at once, from the kernel (else by heartbeat, and claims by their lease).
    sees_death: bool

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self._opened: list[Bus] = []
        self._others: list[Elsewhere] = []
        self._threads = ThreadPoolExecutor(16)

    def open(self, *, clock: HandClock | None = None, **flags: Any) -> Bus:
        """A handle on the bus. `flags` are settings."""
        raise NotImplementedError

    def elsewhere(self, **flags: Any) -> Elsewhere:
        """Someone in another process (threads stand for processes in memory)."""
        raise NotImplementedError

    def lose(self, agent: str, sequence: int) -> None:
        """Make a waiting message vanish behind the bus's back."""
        raise NotImplementedError

    def meanwhile(self, call: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
        """Run it in a thread."""
        return self._threads.submit(call, *args, **options)

    def barrier(self, parties: int) -> threading.Barrier:
        return threading.Barrier(parties)

    def wait_until_dead(self, bus: Bus, agent: str) -> None:
        eventually(lambda: not bus.is_alive(agent), f"{agent} is known to be dead")

    def end(self) -> None:
        for other in self._others:
            other.kill()
        self._threads.shutdown(cancel_futures=True)
        for bus in self._opened:
            bus.close()

    def evidence(self) -> str:
        """What lies on the bus, for the report of a failed test."""
        lines = []
        for bus in self._opened[:1]:
            for info in bus.agents():
                boxes = {box: bus.count(info.agent, box) for box in ("inbox", "claimed", "dead")}
                lines.append(f"{info.agent} epoch {info.epoch} alive {info.alive}: {boxes}")
            lines += [f"dead letter: {letter.letter}" for letter in bus.dead()[:50]]
        return "\n".join(lines)


class MemoryStage(Stage):
    """Every handle is the same object."""

    sees_death = True

    def open(self, *, clock: HandClock | None = None, **flags: Any) -> MemoryBus:
        if not self._opened:
            self._opened.append(MemoryBus(plain_settings(**flags), clock=clock))
        bus = self._opened[0]
        assert isinstance(bus, MemoryBus)
        return bus

    def elsewhere(self, **flags: Any) -> Elsewhere:
        other = _InThisProcess(self.open(**flags), self)
        self._others.append(other)
        return other

    def lose(self, agent: str, sequence: int) -> None:
        box = self.open().box(agent)
        [parcel] = [parcel for parcel in box.parcels("inbox") if parcel.name.seq == sequence]
        box.shelf(parcel.name.lane).discard(parcel)


class _InThisProcess:
    def __init__(self, bus: MemoryBus, stage: Stage) -> None:
        self._bus = bus
        self._actor = Actor(bus)
        self._stage = stage

    def tell(self, verb: str, **options: Any) -> Any:
        return getattr(self._actor, verb)(**options)

    def start(self, verb: str, **options: Any) -> Future[Any]:
        return self._stage.meanwhile(self.tell, verb, **options)

    def kill(self) -> None:
        mailbox = self._actor.mailbox
        if (
            mailbox is not None
            and self._bus.is_alive(mailbox.agent)
            and self._bus.agent(mailbox.agent).epoch == mailbox.epoch
        ):
            self._bus.kill(mailbox.agent)


class FileStage(Stage):
    """Handles of their own on one folder; others are real processes."""

    def __init__(self, transport: str, root: Path | None) -> None:
        super().__init__(transport)
        self._flags = {"without": FILE_TRANSPORTS[transport]}
        self._given = root
        self.sees_death = "flock" not in self._flags["without"]

    @property
    def root(self) -> Path:
        return Path(self._first().root)

    def _first(self) -> FileBus:
        bus = self._opened[0]
        assert isinstance(bus, FileBus)
        return bus

    def open(self, *, clock: HandClock | None = None, **flags: Any) -> FileBus:
        bus = FileBus(self._given, plain_settings(**self._flags, **flags), clock=clock)
        self._opened.append(bus)
        return bus

    def elsewhere(self, **flags: Any) -> Elsewhere:
        root = self.root if self._opened else Path(self.open(**flags).root)
        other = _OtherProcess(root, {**self._flags, **flags}, self)
        self._others.append(other)
        return other

    def lose(self, agent: str, sequence: int) -> None:
        for folder in ("inbox", "control"):
            for path in (self.root / agent / folder).iterdir():
                name = names.parse(path.name)
                if name is not None and name.seq == sequence:
                    path.unlink()
                    return
        raise AssertionError(f"no message {sequence} waits at {agent}")

    def evidence(self) -> str:
        if not self._opened:
            return "no bus was opened"
        paths = sorted(path for path in self.root.rglob("*") if not path.is_dir())
        listed = [f"{path.relative_to(self.root)}" for path in paths[:40]]
        return "\n".join([super().evidence(), f"{len(paths)} files under {self.root}:", *listed])


class _OtherProcess:
    def __init__(self, root: Path, flags: dict[str, Any], stage: Stage) -> None:
        self._stage = stage
        program = Path(__file__).with_name("actor.py")
        package = str(Path(cfn.__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(root), json.dumps(flags)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": package},
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the other process ended with {self._process.wait(10)}; its stderr is above"
        return line.decode()

    def tell(self, verb: str, **options: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, options]).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def start(self, verb: str, **options: Any) -> Future[Any]:
        return self._stage.meanwhile(self.tell, verb, **options)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
