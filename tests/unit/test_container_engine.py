"""Starting a container engine, with programs of our own in the places of docker, dockerd, apt-get."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cfn.errors import Exit, UnfitHost
from cfn.rollout import engine

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="engines are started on Linux only")

Program = Callable[[str, str], Path]

SILENT = 'echo "Cannot connect to the Docker daemon at $DOCKER_HOST. Is it running?" >&2; exit 1'


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Makes shell scripts which are all that is on PATH, and keeps the engine's own files in this test's folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine, "find", engine.shutil.which)
    monkeypatch.setattr(
        engine, "PID_FILES", ((tmp_path / "docker.pid", "dockerd"), (tmp_path / "cd.pid", "containerd"))
    )
    monkeypatch.setattr(engine, "LOG_FOLDERS", (tmp_path,))
    monkeypatch.setattr(engine, "SYSTEMD", tmp_path / "no-systemd")
    monkeypatch.setattr(engine.os, "geteuid", lambda: 0)

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def by_hand(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = engine.main(arguments)
    return code, capsys.readouterr().err


def test_an_engine_that_answers_is_left_alone(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    program("docker", "echo 29.1.2")
    program("dockerd", 'touch "$0.started"')
    assert engine.main(["start"]) == Exit.OK
    assert capsys.readouterr().out == "docker 29.1.2 answers\n"
    assert engine.main(["status"]) == Exit.OK
    assert not Path(os.environ["PATH"], "dockerd.started").exists()


def test_dockerd_is_started_once_and_in_a_session_of_its_own(program: Program, tmp_path: Path) -> None:
    program("docker", f"test -e {tmp_path}/up && echo 20.10 || {{ {SILENT}; }}")
    program("dockerd", f"echo hello; echo $$ > {tmp_path}/pid; touch {tmp_path}/up; exec sleep 60")
    said: list[str] = []
    assert engine.start(20.0, said.append).answers
    pid = int((tmp_path / "pid").read_text())
    try:
        assert os.getsid(pid) == pid
        assert (tmp_path / "cfn-dockerd.log").read_text() == "hello\n"
        assert str(pid) in said[-1]
        assert engine.start(20.0, said.append).answers
        assert int((tmp_path / "pid").read_text()) == pid, "a second start finds it and starts no other"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_dockerd_that_ends_at_once_is_told_with_its_own_words(
    program: Program, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program("docker", SILENT)
    program("dockerd", 'echo "failed to start daemon: no space left" >&2; echo bye >&2; exit 7')
    code, line = by_hand("start", "--timeout", "20", capsys=capsys)
    assert code == Exit.UNFIT
    assert line.splitlines()[-1] == (
        f"dockerd ended at once with 7: failed to start daemon: no space left (log: {tmp_path}/cfn-dockerd.log)"
    )


def test_a_dockerd_that_never_answers_is_ended_at_the_deadline(
    program: Program, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program("docker", SILENT)
    program("dockerd", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    code, line = by_hand("start", "--timeout", "0.5", capsys=capsys)
    assert code == Exit.UNFIT
    assert "did not answer in time" in line.splitlines()[-1]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("found", ["999999999", "nonsense", "", "ours"])
def test_a_pid_file_whose_process_is_gone_or_somebody_else_is_removed(tmp_path: Path, found: str) -> None:
    path = tmp_path / "docker.pid"
    path.write_text(str(os.getpid()) if found == "ours" else found)
    said: list[str] = []
    assert engine.heal_pid_file(path, "dockerd", said.append)
    assert not path.exists()
    assert said == [f"removed the stale {path}"]


def test_a_pid_file_of_a_living_daemon_stays_and_no_second_one_is_started(program: Program, tmp_path: Path) -> None:
    program("docker", f"test -e {tmp_path}/asked && echo 20.10 || {{ touch {tmp_path}/asked; {SILENT}; }}")
    program("dockerd", f"touch {tmp_path}/started")
    sleeper = Path("/bin/sleep").read_bytes()  # a process of that name, as the kernel sees it
    (tmp_path / "dockerd").write_bytes(sleeper)
    (tmp_path / "dockerd").chmod(0o755)
    daemon = subprocess.Popen([tmp_path / "dockerd", "60"])
    try:
        (tmp_path / "docker.pid").write_text(str(daemon.pid))
        assert engine.start(20.0).answers
        assert (tmp_path / "docker.pid").exists()
        assert not (tmp_path / "started").exists()
    finally:
        daemon.kill()
        daemon.wait()


def test_a_pid_file_of_a_zombie_is_stale(tmp_path: Path) -> None:
    (tmp_path / "dockerd").write_bytes(Path("/bin/true").read_bytes())
    (tmp_path / "dockerd").chmod(0o755)
    daemon = subprocess.Popen([tmp_path / "dockerd"])
    os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
    path = tmp_path / "docker.pid"
    path.write_text(str(daemon.pid))
    assert engine.heal_pid_file(path, "dockerd")
    daemon.wait()


def test_an_engine_elsewhere_is_not_started_from_here(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("docker", SILENT)
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    code, line = by_hand("start", capsys=capsys)
    assert (code, line.count("\n")) == (Exit.UNFIT, 1)
    assert "DOCKER_HOST=tcp://192.0.2.1:2375" in line


def test_a_socket_that_is_not_for_us_is_no_reason_to_start_another(program: Program) -> None:
    program("docker", 'echo "permission denied while trying to connect to the docker API" >&2; exit 1')
    program("dockerd", "exit 1")
    with pytest.raises(engine.NoEngine, match="join the group docker"):
        engine.start()


def test_without_root_it_says_who_can(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("docker", SILENT)
    program("dockerd", "exit 1")
    monkeypatch.setattr(engine.os, "geteuid", lambda: 1000)
    with pytest.raises(engine.NoEngine, match="only root can start it"):
        engine.start()


def test_what_is_missing_is_installed_with_apt_and_then_started(program: Program, tmp_path: Path) -> None:
    bin_ = os.environ["PATH"]
    program(
        "apt-get",
        f"""echo "$@" >> {tmp_path}/apt
        case "$*" in *docker.io*)
          printf '#!/bin/sh\\necho 20.10\\n' > {bin_}/docker; printf '#!/bin/sh\\n/bin/sleep 1\\n' > {bin_}/dockerd
          chmod 755 {bin_}/docker {bin_}/dockerd;;
        esac""",
    )
    assert engine.start(20.0).answers
    assert (tmp_path / "apt").read_text().splitlines() == [
        "-q update",
        "-q install -y --no-install-recommends docker.io",
    ]


def test_an_apt_that_fails_is_told_with_its_own_words(program: Program) -> None:
    program("apt-get", 'echo "E: Unable to locate package docker.io" >&2; exit 100')
    with pytest.raises(UnfitHost, match=r"apt-get could not install docker.io: E: Unable to locate"):
        engine.start()


def test_without_apt_it_says_what_to_install(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    program("docker", SILENT)
    code, line = by_hand("start", capsys=capsys)
    assert (code, line.count("\n")) == (Exit.UNFIT, 1)
    assert "dockerd is not installed" in line


def test_a_status_without_an_engine_is_one_line_and_exit_5(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = by_hand("status", capsys=capsys)
    assert (code, line) == (5, "no container engine answers: the docker command is not installed\n")


def test_an_engine_that_hangs_is_not_waited_for(program: Program) -> None:
    program("docker", "exec sleep 30")
    assert engine.status(0.2) == engine.Status(False, "the engine did not answer within 0.2 s")


def test_a_sweep_without_an_engine_has_nothing_to_do(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.main(["sweep"]) == Exit.OK
    assert "nothing to sweep" in capsys.readouterr().out


def test_the_file_runs_by_its_path_in_a_checkout_where_nothing_is_installed(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-I", "-S", engine.__file__, "status"],
        env={"PATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (5, "no container engine answers: the docker command is not installed\n")
