"""The command line, run in this process: a bus of its own for each test, and no settings of the person who runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cfn.cli.main import main


@dataclass
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> Any:
        assert len(self.lines) == 1, self
        return self.lines[0]

    def refused(self, code: int, *words: str) -> None:
        """It ended with `code`, said exactly one line on stderr with all `words` in it, and nothing on stdout."""
        assert self.code == code, self
        assert self.err.startswith("cfn: "), self
        assert self.err.splitlines() == [self.err.removesuffix("\n")], self
        for defect in ("Traceback", "internal error"):
            assert defect not in self.err, self
        assert self.out == "", self
        for word in words:
            assert word in self.err, self


Cfn = Callable[..., Ran]


@pytest.fixture
def bus_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for a bus; HOME, the working folder and all CFN_* variables are the test's own."""
    for name in [name for name in os.environ if name.startswith("CFN_")] + [
        "MESSAGE_BASE_DIR",
        "NO_COLOR",
        "DOCKER_HOST",
    ]:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    for name, folder in (("HOME", home), ("XDG_CONFIG_HOME", home / "config"), ("XDG_STATE_HOME", home / "state")):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "bus"
    monkeypatch.setenv("CFN_MESSAGE_BASE_DIR", str(root))
    return root


@pytest.fixture
def cfn(bus_dir: Path, capsys: pytest.CaptureFixture[str]) -> Cfn:
    """Run a command line in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def shell(bus_dir: Path) -> Cfn:
    """Run a command line in a process of its own; `stdin` is its input."""

    def run(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, timeout_s: float = 30) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "cfn", *arguments],
            input=stdin,
            capture_output=True,
            env={**os.environ, **(env or {})},
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def pair(cfn: Cfn) -> Cfn:
    """`cfn` on a bus with the ephemeral agents `lead` and `worker-1`, whose coordinator is `lead`."""
    assert cfn("register", "lead").code == 0
    assert cfn("register", "worker-1", "--coordinator", "lead").code == 0
    return cfn


@pytest.fixture
def send(pair: Cfn) -> Callable[..., str]:
    """Send from lead to worker-1; the message's id."""

    def run(payload: str = '{"n":1}', type: str = "request", *options: str) -> str:
        done = pair("send", "--from", "lead", "--to", "worker-1", "--type", type, "--payload", payload, *options)
        assert done.code == 0, done
        return done.out.strip()

    return run
