"""How images are made: from Debian's packages or on a registry's Debian, and cfn put in as wheels."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cfn
from cfn.errors import UnfitHost, UsageError
from cfn.rollout import base_image, engine, fleet, image

NOWHERE = "http://127.0.0.1:9/v2/"  # the discard port: refused at once


@pytest.fixture
def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that makes a Debian of one file, so that a test need not wait for the real one."""
    tar, program = tmp_path / "tiny.tar", tmp_path / "mmdebstrap"
    (tmp_path / "asked").write_text("debian of one file")
    with tarfile.open(tar, "w") as archive:
        archive.add(tmp_path / "asked", "etc/debian")
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor last; do :; done\ncp {tar} "$last"\n')
    program.chmod(0o755)
    found = engine.find
    monkeypatch.setattr(engine, "find", lambda name: str(program) if name == "mmdebstrap" else found(name))
    return tmp_path / "calls"


@pytest.fixture
def name(answering_engine: None, run_id: str) -> Iterator[str]:
    name = f"cfn-test/{run_id}"
    yield name
    for tag in engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", name).split():
        engine.docker("image", "rm", "--force", tag)


def test_where_no_registry_answers_debians_packages_make_the_image_once(name: str, mmdebstrap: Path) -> None:
    tag = base_image.ensure(name, ["tini", "dash"], registry=NOWHERE)
    assert tag.startswith(f"{name}:")
    assert base_image.ensure(name, ["dash", "tini", "dash"], registry=NOWHERE) == tag, "the order does not matter"
    (call,) = mmdebstrap.read_text().splitlines()
    assert call.startswith("--variant=minbase --include=dash,tini bookworm /")
    labels = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config.Labels}}", tag))
    assert labels == {"org.cfn-swarm.owner": "cfn"}
    other = base_image.ensure(name, ["dash"], registry=NOWHERE)
    assert other != tag


def test_a_bootstrap_that_fails_leaves_no_tag_and_says_why(name: str, mmdebstrap: Path, tmp_path: Path) -> None:
    (tmp_path / "mmdebstrap").write_text(
        '#!/bin/sh\necho "I: running" >&2; echo "E: Unable to locate package dasch" >&2; echo "E: gave up" >&2; exit 25\n'
    )
    with pytest.raises(UnfitHost, match=r"a bookworm with dasch: E: Unable to locate package dasch$"):
        base_image.ensure(name, ["dasch"], registry=NOWHERE)
    assert engine.docker("image", "ls", "--quiet", name) == ""


class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def registry() -> Iterator[str]:
    """Something that answers as a registry does. What the engine would pull must already be there."""
    with http.server.HTTPServer(("127.0.0.1", 0), Registry) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/v2/"
        server.shutdown()
        serving.join()


def test_where_a_registry_answers_the_containerfile_builds_on_its_dated_debian(
    name: str, registry: str, agent_image: str, mmdebstrap: Path
) -> None:
    lines = base_image.recipe("base").read_text().splitlines()
    pinned = (
        next(line for line in lines if line.startswith("FROM ")).removeprefix("FROM ").replace("${SUITE}", "bookworm")
    )
    had = base_image.exists(pinned)
    if not had:  # a base image of ours in its place
        engine.docker("tag", agent_image, pinned)
    try:
        tag = base_image.ensure(name, [], registry=registry)
    finally:
        if not had:
            engine.docker("image", "rm", pinned)
    assert not mmdebstrap.exists()
    labels = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config.Labels}}", tag))
    assert labels["org.cfn-swarm.owner"] == "cfn"


def test_where_that_build_fails_debians_packages_are_the_way(
    name: str, registry: str, mmdebstrap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "base.Containerfile"
    broken.write_text("FROM scratch\nCOPY nowhere /\n")
    monkeypatch.setattr(base_image, "recipe", lambda _: broken)
    said: list[str] = []
    assert base_image.exists(base_image.ensure(name, [], registry=registry, say=said.append))
    assert mmdebstrap.exists()
    assert "docker build failed" in said[0]


def test_a_registry_that_is_not_there_is_not_waited_for() -> None:
    began = time.monotonic()
    assert not base_image.answers(NOWHERE)
    assert not base_image.answers("https://registry.invalid/v2/")
    assert time.monotonic() - began < 2 * base_image.PROBE_TIMEOUT_S + 1


@pytest.mark.parametrize(
    ("name", "packages", "suite", "named"),
    [
        ("Upper", [], "bookworm", "'Upper'"),
        ("x:1", [], "bookworm", "'x:1'"),
        ("x", ["--hook=rm"], "bookworm", "'--hook=rm'"),
        ("x", ["a,b"], "bookworm", "'a,b'"),
        ("x", [], "../etc", "'../etc'"),
    ],
)
def test_a_name_that_could_become_something_else_is_refused(
    name: str, packages: list[str], suite: str, named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        base_image.ensure(name, packages, suite)
    assert named in str(caught.value)


def test_the_image_has_this_very_cfn_and_needs_no_network(agent_image: str) -> None:
    here = Path(cfn.__file__).parent
    digests = {
        path.relative_to(here).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in here.rglob("*.py")
    }
    look = (
        "import cfn, hashlib, json, pathlib, sys, psutil, platformdirs, tqdm; here = pathlib.Path(cfn.__file__).parent\n"
        "print(json.dumps([list(sys.version_info[:2]), {p.relative_to(here).as_posix():"
        " hashlib.sha256(p.read_bytes()).hexdigest() for p in here.rglob('*.py')}]))"
    )
    ran = engine.docker("run", "--rm", "--network", "none", agent_image, "python", "-c", look)
    version, inside = json.loads(ran)
    assert version == [3, 11]
    assert inside == digests


def test_the_image_is_not_made_twice_and_anew_when_cfn_changes(
    agent_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_fill", lambda wheelhouse: pytest.fail("the wheels were made again"))
    assert image.ensure() == agent_image
    monkeypatch.setattr(image, "_sources", lambda: iter([("bus/files.py", b"changed")]))
    with pytest.raises(pytest.fail.Exception):
        image.ensure()


def test_an_installed_cfn_becomes_a_wheel_again(agent_image: str, run_id: str) -> None:
    pack = (
        "from cfn.rollout import image; import pathlib\n"
        "print(image.checkout(), image.repack(image._distribution(), pathlib.Path('/tmp')))"
    )
    compare = "cd /opt/cfn/lib/python3.11/site-packages && diff -r -x __pycache__ cfn /tmp/again/cfn"
    with fleet.Fleet(run_id, agent_image) as crew:
        crew.start("one")
        packed = crew.execute("one", ["python", "-c", pack])
        assert packed.exit_code == 0, packed
        assert packed.stdout.startswith("None /tmp/cfn_swarm-")
        install = ["python", "-m", "pip", "install", "--no-index", "--no-deps", "--target", "/tmp/again"]
        again = crew.execute("one", [*install, packed.stdout.split()[1]])
        assert again.exit_code == 0, again
        compared = crew.execute("one", ["sh", "-c", compare])
        assert (compared.exit_code, compared.stdout) == (0, "")
        script = crew.execute("one", ["test", "-x", "/tmp/again/bin/cfn"])
        assert script.exit_code == 0, "the entry points came along"


def test_without_pip_the_image_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "/x/python: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UnfitHost, match=r"built with pip, which .*/python lacks"):
        image._pip("download", "x")


def test_what_pip_cannot_get_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnfitHost, match=r"pip download could not get the image's wheels: ERROR: .*no-such-thing"):
        image._pip("download", "--no-index", "--dest", str(tmp_path), "no-such-thing")
