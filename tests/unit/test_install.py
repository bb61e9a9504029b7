"""What a session installs, and when: an environment is trusted only after pip succeeded in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nox.virtualenv import VirtualEnv

from ci import install


class Environment(VirtualEnv):
    """An environment that is a folder and counts how often it is made anew."""

    def __init__(self, location: Path) -> None:
        self.location = str(location)
        self.reuse_existing = True
        self._reused = False
        self.made_anew = 0

    def create(self) -> bool:
        self.made_anew += 1
        return True


class Session:
    """As much of nox.Session as installing touches; `dies` is what pip meets."""

    def __init__(self, environment: Environment) -> None:
        self.virtualenv = environment
        self.installed: list[list[str]] = []
        self.dies: BaseException | None = None

    def install(self, *arguments: str) -> None:
        self.installed.append(list(arguments))
        if self.dies:
            raise self.dies

    def log(self, *words: Any) -> None: ...

    debug = log

    def error(self, *words: str) -> None:
        raise SystemExit(*words)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[dependency-groups]\na = ["x"]\nb = ["y", {include-group = "a"}]\n')
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "PYPROJECT", pyproject)
    (tmp_path / "env").mkdir()
    return Session(Environment(tmp_path / "env"))


def again(session: Session) -> None:
    session.virtualenv._reused = True
    session.installed.clear()


def test_cfn_comes_editable_with_its_extras_and_the_groups_once(session: Any, tmp_path: Path) -> None:
    install.cfn(session, "b", extras="containers")
    assert session.installed == [["-e", f"{tmp_path}[containers]", "y", "x"]]
    again(session)
    install.cfn(session, "b", extras="containers")
    assert session.installed == []
    assert session.virtualenv.made_anew == 0


def test_a_change_of_the_one_list_installs_again(session: Any) -> None:
    install.group(session, "a")
    again(session)
    install.PYPROJECT.write_text('[dependency-groups]\na = ["x>=2"]\n')
    install.group(session, "a")
    assert session.installed == [["x>=2"]]
    assert session.virtualenv.made_anew == 0


def test_an_environment_in_which_pip_was_interrupted_is_made_anew(session: Any) -> None:
    session.dies = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        install.group(session, "a")
    again(session)
    session.dies = None
    install.group(session, "a")
    assert session.virtualenv.made_anew == 1
    assert session.installed == [["x"]]
    again(session)
    install.group(session, "a")
    assert (session.virtualenv.made_anew, session.installed) == (1, [])


def test_an_interrupted_change_is_not_taken_for_done_when_it_is_changed_back(session: Any) -> None:
    install.group(session, "a")
    before = install.PYPROJECT.read_text()
    again(session)
    install.PYPROJECT.write_text(before.replace("x", "z"))
    session.dies = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        install.group(session, "a")
    install.PYPROJECT.write_text(before)
    again(session)
    session.dies = None
    install.group(session, "a")
    assert session.virtualenv.made_anew == 1
    assert session.installed == [["x"]]


def test_the_wheel_that_is_named_is_installed_in_place_of_the_checkout(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFN_WHEEL", "dist/*.whl")
    with pytest.raises(SystemExit, match="names 0 files"):
        install.cfn(session)
    (tmp_path / "dist").mkdir()
    wheel = tmp_path / "dist" / "cfn_swarm-1-py3-none-any.whl"
    wheel.write_bytes(b"1")
    install.cfn(session, extras="containers")
    assert session.installed == [[f"{wheel}[containers]"]]
    again(session)
    wheel.write_bytes(b"2")  # the same name, other content
    install.cfn(session, extras="containers")
    assert session.installed == [["--force-reinstall", f"{wheel}[containers]"]]
