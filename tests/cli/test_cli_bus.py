"""`cfn bus` and `cfn config`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cfn.settings import TABLE

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out


def test_where_makes_nothing(cfn: Cfn, bus_dir: Path) -> None:
    assert cfn("bus", "where").out == f"{bus_dir}\n"
    found = cfn("bus", "where", "--json").line
    assert (found["path"], found["exists"], found["source"]) == (str(bus_dir), False, "CFN_MESSAGE_BASE_DIR")
    assert not bus_dir.exists()


def test_init_makes_a_private_bus_and_may_be_repeated(cfn: Cfn, bus_dir: Path) -> None:
    for _ in range(2):
        assert cfn("bus", "init").out == f"{bus_dir}\n"
        assert stat.S_IMODE(bus_dir.stat().st_mode) == 0o700
    assert cfn("bus", "where", "--json").line["exists"] is True


def test_the_bus_option_wins_over_the_variable(cfn: Cfn, tmp_path: Path, bus_dir: Path) -> None:
    other = tmp_path / "other"
    assert cfn("register", "a", "--bus", str(other)).code == 0
    assert not bus_dir.exists()
    assert [info["agent"] for info in cfn("agent", "list", "--json", "--message-base-dir", str(other)).lines] == ["a"]


def test_the_name_in_the_reference_is_read_too(cfn: Cfn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CFN_MESSAGE_BASE_DIR")
    monkeypatch.setenv("MESSAGE_BASE_DIR", str(tmp_path / "old"))
    assert cfn("bus", "where", "--json").line["source"] == "MESSAGE_BASE_DIR"


def test_sweep_returns_what_ended_leases_held(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("receive", "worker-1", "--lease", "0.02")
    time.sleep(0.03)
    assert pair("bus", "sweep", "--json").line == {"returned": 1, "buried": 0, "discarded": 0, "removed": []}
    assert pair("count", "worker-1").out == "1\n"


def test_sweep_ends_dead_agents_when_asked(pair: Cfn, send: Callable[..., str]) -> None:
    code = "import os; from cfn import FileBus; bus = FileBus(); bus.register('worker-1'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    send()
    assert pair("bus", "sweep", "--json").line["removed"] == []
    assert pair("bus", "sweep", "--json", "--dead-agents").line["removed"] == ["worker-1"]
    assert [letter["reason"] for letter in pair("bus", "dead", "--json").lines] == ["agent-gone"]


def test_dead_lists_one_agent_or_all(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("agent", "shutdown", "worker-1", "--force")
    assert pair("bus", "dead", "lead", "--json").lines == []
    assert len(pair("bus", "dead", "worker-1", "--json").lines) == 1
    letter = pair("bus", "dead", "--json").line["letter"]
    pair("bus", "dead", "--put-back", letter).refused(3, "'worker-1'", "register it first")
    pair("register", "worker-1")
    assert pair("bus", "dead", "--put-back", letter, "--json").line == {"letter": letter, "put_back": True}
    assert pair("count", "worker-1").out == "1\n"


def test_clean_removes_a_bus_where_nobody_lives(pair: Cfn, bus_dir: Path) -> None:
    assert pair("bus", "clean", "--dry-run").out == f"would remove {bus_dir} (2 agents)\n"
    assert bus_dir.exists()
    assert pair("bus", "clean", "--json").line == {
        "path": str(bus_dir),
        "agents": ["lead", "worker-1"],
        "removed": True,
        "in_use": [],
    }
    assert not bus_dir.exists()
    assert not list(bus_dir.parent.glob(".bus*"))


def test_clean_refuses_while_messages_wait(pair: Cfn, send: Callable[..., str], bus_dir: Path) -> None:
    send()
    pair("bus", "clean").refused(1, str(bus_dir), "1 messages wait", "--force")
    assert pair("count", "worker-1").out == "1\n"
    assert pair("bus", "clean", "--force").code == 0
    assert not bus_dir.exists()


@pytest.mark.parametrize("line", ["bus.register('x')", "bus.open('lead').send('lead', 't', {})"])
def test_clean_refuses_while_somebody_lives(pair: Cfn, bus_dir: Path, line: str) -> None:
    code = f"import sys; from cfn import FileBus; bus = FileBus(); {line}; print('here', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"here\n"
        pair("receive", "lead", "--ack")
        pair("bus", "clean").refused(1, "in use")
        other.communicate()
    pair("bus", "sweep", "--dead-agents")
    assert pair("bus", "clean").code == 0


def test_clean_refuses_what_is_not_a_bus(cfn: Cfn, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o700)
    (precious / "thesis.txt").write_text("years of work")
    cfn("bus", "clean", "--force", "--bus", str(precious)).refused(2, str(precious), "not a bus")
    assert (precious / "thesis.txt").exists()


def test_clean_refuses_a_bus_that_holds_something_else(pair: Cfn, bus_dir: Path) -> None:
    (bus_dir / "thesis").mkdir()
    pair("bus", "clean", "--force").refused(2, "'thesis'", "move it away")
    assert (bus_dir / "thesis").exists()
    assert pair("count", "lead").code == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_clean_empties_a_root_that_cannot_be_renamed(pair: Cfn, bus_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(source: Any, target: Any, **options: Any) -> None:
        if str(source) == str(bus_dir):
            raise OSError(16, "Device or resource busy")
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    assert pair("bus", "clean").code == 0
    assert bus_dir.exists()
    assert not list(bus_dir.iterdir())


def test_config_shows_every_setting_with_its_source(cfn: Cfn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cfn.toml").write_text("max_inbox = 5\nlease = 7.5\n")
    monkeypatch.setenv("CFN_LEASE", "9")
    shown = {row["name"]: row for row in cfn("config", "show", "--json").lines}
    assert list(shown) == [setting.name for setting in TABLE]
    assert (shown["max_inbox"]["value"], shown["max_inbox"]["source"]) == (5, str(tmp_path / "cfn.toml"))
    assert (shown["lease"]["value"], shown["lease"]["source"], shown["lease"]["default"]) == (9.0, "CFN_LEASE", 30.0)
    assert (shown["max_agents"]["value"], shown["max_agents"]["source"]) == (708, "default")
    assert shown["state_dir"]["value"].startswith(str(tmp_path / "home"))
    assert shown["state_dir"]["source"] == "default"
    text = cfn("config", "show").out
    assert all(setting.variable in text for setting in TABLE)


def test_the_eight_variables_of_the_reference_have_its_defaults(cfn: Cfn) -> None:
    shown = {row["variable"]: row["value"] for row in cfn("config", "show", "--json").lines}
    assert shown["CFN_TOPOLOGY"] == "hybrid"
    assert shown["CFN_MAX_AGENTS"] == 708
    assert shown["CFN_COORDINATORS"] == 7
    assert shown["CFN_WORKERS_PER_COORDINATOR"] == 100
    assert shown["CFN_METRICS_ENABLED"] is True
    assert shown["CFN_HEALTH_CHECK_INTERVAL"] == 30
    assert shown["CFN_MAX_COORDINATION_TIME"] == 60
    assert shown["CFN_MESSAGE_BASE_DIR"]


def test_config_shows_the_flag_as_a_source(cfn: Cfn, tmp_path: Path) -> None:
    row = cfn("config", "show", "message_base_dir", "--json", "--bus", str(tmp_path / "b")).line
    assert (row["value"], row["source"]) == (str(tmp_path / "b"), "flag")


def test_config_names_one_setting_either_way(cfn: Cfn) -> None:
    assert cfn("config", "show", "CFN_LEASE", "--json").line["value"] == 30
    cfn("config", "show", "leese").refused(2, "'leese'", "cfn config show")
