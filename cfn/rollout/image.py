"""The image that agents run in: Debian 12's Python and cfn as it is here, installed from wheels.

Guarantees: :func:`ensure` returns the tag of an image with exactly the cfn that runs now. The tag names the content (cfn's
files, its dependencies, the recipe, the base), so a second call costs two looks (0.1 s). Neither the build nor a
container of the image needs a network: the wheels are fetched here, with this machine's pip and its settings.

Steps: a wheel of cfn is built once (from a checkout by its build backend; installed elsewhere, it is packed again out of
the installed files); pip fetches the wheels that it needs *for the image's Python*, which is not ours;
``containers/cfn.Containerfile`` installs them. First build 15 s, and 25 s before it for the base image.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cfn
from cfn.errors import UnfitHost
from cfn.rollout import base_image, engine

DISTRIBUTION: Final = "cfn-swarm"
NAME: Final = "cfn-agent"
BASE: Final = "cfn-base"
PACKAGES: Final = ("python3", "python3-venv")
PYTHON: Final = "3.11"  # of Debian 12
GLIBC: Final = (36, 34, 31, 28, 27, 24, 17)  # manylinux_2_N that Debian 12 can load, the newest first
PIP_TIMEOUT_S: Final = 600.0
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def ensure(say: engine.Say = lambda line: None) -> str:
    """The tag of the image, made when this engine does not have it.

    Raises: :class:`~cfn.errors.UnfitHost` (no engine, no base image, no pip, a wheel that cannot be had),
    :class:`~cfn.rollout.engine.EngineError`.
    """
    base = base_image.ensure(BASE, list(PACKAGES), say=say)
    recipe = base_image.recipe("cfn")
    content = _content(base, recipe)
    tag = f"{NAME}:{content}"
    with engine.alone(f"image-{content}"):
        if not base_image.exists(tag):
            say(f"building the image {tag}")
            with tempfile.TemporaryDirectory(prefix="cfn-image-") as context:
                _fill(Path(context, "wheelhouse"))
                shutil.copy(recipe, Path(context, "Containerfile"))
                _build(tag, base, context)
    return tag


def _build(tag: str, base: str, context: str) -> None:
    engine.docker(
        *("build", "--quiet", "--force-rm", "--network", "none", "--tag", tag, "--build-arg", f"BASE={base}"),
        *("--label", f"{engine.OWNER_LABEL}={engine.OWNER}", "--file", str(Path(context, "Containerfile")), context),
        timeout_s=base_image.BUILD_TIMEOUT_S,
    )


def _content(base: str, recipe: Path) -> str:
    """A digest of everything that goes into the image."""
    seal = hashlib.sha256(f"{base}\0{machine()}\0".encode() + recipe.read_bytes())
    for name, content in sorted(_sources()):
        seal.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return seal.hexdigest()[:12]


def _sources() -> Iterator[tuple[str, bytes]]:
    """Name and content of what a wheel of cfn is made from."""
    package = Path(cfn.__file__).parent
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(package).as_posix(), path.read_bytes()
    if root := checkout():
        yield "../pyproject.toml", (root / "pyproject.toml").read_bytes()
    else:
        yield "METADATA", (_distribution().read_text("METADATA") or "").encode()


def checkout() -> Path | None:
    """The checkout that cfn runs from; None where it is installed."""
    root = Path(cfn.__file__).parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "containers").is_dir() else None


def machine() -> str:
    """The engine's architecture, in the words of wheels: it may be another machine than this one."""
    name = engine.docker("version", "--format", "{{.Server.Arch}}").strip() or platform.machine()
    return _ARCHITECTURES.get(name, name)


# ---------------------------------------------------------------- wheels


def _fill(wheelhouse: Path) -> None:
    """cfn's wheel and what it needs at run time, for the image's Python."""
    wheelhouse.mkdir()
    if root := checkout():
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheelhouse), str(root))
    else:
        repack(_distribution(), wheelhouse)
    wheel = next(wheelhouse.glob("cfn_swarm-*.whl"))
    arch = machine()
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in GLIBC] + [f"manylinux2014_{arch}", f"linux_{arch}"]
    _pip(
        *("download", "--dest", str(wheelhouse), "--only-binary=:all:"),
        *("--implementation", "cp", "--python-version", PYTHON),
        *(f"--platform={name}" for name in platforms),
        str(wheel),
    )


def _pip(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UnfitHost(
            f"pip {verb} did not finish within {PIP_TIMEOUT_S:g} s: is the package index reachable?"
        ) from None
    if ran.returncode == 0:
        return
    if "No module named pip" in ran.stderr:
        raise UnfitHost(f"the image is built with pip, which {sys.executable} lacks: run it with -m ensurepip")
    lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"ERROR: |\w*Error: ", line)]  # pip's own words, or a build backend's
    cause = (told or lines or ["it said nothing"])[-1]
    raise UnfitHost(f"pip {verb} could not get the image's wheels: {cause}")


def _distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise UnfitHost(
            f"{DISTRIBUTION} is neither installed nor a checkout here, so no image can be made of it"
        ) from None


def repack(distribution: importlib.metadata.Distribution, folder: Path) -> Path:
    """An installed pure-Python distribution as a wheel again.

    The format is https://packaging.python.org/specifications/binary-distribution-format/; what the installer added
    (scripts, byte code, its own notes) is left out, and RECORD is written anew.
    """
    stem = f"{distribution.name.replace('-', '_')}-{distribution.version}"
    info = f"{stem}.dist-info"
    wheel = folder / f"{stem}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in distribution.files or ():
            added = file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json") and file.parts[0] == info
            if added or file.parts[0] not in ("cfn", info) or "__pycache__" in file.parts:
                continue
            content = file.read_binary()
            archive.writestr(file.as_posix(), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{file.as_posix()},sha256={digest},{len(content)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return wheel
