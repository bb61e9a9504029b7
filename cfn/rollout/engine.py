"""The container engine: does one answer, start one, and take away everything that we left in it.

Guarantees: :func:`start` returns with an engine that answers, or raises :class:`NoEngine` whose one line says why and
the mend. The engine that it starts outlives this process: its own session, no terminal, its output in a log file.
:func:`sweep` removes only what carries our label.

Steps of :func:`start`: ask; install Debian's ``docker.io`` where apt and root are at hand and dockerd is not; hand over
to systemd where that runs the host; else remove pid files whose process is gone (dockerd refuses to start on them, also
when the number now belongs to somebody else) and start dockerd; ask until the deadline, or until dockerd has ended.

Standard library only: ``.ci/run`` runs this file by its path before anything is installed. It speaks through the
``docker`` command, which knows the contexts, sockets and keys of its user. Asking costs 40 ms, a start 0.5-2 s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

if not __package__:  # run by its path: the folder above `cfn` instead of this one
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cfn.errors import CfnError, Exit, UnfitHost

#: On every container, network, volume and image that cfn makes.
OWNER_LABEL: Final = "org.cfn-swarm.owner"
OWNER: Final = "cfn"
#: Beside it: which run made it, so that a run sweeps its own and leaves a neighbour's alone.
RUN_LABEL: Final = "org.cfn-swarm.run"

ANSWER_TIMEOUT_S: Final = 10.0  # a healthy engine answers in 40 ms; one under load took 3 s
START_TIMEOUT_S: Final = 60.0  # 2 s here; a first start on a slow disk makes its storage
APT_TIMEOUT_S: Final = 600.0
#: Where dockerd and the containerd under it note their process, and that process's name.
PID_FILES: Final = (
    (Path("/var/run/docker.pid"), "dockerd"),
    (Path("/var/run/docker/containerd/containerd.pid"), "containerd"),
)
#: Where a dockerd that we start writes, the first that can be written.
LOG_FOLDERS: Final = (Path("/var/log"), Path(tempfile.gettempdir()))
#: There when systemd runs this host; then it starts services, nobody else.
SYSTEMD: Final = Path("/run/systemd/system")
SWEEP_PATIENCE_S: Final = 15.0  # for removals that another sweep has begun: under load one took 4 s
KINDS: Final = ("container", "network", "volume", "image")

Say = Callable[[str], None]


class NoEngine(UnfitHost):
    """No container engine answers. The message is one line: why, and the mend."""


class EngineError(CfnError):
    """The engine refused a command, or did not finish it. The message is one line: which, and its last words."""

    retry = "unknown"


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of the engine. `detail` is its version where it answers, else why it does not."""

    answers: bool
    detail: str


def status(timeout_s: float = ANSWER_TIMEOUT_S) -> Status:
    """Ask the engine for its version; never raises."""
    if shutil.which("docker") is None:
        return Status(False, "the docker command is not installed")
    try:
        asked = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return Status(False, f"the engine did not answer within {timeout_s:g} s")
    except OSError as error:
        return Status(False, f"the docker command does not run: {error}")
    if asked.returncode == 0 and asked.stdout.strip():
        return Status(True, asked.stdout.strip())
    return Status(False, _last_line(asked.stderr) or f"docker version ended with {asked.returncode}")


def need(say: Say = lambda line: None) -> None:
    """Raise :class:`NoEngine` unless an engine answers now."""
    found = status()
    if not found.answers:
        raise NoEngine(
            f"no container engine answers ({found.detail}): start one with python -m cfn.rollout.engine start"
        )
    say(f"container engine: docker {found.detail}")


def docker(*arguments: str, timeout_s: float = 120.0, stdin: bytes = b"") -> str:
    """Run one docker command; its stdout. Raises: :class:`EngineError`."""
    try:
        ran = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise EngineError(f"docker {arguments[0]} did not finish within {timeout_s:g} s") from None
    except OSError as error:
        raise EngineError(f"docker {arguments[0]} does not run: {error}") from None
    if ran.returncode != 0:
        raise EngineError(f"docker {arguments[0]} failed: {_last_line(ran.stderr.decode(errors='replace'))}")
    return ran.stdout.decode(errors="replace")


# ---------------------------------------------------------------- start


def start(timeout_s: float = START_TIMEOUT_S, say: Say = lambda line: None) -> Status:
    """Make sure that an engine answers. Raises: :class:`NoEngine`."""
    found = status()
    if found.answers:
        return found
    if "permission denied" in found.detail.lower():
        raise NoEngine("a container engine runs, but not for you: join the group docker (or be root) and log in again")
    endpoint = os.environ.get("DOCKER_HOST", "")
    if endpoint and not endpoint.startswith("unix://"):
        raise NoEngine(f"no container engine answers at DOCKER_HOST={endpoint}: start it there, or unset DOCKER_HOST")
    _need_programs(say)
    if os.geteuid() != 0:
        raise NoEngine("dockerd is installed, not running, and only root can start it: sudo systemctl start docker")
    with alone("engine"):
        found = status()  # whoever was alone before us may have started it
        if found.answers:
            return found
        if SYSTEMD.is_dir():
            return _start_unit(timeout_s)
        return _start_daemon(timeout_s, say)


def _need_programs(say: Say) -> None:
    """dockerd and docker are installed, by apt where that is possible. Raises: :class:`NoEngine`."""
    if os.name != "posix" or not sys.platform.startswith("linux"):
        raise NoEngine("no container engine answers: start Docker Desktop (or another engine) and try again")
    for program, package in (("dockerd", "docker.io"), ("docker", "docker-cli")):
        if not find(program):
            install(program, [package], say)


def find(program: str) -> str | None:
    """`program` on PATH or where administrators' programs are, which are not on every PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def install(program: str, packages: Sequence[str], say: Say = lambda line: None) -> None:
    """Install what brings `program` with apt. Raises: :class:`~cfn.errors.UnfitHost` (no apt, not root, apt failed)."""
    mend = f"as root: apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise UnfitHost(f"{program} is not installed, nor apt-get to install it with: install it and try again")
    if os.geteuid() != 0:
        raise UnfitHost(f"{program} is not installed; {mend}")
    say(f"installing {' '.join(packages)} with apt")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        try:
            ran = subprocess.run(
                ["apt-get", "-q", *command],
                capture_output=True,
                text=True,
                timeout=APT_TIMEOUT_S,
                env=env,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise UnfitHost(f"apt-get {command[0]} did not finish within {APT_TIMEOUT_S:g} s; {mend}") from None
        if ran.returncode != 0 and command[0] == "install":  # a failed update may still leave a usable list
            raise UnfitHost(f"apt-get could not install {' '.join(packages)}: {_last_line(ran.stderr)}")
    if not find(program):
        raise UnfitHost(f"{' '.join(packages)} is installed and brought no {program}: install {program} and try again")


def _start_unit(timeout_s: float) -> Status:
    try:
        ran = subprocess.run(["systemctl", "start", "docker"], capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEngine(f"systemctl start docker failed: {error}") from None
    if ran.returncode != 0:
        raise NoEngine(f"systemctl start docker failed: {_last_line(ran.stderr)}")
    return _wait(time.monotonic() + timeout_s, None, None)


def _start_daemon(timeout_s: float, say: Say) -> Status:
    for path, name in PID_FILES:
        heal_pid_file(path, name, say)
    daemon: subprocess.Popen[bytes] | None = None
    log = None
    if _running(PID_FILES[0][0], "dockerd") is None:
        log = _log_path()
        with log.open("wb") as out:
            daemon = subprocess.Popen(
                [find("dockerd") or "dockerd"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
            )
        say(f"dockerd started (process {daemon.pid}, log {log})")
    return _wait(time.monotonic() + timeout_s, daemon, log)


def _wait(deadline: float, daemon: subprocess.Popen[bytes] | None, log: Path | None) -> Status:
    """Ask until it answers. The daemon is ours to take away again only where it never answered."""
    pause_s = 0.05
    while True:
        found = status(max(1.0, min(ANSWER_TIMEOUT_S, deadline - time.monotonic())))
        if found.answers:
            if daemon is not None:
                daemon.returncode = 0  # it is meant to outlive us: no warning about a child that still runs
            return found
        where = f" (log: {log})" if log else ""
        if daemon is not None and daemon.poll() is not None:
            raise NoEngine(f"dockerd ended at once with {daemon.returncode}: {_reason(log)}{where}")
        if time.monotonic() >= deadline:
            if daemon is not None:
                daemon.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(10.0)
            raise NoEngine(f"the container engine did not answer in time: {found.detail}{where}")
        time.sleep(pause_s)
        pause_s = min(0.5, pause_s * 1.5)


def heal_pid_file(path: Path, name: str, say: Say = lambda line: None) -> bool:
    """Remove `path` unless a living process called `name` is noted in it. True where it was removed."""
    if not path.exists() or _running(path, name) is not None:
        return False
    path.unlink(missing_ok=True)
    say(f"removed the stale {path}")
    return True


def _running(path: Path, name: str) -> int | None:
    """The pid noted in `path`, if that is a living process of that name (pids are given out again)."""
    try:
        pid = int(path.read_text().split()[0])
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return pid if comm == name and state not in "ZX" else None


def _log_path() -> Path:
    for folder in LOG_FOLDERS:
        if os.access(folder, os.W_OK):
            return folder / "cfn-dockerd.log"
    raise NoEngine(f"dockerd needs a place for its log, and none is writable: {', '.join(map(str, LOG_FOLDERS))}")


def _reason(log: Path | None) -> str:
    text = log.read_text(errors="replace") if log else ""
    fatal = [line for line in text.splitlines() if "failed to start" in line or "level=fatal" in line]
    return (fatal or [_last_line(text)])[-1].strip() or "it said nothing"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One process of this user at a time in what is called `name`; where there are no such locks, everybody."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = Path("/run")
    if not os.access(folder, os.W_OK):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"cfn-{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- sweep


def sweep(images: bool = False, run: str | None = None) -> dict[str, int]:
    """Remove our containers, networks and volumes (and images), of one run or of all; how many of each.

    Names that vanish meanwhile are somebody else's sweep. Raises: :class:`EngineError` where the engine refuses.
    """
    label = f"{OWNER_LABEL}={OWNER}" if run is None else f"{RUN_LABEL}={run}"
    return {kind: _sweep_kind(kind, label) for kind in (KINDS if images else KINDS[:-1])}


def _sweep_kind(kind: str, label: str) -> int:
    force = {"container": ["--force", "--volumes"], "volume": ["--force"], "image": ["--force"]}.get(kind, [])
    found = left = _labelled(kind, label)
    until = time.monotonic() + SWEEP_PATIENCE_S
    while left:
        reason = ""
        try:
            docker(kind, "rm", *force, *left)
        except EngineError as error:  # an image that others are made from goes in the next round
            reason = str(error)
        before, left = left, _labelled(kind, label)
        if left and len(left) >= len(before):
            if time.monotonic() >= until or "in progress" not in reason:
                raise EngineError(f"could not remove {kind} {', '.join(left)}: {reason}")
            time.sleep(0.1)  # somebody else is removing it
    return len(found)


def _labelled(kind: str, label: str) -> list[str]:
    every = ["--all"] if kind == "container" else []
    return sorted(set(docker(kind, "ls", *every, "--quiet", "--filter", f"label={label}").split()))


# ---------------------------------------------------------------- by hand


def main(arguments: Sequence[str] | None = None) -> int:
    """``start``, ``status`` or ``sweep``; the exit code (5: no engine)."""
    parser = argparse.ArgumentParser(prog="python -m cfn.rollout.engine", description="This host's container engine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    starting = verbs.add_parser("start", help="make sure that an engine answers; 5 and one line where it cannot")
    starting.add_argument("--timeout", type=float, default=START_TIMEOUT_S, metavar="S", help="deadline, %(default)g s")
    verbs.add_parser("status", help="whether an engine answers: 0, else 5")
    sweeping = verbs.add_parser("sweep", help=f"remove what carries the label {OWNER_LABEL}={OWNER}")
    sweeping.add_argument("--images", action="store_true", help="images too (they are rebuilt when needed)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "sweep":
            return _sweep_by_hand(chosen.images)
        found = start(chosen.timeout, _to_stderr) if chosen.verb == "start" else status()
        if not found.answers:
            raise NoEngine(f"no container engine answers: {found.detail}")
        print(f"docker {found.detail} answers")
        return Exit.OK
    except CfnError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _sweep_by_hand(images: bool) -> int:
    found = status()
    if not found.answers:
        print(f"no container engine answers ({found.detail}): nothing to sweep")
        return 0
    removed = sweep(images)
    print("removed " + ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in removed.items()))
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
