"""A Debian 12 image whose Python is a plain CPython build with nothing but pip: the machine of someone who builds their own.

The source is CPython's own release archive as Debian carries it, fetched by apt with private folders (the host's apt is
left as it is); configured without optimisation and built in a container without a network. The result is cached under a
tag that names its content: source, recipe and packages. Cost: 2-3 min on two cores the first time, 50 ms afterwards.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cfn.errors import UnfitHost
from cfn.rollout import base_image, engine

SUITE = (
    "trixie"  # bookworm has the sources of 3.11 alone; a newer one proves that the bootstrap takes other Pythons too
)
SOURCE = "python3.13"
BUILDER = ["gcc", "libc6-dev", "libffi-dev", "libssl-dev", "make", "xz-utils", "zlib1g-dev"]
RUNTIME = ["git", "libffi8", "libssl3", "zlib1g"]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT = f"""\
deb-src [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main
"""
RECIPE = """\
set -e
mkdir /build && tar -xf /source --strip-components 1 -C /build && cd /build
./configure --quiet --prefix=/usr/local --with-ensurepip=install
make -s -j2
make -s install
ln -sf python3 /usr/local/bin/python
rm -rf /usr/local/lib/python3.*/test
python3 -m pip list --format=freeze
"""

Say = Callable[[str], None]


def ensure(say: Say) -> str:
    """The tag of the image; built when the engine does not have it. Raises UnfitHost, EngineError."""
    runtime = base_image.ensure("cfn-newcomer-git", RUNTIME, say=say)
    with tempfile.TemporaryDirectory(prefix="cfn-cpython-") as folder:
        apt = private_apt(Path(folder))
        version = newest(apt)
        key = "\0".join([RECIPE, runtime, version, *BUILDER])
        tag = f"cfn-newcomer-cpython:{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        if base_image.exists(tag):
            return tag
        say(f"building {SOURCE} {version} from its source (2-3 min, once)")
        build(tag, runtime, fetch(apt, Path(folder)), say)
    return tag


def private_apt(folder: Path) -> list[str]:
    """apt-get that reads and writes in `folder` alone."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    os.chmod(folder, 0o755)  # apt drops its rights while it downloads
    (folder / "sources.list").write_text(APT)
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    apt = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items())]
    run([*apt, "update"], folder)
    return apt


def newest(apt: list[str]) -> str:
    """The version of the source that would be fetched (upstream's part of Debian's)."""
    lines = run([*apt, "source", "--print-uris", "--tar-only", SOURCE], Path("/")).splitlines()
    names = [line.split()[1] for line in lines if ".orig.tar." in line]
    if not names:
        raise UnfitHost(f"Debian's {SUITE} offers no source of {SOURCE}; adapt ci/cpython.py to its Python")
    return names[0].split("_")[1].partition(".orig")[0]


def fetch(apt: list[str], folder: Path) -> Path:
    run([*apt, "source", "--download-only", "--tar-only", SOURCE], folder)
    (archive,) = folder.glob(f"{SOURCE}_*.orig.tar.*")
    return archive


def build(tag: str, runtime: str, source: Path, say: Say) -> None:
    """Build in one container, copy /usr/local into another, commit that one. Both are removed, whatever happens."""
    label = f"--label={engine.OWNER_LABEL}={engine.OWNER}"
    builder = base_image.ensure("cfn-newcomer-builder", BUILDER, say=say)
    maker = engine.docker("create", label, "--network=none", builder, "sh", "-c", RECIPE).strip()
    target = engine.docker("create", label, runtime, "bash").strip()
    try:
        engine.docker("cp", str(source), f"{maker}:/source")
        made = subprocess.run(["docker", "start", "--attach", maker], capture_output=True, text=True, timeout=1800)
        if made.returncode:
            raise engine.EngineError(f"building {SOURCE} failed: {(made.stderr or made.stdout).strip()[-400:]}")
        packages = made.stdout.split("\n")
        say(f"its packages: {' '.join(line for line in packages if '==' in line)}")
        with (source.parent / "usr-local.tar").open("w+b") as tree:
            subprocess.run(["docker", "cp", f"{maker}:/usr/local", "-"], stdout=tree, check=True, timeout=300)
            tree.seek(0)
            subprocess.run(["docker", "cp", "-", f"{target}:/usr"], stdin=tree, check=True, timeout=300)
        engine.docker("commit", f"--change=LABEL {engine.OWNER_LABEL}={engine.OWNER}", target, tag)
    finally:
        engine.docker("rm", "--force", maker, target)


def run(command: list[str], cwd: Path) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise UnfitHost(f"{command[0]} is not on this host: build the plain CPython image on a Debian") from None
    if done.returncode:
        raise UnfitHost(f"{command[0]} {command[-1]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
