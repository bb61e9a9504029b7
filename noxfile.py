"""What a person can run; `nox -l` is the manual. Without nox: `python3 noxfile.py` takes the same arguments.

Everything after `--` goes to the command of the session: `nox -s tests -- -k lease`, `nox -s phase3 -- --site containers`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # nox does not put the folder of its file there

from ci import bootstrap

if __name__ == "__main__":  # this machine may not have nox: get it into the checkout, then be it
    raise SystemExit(bootstrap.main(sys.argv[1:]))

import nox

from ci import install

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False

ENGINE = ("python", "-m", "cfn.rollout.engine")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the whole test suite, on all cores (arguments go to pytest)."""
    install.cfn(session, "tests", extras="containers")
    session.run("pytest", "-n", "auto", "--dist", "loadgroup", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the arrows between rooms, the workflows and the shell scripts."""
    install.cfn(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("shellcheck", ".ci/run")
    session.run("actionlint", *map(str, sorted(Path(".github/workflows").glob("*.yml"))))


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy, strict."""
    install.cfn(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def phase1(session: nox.Session) -> None:
    """Rollout phase 1: flat, 10 to 100 agents (`-- --site local|containers`)."""
    rollout(session)


@nox.session
def phase2(session: nox.Session) -> None:
    """Rollout phase 2, the main job: hybrid, 150 to 300 agents in 3 to 7 teams (`-- --site local|containers`)."""
    rollout(session)


@nox.session
def phase3(session: nox.Session) -> None:
    """Rollout phase 3: hybrid to 708 agents, and a tree of 2000 (`-- --site local|containers`)."""
    rollout(session)


def rollout(session: nox.Session) -> None:
    install.cfn(session, extras="containers")
    session.run("cfn", "rollout", session.name, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure sends, claims, wake-ups and whole rounds, each beside its floor of the same run."""
    install.cfn(session)
    session.run("python", "tests/load/bench.py", *session.posargs)


@nox.session
def newcomer(session: nox.Session) -> None:
    """Prove README's two commands in bare containers: three kinds of Python, root and a user, each command twice."""
    install.cfn(session)
    session.run("python", "ci/newcomer.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source archive into dist/ (`-- --wheel` for the wheel alone)."""
    install.group(session, "build")
    session.run("python", "-m", "build", "--outdir", "dist", *session.posargs)


@nox.session
def sweep(session: nox.Session) -> None:
    """Remove every container, network and volume that cfn started (`-- --images`: its images too)."""
    install.cfn(session)
    session.run(*ENGINE, "sweep", *session.posargs)
