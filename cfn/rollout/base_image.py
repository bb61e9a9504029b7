"""A Debian image with the packages that are asked for, also where no image registry answers.

Guarantees: :func:`ensure` returns the tag of an image that this engine has. The tag names the content (recipe, suite,
packages), so asking again costs one ``docker image inspect`` (50 ms); two that ask at once make it once.

Steps: where a registry answers within 3 s, ``containers/base.Containerfile``, which pins Debian by date; otherwise, or
where that build fails, mmdebstrap makes a minimal Debian out of Debian's own packages (25 s for Python) and ``docker
import`` takes it whole: the tar is complete before the engine sees it.

Standard library only: ``containers/base.py`` runs it from a checkout in which nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cfn.errors import CfnError, Exit, UnfitHost, UsageError
from cfn.rollout import engine

REGISTRY: Final = "https://registry-1.docker.io/v2/"
PROBE_TIMEOUT_S: Final = 3.0  # a registry that is there answers in under one; without a network the name fails at once
BUILD_TIMEOUT_S: Final = 900.0
SUITES: Final = ("bookworm", "trixie")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")  # Debian Policy 5.6.7
_NAME = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+)*\Z")


def ensure(
    name: str,
    packages: list[str],
    suite: str = "bookworm",
    *,
    registry: str = REGISTRY,
    say: engine.Say = lambda line: None,
) -> str:
    """The tag ``name:<content>`` of a Debian `suite` with `packages`; made when this engine does not have it.

    Raises: :class:`~cfn.errors.UsageError` (not a name, package or suite that we know),
    :class:`~cfn.errors.UnfitHost` (no engine; no registry and no mmdebstrap),
    :class:`~cfn.rollout.engine.EngineError`. After any of them no such tag exists.
    """
    _check(name, packages, suite)
    engine.need()
    packages = sorted(set(packages))
    containerfile = recipe("base")
    key = "\0".join([containerfile.read_text("utf-8"), suite, *packages])
    content = hashlib.sha256(key.encode()).hexdigest()[:12]
    tag = f"{name}:{content}"
    with engine.alone(f"image-{content}"):
        if exists(tag):
            return tag
        if answers(registry):
            try:
                _build(tag, containerfile, packages, suite)
                return tag
            except engine.EngineError as error:
                say(f"{error}; making the base image out of Debian's packages instead")
        else:
            say("no image registry answers: making the base image out of Debian's packages (about 30 s)")
        _bootstrap(tag, packages, suite, say)
    return tag


def recipe(name: str) -> Path:
    """The Containerfile of an image: beside this module in a wheel, in `containers/` in a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "containers", here.parents[2] / "containers"):
        if (folder / f"{name}.Containerfile").is_file():
            return folder / f"{name}.Containerfile"
    raise UnfitHost(
        f"{name}.Containerfile is not part of this installation: install cfn-swarm from its wheel or a checkout"
    )


def exists(tag: str) -> bool:
    """Whether this engine has the image."""
    return bool(engine.docker("image", "ls", "--quiet", tag).strip())


def answers(registry: str = REGISTRY, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether an image registry answers there; "who are you?" (401) is an answer."""
    try:
        with urllib.request.urlopen(registry, timeout=timeout_s):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 429)
    except (OSError, ValueError):
        return False


def _check(name: str, packages: Sequence[str], suite: str) -> None:
    if not _NAME.match(name):
        raise UsageError(f"{name!r} is not the name of an image: use a-z 0-9, and . _ - / between them")
    if suite not in SUITES:
        raise UsageError(f"{suite!r} is not a Debian suite that we build on: use one of {', '.join(SUITES)}")
    for package in packages:
        if not _PACKAGE.match(package):
            raise UsageError(f"{package!r} is not the name of a Debian package: use a-z 0-9 + . -")


def _build(tag: str, containerfile: Path, packages: Sequence[str], suite: str) -> None:
    label = f"{engine.OWNER_LABEL}={engine.OWNER}"
    engine.docker(
        *("build", "--quiet", "--force-rm", "--tag", tag, "--label", label),
        *("--build-arg", f"SUITE={suite}", "--build-arg", f"PACKAGES={' '.join(packages)}", "-"),
        stdin=containerfile.read_bytes(),
        timeout_s=BUILD_TIMEOUT_S,
    )


def _bootstrap(tag: str, packages: Sequence[str], suite: str, say: engine.Say) -> None:
    if not engine.find("mmdebstrap"):
        engine.install("mmdebstrap", ["mmdebstrap", "debian-archive-keyring"], say)
    with tempfile.TemporaryDirectory(prefix="cfn-base-") as folder:
        tar = Path(folder, "base.tar")
        include = [f"--include={','.join(packages)}"] if packages else []
        command = [engine.find("mmdebstrap") or "mmdebstrap", "--variant=minbase", *include, suite, str(tar)]
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise UnfitHost(
                f"mmdebstrap did not finish within {BUILD_TIMEOUT_S:g} s: is a Debian mirror near?"
            ) from None
        if made.returncode != 0:
            raise UnfitHost(f"mmdebstrap could not make a {suite} with {', '.join(packages)}: {_cause(made.stderr)}")
        changes = ["--change", f"LABEL {engine.OWNER_LABEL}={engine.OWNER}", "--change", 'CMD ["/bin/bash"]']
        engine.docker("import", *changes, str(tar), tag, timeout_s=BUILD_TIMEOUT_S)


def _cause(text: str) -> str:
    """apt says `E:` first for what went wrong, mmdebstrap then `E:` for what it gave up."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "it said nothing")


def main(arguments: Sequence[str] | None = None) -> int:
    """``NAME [PACKAGE...]``: print the tag."""
    parser = argparse.ArgumentParser(prog="containers/base.py", description="Make a Debian base image; print its tag.")
    parser.add_argument("name", help="name of the image, without a tag")
    parser.add_argument("packages", nargs="*", help="Debian packages to put in")
    parser.add_argument("--suite", default=SUITES[0], choices=SUITES)
    chosen = parser.parse_args(arguments)
    try:
        print(ensure(chosen.name, chosen.packages, chosen.suite, say=lambda line: print(line, file=sys.stderr)))
    except CfnError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return Exit.OK
