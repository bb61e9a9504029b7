"""A command as an agent: started, fed, read and ended without blocking the loop that runs it.

Steps: stdin is filled before the start (a pipe when it fits into one, else an unnamed file), so there is nothing to
feed and a command that never reads cannot block us; stdout and stderr are non-blocking pipes, read as they come; the
end is told by a pidfd, where there is none by asking. After the end, what is in the pipes is read; a stray descendant
that still holds them open is waited for at most ``DRAIN_S``. A timeout is SIGTERM to the command and its descendants,
SIGKILL after the grace.

Where pipes cannot be polled (Windows), the same job captures into unnamed files and asks for the end.

Cost: 1.3-1.6 ms for ``/bin/true``, nearly all of it the kernel's; 0.2 ms of it is our own CPU time.
``os.posix_spawn`` by hand would save 0.1 ms of that and cannot change the folder: not worth a second path.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

from cfn.swarm.capture import Output, Tail
from cfn.swarm.job import GRACE_S, JobStatus, Outcome
from cfn.swarm.kin import Kin, open_pidfd
from cfn.swarm.starting import file_of, filled, group_options, signal_name, unnamed, why_not

#: How long a descendant that holds stdout open after the command ended is waited for.
DRAIN_S: Final = 0.25
#: A process that SIGKILL did not end by then sits in the kernel; the worker gives it up (`must_exit`).
KILL_WAIT_S: Final = 2.0
#: Pause between two looks at a process without a pidfd.
LOOK_S: Final = 0.02
#: Most that one step reads from one pipe: 1 MiB is hashed and written in 5 ms, so the heartbeat keeps its second.
_STEP_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16
POLLABLE_PIPES: Final = os.name == "posix"


class CommandJob:
    """One attempt at one task by a command (a list of arguments; never a shell). See :class:`~cfn.swarm.job.Job`.

    `parse` False keeps the text as it was written. `keep_dir`: a folder for files `stdout` and `stderr`, whole. `process_group`: None stays in the caller's group, 0 makes an own
    one. The caller must not reap children by ``waitpid(-1)``.
    """

    def __init__(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout_s: float | None = None,
        limit_bytes: int = 1 << 20,
        spill_dir: str | os.PathLike[str] = ".",
        task_id: str = "task",
        *,
        parse: bool = True,
        keep_dir: str | None = None,
        process_group: int | None = None,
        grace_s: float = GRACE_S,
        pidfd: bool = True,
        pipes: bool = POLLABLE_PIPES,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._argv = list(argv)
        self._stdin = stdin
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        self._timeout_s = timeout_s
        self._parse = parse
        self._group = process_group
        self._grace_s = grace_s
        self._use_pidfd, self._use_pipes = pidfd, pipes
        self._clock, self._wall = clock, wall
        self._limit_bytes, self._spill_dir, self._task_id, self._keep_dir = limit_bytes, spill_dir, task_id, keep_dir
        self._output, self._tail = self._sinks(None)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._streams: dict[int, Output | Tail] = {}  # open pipes, and who takes what comes out of them
        self._files: list[tuple[IO[bytes], Output | Tail]] = []
        self._kin: Kin | None = None
        self._why: JobStatus | None = None  # why we stop it
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._began = self._clock()
        self._started_at = self._wall()
        self._ended: float | None = None
        self._outcome: Outcome | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    # ------------------------------------------------------------ the Job protocol

    def start(self) -> None:
        self._began, self._started_at = self._clock(), self._wall()
        if self._keep_dir is not None:
            self._output, self._tail = self._sinks(self._keep_dir)
        try:
            self._spawn()
        except (OSError, ValueError) as error:
            code, reason = why_not(error, self._argv, self._env, self._cwd)
            self._outcome = self._made("failed", code, reason)
            self._close()

    def fds(self) -> list[int]:
        out = list(self._streams)
        if self._pidfd is not None and self._ended is None:
            out.append(self._pidfd)
        return out

    def due_s(self) -> float | None:
        if self._outcome is not None:
            return 0.0
        now = self._clock()
        times: list[float] = []
        if self._ended is not None:
            times.append(self._ended + DRAIN_S)
        elif self._killed_at is not None:
            times.append(self._killed_at + KILL_WAIT_S)
        elif self._kill_at is not None:
            times.append(self._kill_at)
        elif self._timeout_s is not None:
            times.append(self._began + self._timeout_s)
        if self._pidfd is None and self._ended is None:
            times.append(now + LOOK_S)
        return max(0.0, min(times) - now) if times else None

    def step(self) -> Outcome | None:
        if self._outcome is not None or self._process is None:
            return self._outcome
        if self._ended is None:
            if self._process.poll() is None:
                self._read()
                self._enforce()
                return self._outcome
            self._ended = self._clock()
        self._read()
        if self._streams and self._clock() < self._ended + DRAIN_S:
            return None
        self._finish(self._process.returncode)
        return self._outcome

    def terminate(self, grace_s: float = GRACE_S) -> None:
        if self._outcome is not None:
            return
        if self._process is None:
            self._outcome = self._made("cancelled", None, "cancelled before it was started")
        elif self._process.poll() is None:
            self._stop("cancelled", grace_s)

    # ------------------------------------------------------------ start

    def _sinks(self, folder: str | None) -> tuple[Output, Tail]:
        out, err = (os.path.join(folder, "stdout"), os.path.join(folder, "stderr")) if folder else (None, None)
        return Output(self._limit_bytes, self._spill_dir, self._task_id, out), Tail(keep=err)

    def _spawn(self) -> None:
        stdin = filled(self._stdin) if POLLABLE_PIPES else file_of(self._stdin)
        ours: list[int] = []
        try:
            if self._use_pipes:
                (out, theirs_out), (err, theirs_err) = os.pipe(), os.pipe()
                ours = [theirs_out, theirs_err]
                self._streams = {out: self._output, err: self._tail}
                for fd in self._streams:
                    os.set_blocking(fd, False)
            else:
                self._files = [(unnamed(), self._output), (unnamed(), self._tail)]
                theirs_out, theirs_err = (file.fileno() for file, _ in self._files)
            self._process = subprocess.Popen(
                self._argv,
                stdin=stdin,
                stdout=theirs_out,
                stderr=theirs_err,
                env=self._env,
                cwd=self._cwd,
                close_fds=os.name != "posix",  # ours close on exec (PEP 446)
                **group_options(self._group),
            )
        finally:
            for fd in (stdin, *ours):
                os.close(fd)
        if self._use_pidfd:
            self._pidfd = open_pidfd(self._process.pid)

    # ------------------------------------------------------------ while it runs

    def _read(self) -> None:
        for fd, sink in list(self._streams.items()):
            taken = 0
            while taken < _STEP_BYTES:
                try:
                    data = os.read(fd, _READ_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    os.close(fd)
                    del self._streams[fd]
                    break
                taken += len(data)
                sink.write(data)

    def _enforce(self) -> None:
        now = self._clock()
        if self._killed_at is not None:
            if now >= self._killed_at + KILL_WAIT_S:
                self._outcome = self._made(
                    self._why or "failed", None, f"{self._told()}; SIGKILL did not end it", must_exit=True
                )
                self._close()
        elif self._kill_at is not None:
            if now >= self._kill_at:
                self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                self._killed_at = now
        elif self._timeout_s is not None and now >= self._began + self._timeout_s:
            self._stop("timeout", self._grace_s)

    def _stop(self, why: JobStatus, grace_s: float) -> None:
        if self._why is None:
            self._why = why
        now = self._clock()
        self._kill_at = min(self._kill_at or now + grace_s, now + grace_s)
        if grace_s > 0:
            self._signal(signal.SIGTERM)
            if os.name == "posix":
                self._signal(signal.SIGCONT)  # a stopped process would not see the first one
        else:
            self._enforce()

    def _signal(self, signum: int) -> None:
        assert self._process is not None
        if os.name != "posix":
            self._process.terminate()
            return
        if self._kin is None:
            self._kin = Kin(self._process.pid, own_group=self._group == 0)
        self._kin.signal(signum)

    # ------------------------------------------------------------ the end

    def _finish(self, code: int) -> None:
        if self._kin is not None and self._why is not None:
            self._kin.signal_descendants(signal.SIGKILL)
        for file, sink in self._files:
            file.seek(0)
            while data := file.read(_READ_BYTES):
                sink.write(data)
        if self._why is not None:
            self._outcome = self._made(self._why, code, self._told())
        elif code != 0:
            said = self._tail.last_line()
            what = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
            self._outcome = self._made("failed", code, f"{what}: {said}" if said else what)
        else:
            self._outcome = self._made("ok", code, None)
        self._close()

    def _told(self) -> str:
        return f"timeout after {self._timeout_s:g} s" if self._why == "timeout" else "cancelled while it ran"

    def _made(self, status: JobStatus, code: int | None, reason: str | None, *, must_exit: bool = False) -> Outcome:
        ran = self._process is not None
        value = self._output.value(self._parse) if ran else None
        if self._output.error is not None:
            status = "failed" if status == "ok" else status
            reason = f"{reason}; {self._output.error}" if reason else self._output.error
        return Outcome(
            status=status,
            result=value,
            exit_code=code,
            stderr_tail=self._tail.text(),
            reason=reason,
            output_path=self._output.path,
            output_sha256=self._output.sha256,
            output_bytes=self._output.size if ran else None,
            duration_s=(self._ended if self._ended is not None else self._clock()) - self._began,
            started_at=self._started_at,
            must_exit=must_exit,
        )

    def _close(self) -> None:
        for fd in self._streams:
            os.close(fd)
        self._streams = {}
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        for file, _ in self._files:
            file.close()
        self._files = []
        self._output.close()
        self._tail.close()
        if self._kin is not None:
            self._kin.close()


# ---------------------------------------------------------------- the blocking form


def run_command(
    argv: Sequence[str],
    task_json: bytes,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout_s: float | None = None,
    limit_bytes: int = 1 << 20,
    spill_dir: str | os.PathLike[str] = ".",
    *,
    task_id: str = "task",
    idle: Callable[[], None] | None = None,
    idle_s: float = 1.0,
) -> Outcome:
    """Run one command to its end, in a process group of its own; `idle` is called every `idle_s` (for a heartbeat).

    An exception while waiting (KeyboardInterrupt) ends the command first, then goes on.
    """
    job = CommandJob(argv, task_json, env, cwd, timeout_s, limit_bytes, spill_dir, task_id, process_group=0)
    job.start()
    try:
        return _wait(job, idle, idle_s)
    except BaseException:
        job.terminate(0.0)
        _wait(job, None, idle_s)
        raise


def _wait(job: CommandJob, idle: Callable[[], None] | None, idle_s: float) -> Outcome:
    while (outcome := job.step()) is None:
        due = job.due_s()
        pause = idle_s if due is None else min(due, idle_s)
        fds = job.fds()
        if fds and POLLABLE_PIPES:
            select.select(fds, [], [], pause) if max(fds) < 1024 else _poll(fds, pause)
        else:
            time.sleep(min(pause, LOOK_S))
        if idle is not None:
            idle()
    return outcome


def _poll(fds: list[int], pause: float) -> None:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    poller.poll(pause * 1000)
