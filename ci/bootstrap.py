"""`python3 noxfile.py ...` on a machine that has no nox: make a private environment, then be nox.

Needs Python >= 3.11 and either its venv module or pip; the standard library only. Guarantees:

* An environment under ``.nox/`` is used only once it is whole: it is built under a temporary name and put in place by one
  rename, so Ctrl-C or a kill leaves nothing that a later run could take for good. Builders take turns (a file lock).
* Nothing outside the checkout is written; the system's Python is not installed into (PEP 668).
* What cannot work ends in one line that names the mend, with exit code 5 (this environment is unfit).

Ways, in order; the first that this Python can go is gone:

1. ``venv`` with its own pip (Debian: python3-venv).
2. ``venv --without-pip``, filled by this Python's pip through ``pip --python`` (Debian: python3-pip without python3-venv).
3. pip brings ``virtualenv`` into a folder of its own, which makes the environment: a Python without the venv module.

Cost: 5-10 s the first time, 40 ms afterwards. The syntax stays readable for old Pythons, so that they get the line too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

if False:  # typing.TYPE_CHECKING without its import: 4 ms on every start
    from collections.abc import Iterator, Sequence
    from typing import IO

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
UNFIT = 5  # cfn.errors.Exit.UNFIT; cfn itself cannot be imported before its dependencies are there


class Unfit(Exception):
    """This machine cannot carry it; the text is the one line that says why and what to do."""


def main(argv: Sequence[str]) -> int:
    """Run nox with these arguments; returns its exit code (on POSIX this process becomes nox and does not return)."""
    try:
        check_python()
        requirement = wanted()
        python = sys.executable if has_nox(requirement) else environment(requirement)
    except Unfit as problem:
        print(f"cfn: {problem}", file=sys.stderr)
        return UNFIT
    except KeyboardInterrupt:
        print("cfn: interrupted; the next run starts the environment afresh", file=sys.stderr)
        return 130
    env = {**os.environ, "PIP_USER": "0"}  # a person's `user = true` for pip fails inside environments
    command = [python, "-P", "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *argv]
    if os.name == "posix":
        os.execve(command[0], command, env)
    return subprocess.call(command, env=env)  # Windows' exec would not wait


def check_python() -> None:
    """Raises Unfit, naming a newer Python of this machine where there is one."""
    if sys.version_info >= OLDEST:
        return
    newer = [name for name in ("python3.%d" % minor for minor in range(20, OLDEST[1] - 1, -1)) if shutil.which(name)]
    mend = "run `%s noxfile.py ...`" % newer[0] if newer else "install python3.11 or newer"
    raise Unfit("needs Python >= 3.11, and %s is %d.%d: %s" % (sys.executable, *sys.version_info[:2], mend))


def wanted() -> str:
    """The requirement on nox, out of pyproject.toml's dependency group of that name."""
    import tomllib

    path = ROOT / "pyproject.toml"
    try:
        (requirement,) = tomllib.loads(path.read_text("utf-8"))["dependency-groups"]["nox"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        said = f"{type(problem).__name__}: {problem}"
        raise Unfit(
            f"{path} must have a dependency group `nox` with one requirement ({said}): mend that file"
        ) from problem
    return str(requirement)


def has_nox(requirement: str) -> bool:
    """Whether this very Python can import a nox that is new enough (Debian 12's own package is not)."""
    if importlib.util.find_spec("nox") is None:
        return False
    from importlib.metadata import PackageNotFoundError, version

    def number(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdigit()]

    try:
        return number(version("nox")) >= number(requirement.partition(">=")[2])
    except PackageNotFoundError:
        return False


def environment(requirement: str) -> str:
    """The Python of the private environment: the one that is there, or a new one. Raises Unfit."""
    identity = f"{os.path.realpath(sys.executable)} {sys.version} {requirement}"
    name = "bootstrap-%d.%d-%s" % (*sys.version_info[:2], hashlib.sha256(identity.encode()).hexdigest()[:8])
    folder = ROOT / ".nox" / name
    try:
        folder.parent.mkdir(exist_ok=True)
        if not os.access(folder.parent, os.W_OK):  # nox would find out later, in a traceback
            raise PermissionError(errno.EACCES, "no right to write", str(folder.parent))
        if not folder.is_dir():
            with turn(folder.parent / "bootstrap.lock"):
                if not folder.is_dir():
                    build(folder, requirement)
    except OSError as problem:
        raise Unfit(unwritable(folder.parent, problem)) from problem
    return str(python_of(folder))


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def build(folder: Path, requirement: str) -> None:
    """Make `folder` whole or not at all. The caller holds the turn, so leftovers of a killed builder are ours to remove."""
    for leftover in folder.parent.glob("bootstrap-*.part"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = folder.with_name(f"{folder.name}-{os.getpid()}.part")
    log = folder.parent / "bootstrap.log"
    way = choose()
    print(f"cfn: making a private environment for nox in {folder} (once)", file=sys.stderr)
    try:
        with log.open("w", encoding="utf-8") as output:
            fill(part, way, requirement, output)
        os.rename(part, folder)  # commit point: from here on it is whole
    except subprocess.CalledProcessError as problem:
        raise Unfit(explain(problem, log)) from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def choose() -> str:
    """The first way of the module's list that this Python can go. Raises Unfit."""
    venv, ensurepip, pip = (importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip", "pip"))
    if venv and ensurepip:
        return "venv"
    if pip:
        return "venv and this pip" if venv else "virtualenv"
    raise Unfit(
        f"{sys.executable} has neither its venv module nor pip: install one of them "
        "(Debian, Ubuntu: apt install python3-venv)"
    )


def fill(part: Path, way: str, requirement: str, output: IO[str]) -> None:
    """Make the environment and put nox into it. Raises CalledProcessError."""

    def run(*arguments: str) -> None:
        env = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        subprocess.run(arguments, stdout=output, stderr=subprocess.STDOUT, env=env, check=True)

    this, new = sys.executable, str(python_of(part))
    if way == "venv":
        run(this, "-m", "venv", str(part))
        run(new, "-m", "pip", "install", requirement)
    elif way == "venv and this pip":
        run(this, "-m", "venv", "--without-pip", str(part))
        run(this, "-m", "pip", "--python", new, "install", requirement)
    else:
        maker = str(part / "virtualenv")
        run(this, "-m", "pip", "install", "--target", maker, "virtualenv")
        start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from virtualenv.__main__ import run; run()"
        run(this, "-c", start, maker, str(part))
        run(new, "-m", "pip", "install", requirement)


def explain(problem: subprocess.CalledProcessError, log: Path) -> str:
    """One line out of what a failed command said: its last error, and the mend where it is known."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    said = errors[-1] if errors else f"exit code {problem.returncode}"
    if "No space left on device" in " ".join(lines):
        mend = "make room on the disk of this checkout"
    elif " -m pip " in f" {' '.join(map(str, problem.cmd))} ":
        mend = "let pip reach a package index (PIP_INDEX_URL, PIP_CERT, https_proxy) or a wheel folder (PIP_FIND_LINKS)"
    else:
        mend = "repair Python's venv module (Debian, Ubuntu: apt install python3-venv)"
    return f"could not install nox: {said}; {mend}; all output is in {log}"


def unwritable(folder: Path, problem: OSError) -> str:
    """The line for a checkout or an environment folder that refuses to be written."""
    why = problem.strerror or str(problem)
    if folder.is_dir() and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        return f"cannot write in {folder} ({why}), it belongs to user id {folder.stat().st_uid}: remove it, or be that user"
    return f"cannot write {problem.filename or folder} ({why}): clone the repository to a folder that you may write"


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel frees it when this process ends, however it ends."""
    with path.open("a+b") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            import msvcrt

            while True:  # LK_LOCK gives up after ten tries of one second
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:
                    continue
        yield
