"""How a nox session gets what pyproject.toml lists: cfn with extras, and dependency groups.

Installing again what is there costs 3 s a session (an isolated build of an editable package), so it is skipped while
nothing that decides it has changed: the proof is a fingerprint inside the environment, written after pip succeeded. An
environment without one was left half-made by an interrupted run and is made anew.

``CFN_WHEEL=dist/cfn_swarm-*.whl`` installs that wheel instead of the checkout: the continuous integration builds one wheel
and tests that one everywhere.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox
from nox.virtualenv import VirtualEnv

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
MARK = "cfn-installed"


def cfn(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install cfn (editable, or the wheel of CFN_WHEEL) with `extras` (comma separated) and dependency groups."""
    wheel = wheel_named(session)
    what = (
        [f"{wheel}[{extras}]" if extras else str(wheel)]
        if wheel
        else ["-e", f"{ROOT}[{extras}]" if extras else str(ROOT)]
    )
    _install(session, [*what, *requirements(*groups)], wheel)


def group(session: nox.Session, *groups: str) -> None:
    """Install dependency groups, and nothing of cfn."""
    _install(session, list(requirements(*groups)), None)


def requirements(*groups: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(nox.project.load_toml(PYPROJECT), *groups) if groups else ()


def wheel_named(session: nox.Session) -> Path | None:
    pattern = os.environ.get("CFN_WHEEL")
    if not pattern:
        return None
    found = sorted(ROOT.glob(pattern))
    if len(found) != 1:
        session.error(f"CFN_WHEEL={pattern} names {len(found)} files under {ROOT}; it must name one wheel")
    return found[0]


def _install(session: nox.Session, arguments: list[str], wheel: Path | None) -> None:
    decides = [PYPROJECT.read_bytes(), wheel.read_bytes() if wheel else b"", *map(os.fsencode, arguments)]
    fingerprint = hashlib.sha256(b"\0".join(decides)).hexdigest()
    venv = session.virtualenv
    mark = Path(venv.location, MARK)
    old = mark.read_text("ascii") if mark.is_file() else None
    if old == fingerprint:
        session.debug("what pyproject.toml lists is installed already")
        return
    reused = bool(getattr(venv, "_reused", False))
    if reused and "-R" in sys.argv:  # the user wants nothing installed: then nothing is proven either
        return
    if reused and old is None and isinstance(venv, VirtualEnv):
        session.log("an earlier installation was interrupted: making the environment anew")
        venv.reuse_existing = False
        venv.create()
    mark.unlink(missing_ok=True)
    session.install(*(["--force-reinstall"] if wheel and old else []), *arguments)
    mark.write_text(fingerprint, "ascii")  # commit point: before it, the environment is not to be trusted
