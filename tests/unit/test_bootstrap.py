"""`python3 noxfile.py` on a machine without nox, played in a checkout of its own with a package index of one wheel.

The real machines (Debian with and without venv, a plain CPython build; root and user) are proven by `nox -s newcomer`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ci import bootstrap

NOX = """\
import os, sys
print("nox", sys.prefix, sys.argv[1:], os.environ.get("PIP_USER"))
sys.exit(7)
"""
#: Be `python noxfile.py` in a Python that lacks the modules named in the first argument.
START = """\
import sys
sys.modules.update(dict.fromkeys(["nox", *filter(None, sys.argv.pop(1).split(","))]))
sys.path.insert(0, ".")
from ci import bootstrap
sys.exit(bootstrap.main(sys.argv[1:]))
"""


class Checkout:
    """A fresh checkout, its package index, and the command that a newcomer gives in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"  # a blank in the path is somebody's reality
        self.index = folder / "index"
        self.index.mkdir()
        (self.root / "ci").mkdir(parents=True)
        shutil.copy(bootstrap.__file__, self.root / "ci" / "bootstrap.py")
        (self.root / "pyproject.toml").write_text('[dependency-groups]\nnox = ["nox>=2030.1"]\n')
        with zipfile.ZipFile(self.index / "nox-2030.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr("nox/__init__.py", "")
            wheel.writestr("nox/__main__.py", NOX)
            about = "nox-2030.2.dist-info"
            wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: nox\nVersion: 2030.2\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")

    def start(self, *arguments: str, lacking: str = "", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", START, lacking, *arguments],
            cwd=self.root,
            env={
                **os.environ,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(self.index),
                "PIP_CONFIG_FILE": os.devnull,
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, lacking: str = "", **env: str) -> tuple[int, str, list[str]]:
        """Exit code, stdout, and the lines of stderr."""
        with self.start(*arguments, lacking=lacking, **env) as process:
            out, err = process.communicate(timeout=100)
        return process.returncode, out, err.splitlines()

    def environments(self) -> list[Path]:
        return sorted(path for path in (self.root / ".nox").glob("bootstrap-*") if path.is_dir())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def refused(ran: tuple[int, str, Sequence[str]], *words: str) -> None:
    code, out, err = ran
    assert (code, out) == (bootstrap.UNFIT, "")
    line = err[-1]
    assert line.startswith("cfn: ")
    assert not [other for other in err[:-1] if not other.startswith("cfn: making a private environment")]
    for word in words:
        assert word in line


def test_the_first_run_makes_an_environment_and_becomes_nox_and_the_second_uses_it(checkout: Checkout) -> None:
    code, out, err = checkout.run("-s", "tests", "--", "a b")
    (environment,) = checkout.environments()
    noxfile = str(checkout.root / "noxfile.py")
    assert code == 7
    assert out.splitlines() == [f"nox {environment} {['--noxfile', noxfile, '-s', 'tests', '--', 'a b']} 0"]
    assert len(err) == 1
    assert str(environment) in err[0]

    made = environment.stat().st_mtime_ns
    code, out, err = checkout.run("-l", PIP_FIND_LINKS="nowhere", PIP_USER="1")
    assert (code, err) == (7, [])
    assert out.startswith(f"nox {environment} ")
    assert checkout.environments() == [environment]
    assert environment.stat().st_mtime_ns == made


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")
def test_without_ensurepip_this_pythons_pip_fills_the_environment(checkout: Checkout) -> None:
    code, out, _ = checkout.run("-l", lacking="ensurepip")
    (environment,) = checkout.environments()
    assert code == 7
    assert out.startswith(f"nox {environment} ")
    assert not list(environment.glob("**/site-packages/pip"))


def test_without_venv_and_pip_one_line_says_what_to_install(checkout: Checkout) -> None:
    refused(checkout.run("-l", lacking="venv,pip"), sys.executable, "neither", "apt install python3-venv")
    refused(checkout.run("-l", lacking="ensurepip,pip"), "neither", "apt install python3-venv")
    assert checkout.environments() == []


def test_without_a_package_index_one_line_names_the_variables_and_a_later_run_heals(checkout: Checkout) -> None:
    refused(checkout.run("-l", PIP_FIND_LINKS="nowhere"), "nox>=2030.1", "PIP_INDEX_URL", "bootstrap.log")
    assert checkout.environments() == []
    assert checkout.run("-l")[0] == 7


@pytest.mark.parametrize("content", ["<<<<<<< HEAD", "[dependency-groups]\nnox = []\n", "[project]\n"])
def test_a_project_file_that_cannot_be_used_is_named_in_one_line(checkout: Checkout, content: str) -> None:
    (checkout.root / "pyproject.toml").write_text(content)
    refused(checkout.run("-l"), str(checkout.root / "pyproject.toml"), "dependency group `nox`")


def test_a_checkout_that_cannot_be_written_is_named_in_one_line(checkout: Checkout) -> None:
    (checkout.root / ".nox").write_text("in the way")
    refused(checkout.run("-l"), str(checkout.root / ".nox"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom modes can stop")
def test_a_read_only_environment_folder_is_named_in_one_line(checkout: Checkout) -> None:
    (checkout.root / ".nox").mkdir(mode=0o555)
    refused(checkout.run("-l"), str(checkout.root / ".nox"), "clone the repository")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_builder_that_was_killed_leaves_nothing_that_is_taken_for_whole(checkout: Checkout) -> None:
    with checkout.start("-l") as process:
        deadline = time.monotonic() + 60
        while not checkout.environments():
            assert time.monotonic() < deadline and process.poll() is None, f"no environment was begun: {process.poll()}"
            time.sleep(0.005)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = checkout.environments()
    assert left.suffix == ".part"
    code, out, _ = checkout.run("-l")
    (environment,) = checkout.environments()
    assert code == 7
    assert environment.suffix != ".part"
    assert out.startswith(f"nox {environment} ")


def test_two_that_start_at_once_make_one_environment(checkout: Checkout) -> None:
    first, second = checkout.start("-l"), checkout.start("-l")
    answers = [process.communicate(timeout=100) for process in (first, second)]
    (environment,) = checkout.environments()
    assert [first.returncode, second.returncode] == [7, 7], answers
    assert all(out.startswith(f"nox {environment} ") for out, _ in answers)
    assert sorted(len(err.splitlines()) for _, err in answers) == [0, 1]


def test_a_python_that_is_too_old_is_told_which_newer_one_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (3, 99))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name if name == "python3.99" else None)
    with pytest.raises(bootstrap.Unfit, match=r"needs Python >= 3\.11, and .*: install python3\.11 or newer"):
        bootstrap.check_python()
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name if name == "python3.12" else None)
    monkeypatch.setattr(bootstrap, "OLDEST", (4, 11))
    with pytest.raises(bootstrap.Unfit, match=r"run `python3\.12 noxfile\.py"):
        bootstrap.check_python()


def test_an_installed_nox_counts_only_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "nox-2022.11.21.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nox\nVersion: 2022.11.21\n")
    (tmp_path / "nox.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert not bootstrap.has_nox("nox>=2025.5.1")
    assert bootstrap.has_nox("nox>=2022.11.21")


def test_the_requirement_on_nox_is_a_minimum_that_noxfile_repeats() -> None:
    requirement = bootstrap.wanted()
    noxfile = (bootstrap.ROOT / "noxfile.py").read_text("utf-8")
    assert f'nox.needs_version = "{requirement.removeprefix("nox")}"' in noxfile
