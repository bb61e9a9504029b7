"""Child processes of a coordinator: forked warm where that is possible, spawned where not; each ends with its parent.

A child gets a lifeline: the reading end of a pipe whose writing end only the parent holds. When the parent dies, however it
dies, the kernel closes it and the child's poll wakes with a hang-up. Each forked child leads its own process group, so that
everything which it started can be ended with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from cfn.errors import CfnError

#: How long the rest of a killed process group may need to vanish before we go on.
GROUP_WAIT_S: Final = 2.0
Main = Callable[..., None]


class Lifeline:
    """The parent's end. Children inherit the other one; forked children close this one first thing."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def close(self) -> None:
        for fd in (self.read_fd, self.write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


class Child:
    """One child process, as its parent sees it."""

    __slots__ = ("code", "name", "pid", "popen")

    def __init__(self, name: str, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.pid = pid
        self.popen = popen
        self.code: int | None = None

    def reaped(self, code: int) -> None:
        self.code = code
        if self.popen is not None:
            self.popen.returncode = code
            if self.popen.stdin is not None:
                self.popen.stdin.close()

    def kill(self) -> None:
        """SIGKILL for it and everything in its group."""
        if self.code is None:
            kill_group(self.pid)
            if os.name != "posix" and self.popen is not None:
                self.popen.kill()


def _not_for_us(signum: int, frame: object) -> None:
    """The run's owner answers Ctrl-C. Not SIG_IGN: that a command would inherit, this it does not (execve(2))."""


def fork_child(name: str, lifeline: Lifeline, main: Main, *args: Any) -> Child:
    """Fork; in the child: `main(lifeline fd, *args)`, then the process ends without the parent's exit handlers."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # both sides set it: whoever is first
            os.setpgid(pid, pid)
        return Child(name, pid)
    code = 1
    try:
        os.close(lifeline.write_fd)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, _not_for_us)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()  # the parent froze its heap: a collection would copy it page by page
        main(lifeline.read_fd, *args)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the last frame of this process: whatever it was is printed
        code = _tell(name, error)
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def _tell(name: str, error: BaseException) -> int:
    """Say on stderr why a child ends: one line for what the system or cfn refused, a traceback for a defect. Its exit code."""
    if isinstance(error, (CfnError, OSError)):
        with contextlib.suppress(OSError):
            print(f"cfn: {name} ends: {error}", file=sys.stderr)
        return int(error.exit_code) if isinstance(error, CfnError) else 1
    import traceback

    traceback.print_exc()
    return 1


def spawn_child(name: str, main: Main, *args: Any) -> Child:
    """Start a fresh interpreter that runs `main(lifeline fd, *args)`; everything must pickle. Its lifeline is its stdin."""
    data = pickle.dumps((sys.path, pickle.dumps((main, args))))  # the path first: the rest is imported from it
    popen = subprocess.Popen(
        [sys.executable, "-m", "cfn.swarm.children"],
        stdin=subprocess.PIPE,
        process_group=0 if os.name == "posix" else None,
    )
    assert popen.stdin is not None
    popen.stdin.write(struct.pack("!Q", len(data)) + data)
    popen.stdin.flush()
    return Child(name, popen.pid, popen)


def _spawned() -> None:
    size = struct.unpack("!Q", _read_exactly(0, 8))[0]
    sys.path[:], inner = pickle.loads(_read_exactly(0, size))
    main, args = pickle.loads(inner)
    signal.signal(signal.SIGINT, _not_for_us)
    if not hasattr(select, "poll"):
        import threading

        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        main(0, *args)
    except Exception as error:  # noqa: BLE001 - as in fork_child
        sys.exit(_tell("an agent", error))


def _end_with_parent() -> None:
    """Where the loop cannot poll its lifeline, a thread reads it: nothing ever comes but its end."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            os._exit(1)  # the parent died while it told us what to do
        data += more
    return bytes(data)


def reap(children: dict[int, Child]) -> list[Child]:
    """The children that ended since the last call, their process groups killed, their `code` set (negative: signal).

    Asks the kernel for any child, so that a thousand of them cost no more than one: for processes that have no others.
    """
    if os.name != "posix":
        return reap_only(children)
    ended: list[Child] = []
    while children:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            break
        if found is None:
            break
        kill_group(found.si_pid)  # before the pid is free for another: whatever it left behind
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(found.si_pid, 0)
            if found.si_pid in children:
                child = children.pop(found.si_pid)
                child.reaped(os.waitstatus_to_exitcode(status))
                ended.append(child)
    return ended


def reap_only(children: dict[int, Child]) -> list[Child]:
    """As :func:`reap`, asking for these children alone: a program that uses a swarm may have others of its own."""
    ended: list[Child] = []
    for child in list(children.values()):
        if child.popen is not None:
            code = child.popen.poll()
        else:
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except (
                ChildProcessError
            ):  # the program ignores SIGCHLD or reaps all its children: it ended, nobody knows how
                child.reaped(0)
                ended.append(children.pop(child.pid))
                continue
            code = os.waitstatus_to_exitcode(status) if pid else None
        if code is not None:
            kill_group(child.pid)
            child.reaped(code)
            ended.append(children.pop(child.pid))
    return ended


def kill_group(pgid: int) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, signal.SIGKILL)


def group_is_gone(pgid: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return True  # the number belongs to somebody else now
    return False


def hung_up(fd: int) -> bool:
    """Whether the other end of the lifeline was closed."""
    if not hasattr(select, "poll"):
        return False
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(0))


def wait_for_end(children: dict[int, Child], timeout_s: float) -> list[Child]:
    """Reap until all ended or the time is over; then SIGKILL the rest and reap them. Only these children."""
    end = time.monotonic() + timeout_s
    ended: list[Child] = []
    while children:
        ended += reap_only(children)
        if not children:
            break
        if time.monotonic() >= end:
            for child in children.values():
                child.kill()
            end = time.monotonic() + 1.0
        time.sleep(0.002)
    return ended


if __name__ == "__main__":
    _spawned()
