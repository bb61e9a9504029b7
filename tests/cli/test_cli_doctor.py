"""`cfn doctor`: each limit is found out where it bites, and each line that is not ok says its mend."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cfn import settings
from cfn.cli import doctor, host
from cfn.swarm import footprint

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out
MB = 1 << 20


def verdicts(ran: Any) -> dict[str, Any]:
    lines = {line["check"]: line for line in ran.lines}
    for line in lines.values():
        assert line["verdict"] in ("ok", "warn", "bad"), line
        assert line["found"], line
        assert bool(line["mend"]) == (line["verdict"] != "ok"), line
    assert ran.code == (5 if any(line["verdict"] == "bad" for line in lines.values()) else 0)
    return lines


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which nothing is wrong."""
    from cfn.bus import place

    monkeypatch.setattr(host, "room", lambda path: host.Room(8192 * MB, 8000 * MB, 10_000_000))
    monkeypatch.setattr(host, "open_files", lambda: (65536, 65536))
    monkeypatch.setattr(host, "pid_limits", lambda: {"kernel.pid_max": 100_000})
    monkeypatch.setattr(host, "memory", lambda: (16_000 * MB, "the machine"))
    monkeypatch.setattr(host, "in_container", lambda: False)
    monkeypatch.setattr(host, "engine", lambda: ("docker", "docker answers"))
    monkeypatch.setattr(place, "filesystem", lambda path: "tmpfs")


def test_a_fit_host_is_ok_on_every_line(cfn: Cfn, fit: None) -> None:
    cfn("bus", "init")
    lines = verdicts(cfn("doctor", "--json"))
    assert {line["verdict"] for line in lines.values()} == {"ok"}
    wanted = {"python", "bus folder", "file system", "locks", "space", "inodes", "open files", "processes", "memory"}
    assert wanted | {"container engine"} == set(lines)


def test_the_text_shows_verdict_and_mend(cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory", lambda: (100 * MB, "cgroup /x"))
    ran = cfn("doctor", "--agents", "500")
    assert ran.code == 5
    assert ran.err == ""
    rows = ran.out.splitlines()
    at = next(number for number, row in enumerate(rows) if row.startswith("bad  memory"))
    assert "100 MB available on cgroup /x, 500 MB needed" in rows[at]
    assert "-> fewer --agents" in rows[at + 1]
    assert "\033" not in ran.out, "no colour off a terminal"


def test_it_makes_nothing(cfn: Cfn, bus_dir: Path) -> None:
    cfn("doctor")
    assert not bus_dir.exists()


def test_the_plan_is_what_needs_are_measured_by(cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "pid_limits", lambda: {"kernel.pid_max": 1000})
    found = {
        agents: verdicts(cfn("doctor", "--json", "--agents", agents))["processes"]["verdict"]
        for agents in ("100", "300", "600")
    }
    assert found == {"100": "ok", "300": "warn", "600": "bad"}
    monkeypatch.setenv("CFN_MAX_AGENTS", "600")
    assert verdicts(cfn("doctor", "--json"))["processes"]["verdict"] == "bad"


@pytest.mark.parametrize(
    ("free", "inodes", "space", "nodes"),
    [
        (708 * footprint.TMPFS_BYTES * 2, 708 * footprint.INODES * 2, "ok", "ok"),
        (708 * footprint.TMPFS_BYTES, 708 * footprint.INODES, "warn", "warn"),
        (708 * footprint.TMPFS_BYTES - 1, 708 * footprint.INODES - 1, "bad", "bad"),
        (8000 * MB, None, "ok", None),
    ],
)
def test_space_and_inodes(
    cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int | None, space: str, nodes: str | None
) -> None:
    monkeypatch.setattr(host, "room", lambda path: host.Room(free, free, inodes))
    lines = verdicts(cfn("doctor", "--json"))
    assert lines["space"]["verdict"] == space
    assert lines.get("inodes", {}).get("verdict") == nodes


@pytest.mark.parametrize(
    ("kind", "verdict"), [("tmpfs", "ok"), ("ext4", "warn"), ("overlay", "warn"), ("nfs4", "bad"), ("9p", "bad")]
)
def test_the_kind_of_file_system(cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str) -> None:
    from cfn.bus import place

    monkeypatch.setattr(place, "filesystem", lambda path: kind)
    line = verdicts(cfn("doctor", "--json"))["file system"]
    assert line["verdict"] == verdict
    assert kind in line["found"]


def test_a_container_with_the_default_shm(cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    monkeypatch.setattr(host, "in_container", lambda: True)
    monkeypatch.setattr(host, "room", lambda path: host.Room(64 * MB, 60 * MB, 10_000_000))
    where = ["--bus", "/dev/shm/cfn-doctor-test", "--json"]
    assert verdicts(cfn("doctor", "--agents", "100", *where))["/dev/shm"]["verdict"] == "ok"
    assert verdicts(cfn("doctor", "--agents", "708", *where))["/dev/shm"]["verdict"] == "warn"
    line = verdicts(cfn("doctor", "--agents", "2000", *where))["/dev/shm"]
    assert line["verdict"] == "bad"
    assert "--shm-size" in line["mend"]
    assert "64 MB" in line["found"]
    elsewhere = verdicts(cfn("doctor", "--agents", "1050", "--json"))["/dev/shm"]
    assert elsewhere["verdict"] == "ok", "the bus is not there"


def test_an_unfit_root_is_bad_with_its_mend(cfn: Cfn, fit: None, bus_dir: Path) -> None:
    bus_dir.mkdir()
    bus_dir.chmod(0o755)
    line = verdicts(cfn("doctor", "--json"))["bus folder"]
    assert line["verdict"] == "bad"
    assert f"chmod 700 {bus_dir}" in line["mend"]


def test_switched_off_capabilities_are_seen(cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cfn("bus", "init")
    monkeypatch.setenv("CFN_WITHOUT", "doorbell,dir_fd,flock,fork")
    lines = verdicts(cfn("doctor", "--json"))
    assert {name: lines[name]["verdict"] for name in ("locks", "capabilities", "fork")} == dict.fromkeys(
        ("locks", "capabilities", "fork"), "warn"
    )
    assert "doorbell, dir_fd" in lines["capabilities"]["found"]


def test_no_engine_is_a_warning_only(cfn: Cfn, fit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "engine", lambda: (None, "neither docker nor podman is installed"))
    assert verdicts(cfn("doctor", "--json"))["container engine"]["verdict"] == "warn"


def test_agents_must_be_a_number(cfn: Cfn) -> None:
    cfn("doctor", "--agents", "many").refused(2, "--agents", "'many'")


# ---------------------------------------------------------------- the facts, on this very host


def test_a_low_limit_of_open_files_is_found(shell: Cfn) -> None:
    command = f"ulimit -Sn 100; exec {sys.executable} -m cfn doctor --json"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert done.stderr == ""
    line = next(line for line in done.stdout.splitlines() if '"open files"' in line)
    assert '"bad"' in line
    assert "100 allowed to one coordinator of 100, 464 needed" in line
    assert "ulimit -n" in line


def test_a_small_tmpfs_is_found(bus_dir: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    script = f"mount -t tmpfs -o size=8m,nr_inodes=500,mode=0700 none /mnt && exec {sys.executable} -m cfn doctor --bus /mnt/bus --json"
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    if "doctor" not in done.args[-1] or not done.stdout:
        pytest.skip(f"mounting a tmpfs in a namespace is not allowed here: {done.stderr.strip()}")
    lines = {line.split('"')[3]: line for line in done.stdout.splitlines()}
    assert done.returncode == 5
    assert '"bad"' in lines["space"]
    assert '"bad"' in lines["inodes"]
    assert '"ok"' in lines["file system"]


def test_open_files_are_what_the_system_says() -> None:
    assert host.open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_the_tightest_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, most, now in (("outer", "1000", "900"), ("outer/inner", "max", "5")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pids.max").write_text(f"{most}\n")
        (tmp_path / folder / "pids.current").write_text(f"{now}\n")
        (tmp_path / folder / "memory.max").write_text("max\n")
    (tmp_path / "outer" / "memory.max").write_text(f"{300 * MB}\n")
    (tmp_path / "outer" / "memory.current").write_text(f"{200 * MB}\n")
    monkeypatch.setattr(host, "cgroups", lambda controller: iter([tmp_path / "outer/inner", tmp_path / "outer"]))
    assert host.pid_limits()[f"pids.max of cgroup {tmp_path}/outer"] == 100
    assert f"pids.max of cgroup {tmp_path}/outer/inner" not in host.pid_limits()
    assert host.memory() == (100 * MB, f"cgroup {tmp_path}/outer")


def test_control_groups_are_this_process_and_all_above() -> None:
    if not Path("/proc/self/cgroup").exists():
        pytest.skip("no control groups here")
    for folder in host.cgroups("pids"):
        assert folder.is_dir()
        assert str(folder).startswith("/sys/fs/cgroup")


def test_an_engine_is_one_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    name, tried = host.engine()
    assert name is None
    assert str(path) in tried
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            line, _ = server.accept()
            with line:
                line.recv(1000)
                line.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")

        thread = threading.Thread(target=answer)
        thread.start()
        assert host.engine() == ("docker", f"docker answers at unix://{path}")
        thread.join()


def test_room_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert host.nearest(str(tmp_path / "a" / "b")) == str(tmp_path)
    found, here = host.room(str(tmp_path / "a" / "b")), os.statvfs(tmp_path)
    assert found is not None
    assert found.total_bytes == here.f_blocks * here.f_frsize


def test_needs_are_the_footprint_times_the_agents(cfn: Cfn, fit: None) -> None:
    line = verdicts(cfn("doctor", "--json", "--agents", "1000"))["inodes"]
    assert line["found"] == f"10000000 free, {1000 * footprint.INODES} needed"
    assert len(doctor.CHECKS) == 10


def test_locks_that_could_not_be_tried_are_a_finding_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cfn.bus.capabilities.probe", refuse)
    (line,) = doctor._locks(doctor.Plan(settings.load(), str(tmp_path), 1, 1))
    assert (line.check, line.verdict) == ("locks", "bad")
    assert "No space" in line.found
