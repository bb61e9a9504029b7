"""README's two commands on machines where nobody has been: bare containers, root and an ordinary user, each command twice.

`nox -s newcomer`, or with a choice: `nox -s newcomer -- --machine debian --user root --command main`.

What a container has: the packages of its machine (the table below) and nothing else; no network, no added rights. What it
is given, as a stand-in for the internet: this checkout's HEAD to clone from, and a wheelhouse in place of a package index,
named by pip's environment variables alone. The commands are those of README, unchanged. After each command the clone must
be clean (what it made is git-ignored) and no process of it may live. Everything started carries cfn's label and is removed.

Needs a container engine, and the network on the host. Reports lie in reports/newcomer/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from cfn.errors import CfnError, Exit
from cfn.rollout import base_image, engine
from ci import cpython, readme

REPORTS = ROOT / "reports" / "newcomer"
GLIBC = 36  # Debian 12's minor version: which wheels its pip would take
USER = "newcomer"
LIMIT_S = 1200  # for one command, the first run on slow disks included


@dataclass(frozen=True)
class Machine:
    """A kind of fresh machine."""

    image: Callable[[], str]
    python: str  # for which wheels are gathered
    meaning: str


def say(line: str) -> None:
    print(f"newcomer: {line}", file=sys.stderr, flush=True)


def debian(*packages: str) -> Callable[[], str]:
    return lambda: base_image.ensure("cfn-newcomer-debian", ["git", "python3", *packages], say=say)


MACHINES = {
    "debian": Machine(debian("python3-venv"), "3.11", "Debian 12: git, python3, python3-venv"),
    "debian-pip": Machine(debian("python3-pip"), "3.11", "Debian 12: git, python3, python3-pip, but no venv"),
    "cpython": Machine(lambda: cpython.ensure(say), "3.13", "Debian 12: git and a plain CPython build with pip alone"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="newcomer", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--machine", action="append", choices=MACHINES, help="only this machine (repeatable; default: all)"
    )
    parser.add_argument("--user", action="append", choices=("root", "user"), help="only as this user")
    parser.add_argument("--command", action="append", choices=tuple(readme.COMMENTS), help="only this command")
    parser.add_argument("--runs", type=int, default=2, metavar="N", help="how often each command runs (default: 2)")
    chosen = parser.parse_args(arguments)
    try:
        commands = {
            name: line for name, line in readme.commands().items() if name in (chosen.command or readme.COMMENTS)
        }
        engine.need()
        failures = 0
        for name in chosen.machine or MACHINES:
            for user in chosen.user or ("root", "user"):
                failures += prove(name, user, commands, chosen.runs)
    except CfnError as error:
        say(str(error))
        return error.exit_code
    except ValueError as problem:  # README has not its shape
        say(str(problem))
        return Exit.ERROR
    return Exit.ERROR if failures else Exit.OK


def prove(name: str, user: str, commands: dict[str, str], runs: int) -> int:
    """Run the commands on a fresh machine of that kind; how many of the runs failed."""
    machine = MACHINES[name]
    say(f"{machine.meaning}, as {user}")
    with container(machine.image(), name) as box:
        furnish(box, machine, user)
        inside = Inside(box, USER if user == "user" else "root")
        inside.check("git clone --quiet /given/cfn.bundle cfn && git -C cfn log --oneline -1", "~")
        failures = 0
        for key, line in commands.items():
            for attempt in range(1, runs + 1):
                failures += not inside.prove(line, f"{name}-{user}-{key}-{attempt}")
    return failures


@contextmanager
def container(image: str, name: str) -> Iterator[str]:
    """A running container without a network and without added rights; removed at the end."""
    label = f"--label={engine.OWNER_LABEL}={engine.OWNER}"
    box = engine.docker("run", "--detach", "--init", label, "--network=none", image, "sleep", "infinity").strip()
    try:
        yield box
    finally:
        engine.docker("rm", "--force", "--volumes", box)


def furnish(box: str, machine: Machine, user: str) -> None:
    """Give the container the clone's source, the wheels, and the ordinary user."""
    with tempfile.TemporaryDirectory(prefix="cfn-newcomer-") as folder:
        given = Path(folder, "given")
        given.mkdir(mode=0o755)
        git("bundle", "create", "--quiet", str(given / "cfn.bundle"), "HEAD")
        shutil.copytree(wheelhouse(machine.python), given / "wheels")
        engine.docker("cp", str(given), f"{box}:/given")
    if user == "user":
        engine.docker("exec", box, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    if git("status", "--porcelain").strip():
        say("this checkout has changes that are not committed: what is proven is HEAD, without them")


@dataclass(frozen=True)
class Inside:
    """Commands in a container, as one user."""

    box: str
    user: str

    def run(self, line: str, where: str, log: Path | None = None) -> int:
        """`line`, as a login would run it: a clean environment plus pip's two variables."""
        given = ("PIP_NO_INDEX=1", "PIP_FIND_LINKS=/given/wheels")
        login = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", *given]
        shell = [*login, "bash", "-c", f"cd ~{self.user} && export HOME=$PWD && cd {where} && {line}"]
        command = ["docker", "exec", "--user", self.user, self.box, *shell]
        with log.open("wb") if log else open(os.devnull, "wb") as output:
            return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=LIMIT_S).returncode

    def check(self, line: str, where: str) -> None:
        log = REPORTS / "preparation.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if self.run(line, where, log):
            raise engine.EngineError(f"`{line}` failed in the container: {tail(log, 3)}")

    def prove(self, line: str, name: str) -> bool:
        """Whether `line` ends with 0, leaves the clone clean and no process behind. Says what it found."""
        log = REPORTS / f"{name}.log"
        began = time.monotonic()
        try:
            code = self.run(line, "cfn", log)
        except subprocess.TimeoutExpired:
            code = 124
        took_s = time.monotonic() - began
        wrong = [f"exit code {code}"] if code else []
        if self.run('test -z "$(git status --porcelain)"', "cfn"):
            wrong.append("files in the clone that git neither holds nor ignores")
        left = self.processes()
        if left:
            wrong.append(f"processes left: {', '.join(left)}")
        verdict = "; ".join(wrong) or "ok"
        say(f"{name:<26} {took_s:6.1f} s  {verdict}" + (f"; see {log.relative_to(ROOT)}" if wrong else ""))
        if wrong:
            print(tail(log, 25), file=sys.stderr)
        record(name, line, took_s, wrong)
        return not wrong

    def processes(self) -> list[str]:
        """Commands that live in the container beside its init and its sleep."""
        lines = engine.docker("top", self.box, "-o", "pid,args").splitlines()[1:]
        return [line for line in lines if "sleep infinity" not in line]


def record(name: str, line: str, took_s: float, wrong: list[str]) -> None:
    entry = {
        "name": name,
        "command": line,
        "took_s": round(took_s, 1),
        "wrong": wrong,
        "head": git("rev-parse", "HEAD").strip(),
    }
    with (REPORTS / "newcomer.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def tail(log: Path, count: int) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-count:])


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def wheelhouse(python: str) -> Path:
    """A folder of the wheels that a newcomer's pip would fetch, for that Python on Debian 12; whole or not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = sorted(
        {*everything(project), *project["build-system"]["requires"], "editables"}
    )  # hatchling, for `pip -e`
    digest = hashlib.sha256("\n".join([python, *wanted]).encode()).hexdigest()[:12]
    folder = ROOT / "build" / "newcomer" / f"wheels-{python}-{digest}"
    if folder.is_dir():
        return folder
    say(f"gathering wheels for Python {python}")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    tags += [f"manylinux2014_{machine}", f"manylinux1_{machine}"]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-qq", f"--dest={part}", "--only-binary=:all:"),
            *("--implementation=cp", f"--python-version={python}", *(f"--platform={tag}" for tag in tags)),
            *wanted,
        ],
        check=True,
    )
    part.rename(folder)
    return folder


def everything(project: dict[str, Any]) -> Iterator[str]:
    """What the sessions behind README's commands install: nox, cfn with all extras, the tests."""
    yield from project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        yield from extra
    yield from group(project["dependency-groups"], "tests")


def group(groups: dict[str, list[Any]], name: str) -> Iterator[str]:
    """A dependency group with the groups that it includes (PEP 735)."""
    for entry in groups[name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from group(groups, entry["include-group"])


if __name__ == "__main__":
    sys.exit(main())
