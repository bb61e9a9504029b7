"""One command as an agent: with pipes and pidfds, with each of them switched off, and at its worst behaviour."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfn.swarm.command import DRAIN_S, CommandJob, run_command
from cfn.swarm.job import Outcome
from cfn.swarm.kin import HAVE_PIDFD, descendants, open_pidfd

Runner = Callable[..., Outcome]


def finish(job: CommandJob, within_s: float = 20.0) -> Outcome:
    """Drive a job as a worker's loop does: poll, step, never longer than it asks for."""
    end = time.monotonic() + within_s
    while (outcome := job.step()) is None:
        assert time.monotonic() < end, (
            f"no outcome after {within_s} s; pid {job.pid}, fds {job.fds()}, due {job.due_s()}"
        )
        due = job.due_s()
        select.select(job.fds(), [], [], 1.0 if due is None else min(due, 1.0))
    assert job.fds() == []
    assert job.due_s() == 0.0
    assert job.step() is outcome
    return outcome


MODES = {
    "pidfd": {"pidfd": True},
    "no pidfd": {"pidfd": False},
    "no pollable pipes": {"pidfd": False, "pipes": False},
}


@pytest.fixture(params=MODES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    """Run a command in each mode; no descriptor is left open afterwards."""
    mode: dict[str, Any] = MODES[request.param]
    if request.param == "pidfd" and open_pidfd(os.getpid()) is None:
        pytest.skip("no pidfd here")
    before = sorted(os.listdir("/proc/self/fd"))

    def runner(*argv: str, **options: Any) -> Outcome:
        job = CommandJob(argv, spill_dir=tmp_path / "spill", **mode, **options)
        job.start()
        return finish(job)

    yield runner
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., CommandJob]:
    def make(*argv: str, **options: Any) -> CommandJob:
        return CommandJob(argv, spill_dir=tmp_path, **options)

    return make


# ---------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("printed", "result"),
    [
        ("hi\n", "hi"),
        ("hi", "hi"),
        ("two\nlines\n\n", "two\nlines\n"),
        ('{"a": [1, null]}\n', {"a": [1, None]}),
        (" 42 ", 42),
        ("true", True),
        ("null\n", None),
        ("", ""),
        ("1 2", "1 2"),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ('{"a":1}{"b":2}', '{"a":1}{"b":2}'),
        ("über\n", "über"),
    ],
)
def test_what_it_prints_is_the_result(run: Runner, printed: str, result: Any) -> None:
    outcome = run("printf", "%s", printed)
    assert (outcome.status, outcome.result, outcome.exit_code) == ("ok", result, 0)
    assert outcome.output_bytes == len(printed.encode())
    assert (outcome.reason, outcome.output_path, outcome.must_exit) == (None, None, False)


def test_bytes_that_are_no_text_are_replaced_or_kept(run: Runner) -> None:
    assert run("printf", r"a\377\n").result == "a\ufffd"
    assert run("printf", r"a\377\n", parse=False).result == "a\udcff\n"
    assert run("printf", "42\n", parse=False).result == "42\n"


def test_an_exit_code_is_a_failure_with_the_last_line_of_stderr(run: Runner) -> None:
    outcome = run("sh", "-c", "echo out; echo first >&2; echo 'the reason' >&2; echo >&2; exit 3")
    assert (outcome.status, outcome.exit_code, outcome.result) == ("failed", 3, "out")
    assert outcome.reason == "exit code 3: the reason"
    assert outcome.stderr_tail == "first\nthe reason\n\n"


def test_a_signal_is_named(run: Runner) -> None:
    outcome = run("sh", "-c", "kill -SEGV $$")
    assert (outcome.status, outcome.exit_code, outcome.reason) == ("failed", -signal.SIGSEGV, "killed by SIGSEGV")


def test_only_the_end_of_a_long_stderr_is_kept(run: Runner) -> None:
    outcome = run("sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done >&2")
    assert outcome.stderr_tail.endswith("line 19999\n")
    assert 4000 < len(outcome.stderr_tail) <= 4096


# ---------------------------------------------------------------- input


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
def test_stdin_arrives_whole(run: Runner, size: int) -> None:
    assert run("wc", "-c", stdin=b"x" * size).result == size


def test_a_command_that_never_reads_is_no_trouble(run: Runner) -> None:
    assert run("true", stdin=b"x" * 3_000_000).status == "ok"


def test_a_command_that_echoes_more_than_it_reads_does_not_deadlock(run: Runner) -> None:
    outcome = run("sh", "-c", "cat; cat /dev/zero | head -c 300000 >&2", stdin=b"x" * 300_000, limit_bytes=400_000)
    assert (outcome.status, outcome.output_bytes) == ("ok", 300_000)


def test_environment_and_folder_are_what_was_given(run: Runner, tmp_path: Path) -> None:
    outcome = run("sh", "-c", "echo $A; pwd", env={"A": "b", "PATH": os.environ["PATH"]}, cwd=tmp_path)
    assert outcome.result == f"b\n{tmp_path}"


def test_signals_and_descriptors_are_a_fresh_process_s(run: Runner) -> None:
    outcome = run("sh", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd | wc -l", parse=False)
    masks = dict(line.split(":\t") for line in outcome.result.splitlines()[:2])
    assert int(masks["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert masks["SigBlk"].strip("0") == ""
    others = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
    inherited = sum(os.get_inheritable(fd) for fd in others)  # by this process, from whoever started it
    assert int(outcome.result.splitlines()[2]) == 4 + inherited  # 0, 1, 2, and the folder that ls reads


# ---------------------------------------------------------------- what cannot be started


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["no-such-command-here"], 127, "command not found: 'no-such-command-here' is not on PATH"),
        (["./no-such-file"], 127, "command not found: './no-such-file' does not exist"),
        (["/etc/passwd"], 126, "cannot start '/etc/passwd': it is not executable (chmod +x?)"),
        (["/"], 126, "cannot start '/': it is not executable (chmod +x?)"),
        (["echo", "x" * 3_000_000], 126, "its arguments and environment are too long"),
        (["echo", "a\0b"], None, "embedded null byte"),
    ],
)
def test_what_cannot_be_started_fails_with_one_clear_reason(
    run: Runner, argv: list[str], code: int | None, said: str
) -> None:
    outcome = run(*argv)
    assert (outcome.status, outcome.exit_code, outcome.result) == ("failed", code, None)
    assert outcome.reason is not None
    assert said in outcome.reason
    assert "\n" not in outcome.reason


def test_a_script_names_what_is_wrong_with_its_first_line(run: Runner, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert "interpreter" in str(run(str(script)).reason)
    script.write_text("echo hi\n")
    outcome = run(str(script))
    assert (outcome.exit_code, "#! line" in str(outcome.reason)) == (126, True)


def test_a_folder_that_is_not_there_is_not_taken_for_the_command(run: Runner, tmp_path: Path) -> None:
    outcome = run("true", cwd=tmp_path / "missing")
    assert outcome.status == "failed"
    assert "--cwd" in str(outcome.reason)


# ---------------------------------------------------------------- timeouts and cancelling


def test_a_timeout_ends_it(run: Runner) -> None:
    outcome = run("sh", "-c", "echo so far; exec sleep 60", timeout_s=0.2)
    assert (outcome.status, outcome.exit_code) == ("timeout", -signal.SIGTERM)
    assert (outcome.reason, outcome.result) == ("timeout after 0.2 s", "so far")
    assert 0.2 <= outcome.duration_s < 1.0


def test_a_command_that_ignores_sigterm_is_killed_with_all_that_it_started(run: Runner) -> None:
    outcome = run(
        "sh", "-c", "trap '' TERM; sleep 61 & echo $!; while :; do sleep 61; done", timeout_s=0.2, grace_s=0.3
    )
    assert (outcome.status, outcome.exit_code) == ("timeout", -signal.SIGKILL)
    assert 0.5 <= outcome.duration_s < 2.0
    _gone(int(outcome.result))


def test_a_timeout_reaches_grandchildren_though_the_command_dies_at_once(run: Runner) -> None:
    outcome = run("sh", "-c", "(trap '' TERM; sleep 62; :) & echo $!; wait", timeout_s=0.2)
    assert outcome.status == "timeout"
    _gone(int(outcome.result))


def test_a_stopped_command_still_ends(run: Runner) -> None:
    assert run("sh", "-c", "kill -STOP $$; sleep 60", timeout_s=0.2).exit_code == -signal.SIGTERM


def test_cancelling_ends_it(job: Callable[..., CommandJob]) -> None:
    made = job("sleep", "60")
    made.start()
    assert made.step() is None
    made.terminate()
    assert (outcome := finish(made)).status == "cancelled"
    assert (outcome.exit_code, outcome.reason) == (-signal.SIGTERM, "cancelled while it ran")


def test_cancelling_without_grace_kills(job: Callable[..., CommandJob]) -> None:
    made = job("sh", "-c", "trap '' TERM; sleep 60")
    made.start()
    made.terminate(grace_s=0.0)
    assert finish(made).exit_code == -signal.SIGKILL


def test_a_command_that_ended_before_it_was_cancelled_counts(job: Callable[..., CommandJob]) -> None:
    made = job("echo", "done")
    made.start()
    assert made.pid is not None
    os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
    made.terminate()
    assert (finish(made).status, made.step()) == ("ok", made.step())


def test_cancelled_before_it_was_started_it_never_starts(job: Callable[..., CommandJob], tmp_path: Path) -> None:
    made = job("touch", str(tmp_path / "ran"))
    made.terminate()
    assert finish(made).status == "cancelled"
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- after the end


@pytest.mark.parametrize(
    "held", ["sleep 63 & echo $!", "sleep 63 >/dev/null & echo $!", "sleep 63 2>/dev/null & echo $!"]
)
def test_a_stray_process_that_holds_the_pipes_is_not_waited_for(job: Callable[..., CommandJob], held: str) -> None:
    made = job("sh", "-c", held)
    made.start()
    began = time.monotonic()
    outcome = finish(made)
    assert time.monotonic() - began < DRAIN_S + 1.0
    os.kill(int(outcome.result), signal.SIGKILL)
    assert outcome.status == "ok"


def test_what_a_short_lived_child_prints_after_the_end_is_still_read(job: Callable[..., CommandJob]) -> None:
    made = job("sh", "-c", "(sleep 0.05; echo late) & echo early")
    made.start()
    assert finish(made).result == "early\nlate"


# ---------------------------------------------------------------- large outputs


def test_a_hundred_megabytes_go_to_disk_and_not_into_memory(tmp_path: Path) -> None:
    code = (
        "import sys, tracemalloc; from cfn.swarm.command import run_command; tracemalloc.start(); "
        "o = run_command(['head', '-c', '100000000', '/dev/zero'], b'', spill_dir=sys.argv[1], task_id='big one'); "
        "print(o.status, o.result, o.output_bytes, o.output_sha256, o.output_path, "
        "tracemalloc.get_traced_memory()[1])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    status, result, size, digest, path, peak_bytes = said.split()
    assert (status, result, size) == ("ok", "None", "100000000")
    assert path == str(tmp_path / "big%20one.out")
    assert digest == hashlib.sha256(bytes(100_000_000)).hexdigest() == _sha256(Path(path))
    assert int(peak_bytes) < 20_000_000
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_an_output_just_at_the_limit_stays_in_the_result(run: Runner) -> None:
    assert run("printf", "%s", "x" * 98, limit_bytes=100).result == "x" * 98  # two quotes make 100
    outcome = run("printf", "%s", "x" * 99, limit_bytes=100)
    assert (outcome.result, outcome.output_bytes) == (None, 99)
    assert Path(str(outcome.output_path)).read_bytes() == b"x" * 99


def test_text_that_swells_as_json_is_measured_as_json(run: Runner) -> None:
    outcome = run("sh", "-c", r"printf '\001\001\001\001'", limit_bytes=20)
    assert Path(str(outcome.output_path)).read_bytes() == b"\1\1\1\1"


def test_a_later_attempt_replaces_the_output(run: Runner) -> None:
    run("printf", "%s", "x" * 50, limit_bytes=10)
    outcome = run("printf", "%s", "y" * 20, limit_bytes=10)
    assert Path(str(outcome.output_path)).read_bytes() == b"y" * 20


def test_an_output_that_no_disk_takes_is_a_failure_and_the_command_still_ends(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = CommandJob(["head", "-c", "1000000", "/dev/zero"], limit_bytes=10, spill_dir=tmp_path / "file" / "x")
    made.start()
    outcome = finish(made)
    assert (outcome.status, outcome.exit_code, outcome.output_path) == ("failed", 0, None)
    assert "could not be written" in str(outcome.reason)


def test_an_output_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "stdout").symlink_to(victim)
    made = CommandJob(["echo", "x"], keep_dir=str(tmp_path / "k"), spill_dir=tmp_path)
    made.start()
    outcome = finish(made)
    assert (outcome.status, outcome.result) == ("failed", "x")
    assert "could not be written" in str(outcome.reason)
    assert victim.read_text() == "precious"


def test_a_folder_for_results_gets_stdout_and_stderr_whole(run: Runner, tmp_path: Path) -> None:
    keep = tmp_path / "keep" / "t1"
    outcome = run("sh", "-c", "echo out; seq 10000 >&2", keep_dir=str(keep))
    assert outcome.result == "out"
    assert (keep / "stdout").read_bytes() == b"out\n"
    assert (keep / "stderr").read_text().splitlines() == [str(n) for n in range(1, 10001)]
    outcome = run("seq", "1000", keep_dir=str(keep), limit_bytes=100)
    assert outcome.output_path == str(keep / "stdout")
    assert outcome.output_sha256 == _sha256(keep / "stdout")


# ---------------------------------------------------------------- the blocking form


def test_run_command_leads_a_process_group_of_its_own(tmp_path: Path) -> None:
    code = "import os; print(os.getpgrp(), os.getpid())"
    outcome = run_command([sys.executable, "-c", code], b"", spill_dir=tmp_path)
    group, pid = str(outcome.result).split()
    assert group == pid != str(os.getpgrp())


def test_run_command_beats_while_it_waits(tmp_path: Path) -> None:
    beats: list[float] = []
    run_command(["sleep", "0.3"], b"", spill_dir=tmp_path, idle=lambda: beats.append(time.monotonic()), idle_s=0.05)
    assert len(beats) >= 4


def test_an_interrupt_ends_the_command_first(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    marker = str(tmp_path / "pid")
    with pytest.raises(KeyboardInterrupt):
        run_command(
            ["sh", "-c", f"echo $$ > {marker}; exec sleep 64"],
            b"",
            spill_dir=tmp_path,
            idle=lambda: interrupt() if os.path.exists(marker) and os.path.getsize(marker) else None,
            idle_s=0.02,
        )
    _gone(int(Path(marker).read_text()))


@pytest.mark.parametrize("proc", [True, False])
def test_descendants_are_found_through_generations(proc: bool) -> None:
    parent = subprocess.Popen(["sh", "-c", "sh -c 'sleep 65 & wait' & wait"])
    try:
        end = time.monotonic() + 5
        while len(found := descendants(parent.pid, proc)) < 2:
            assert time.monotonic() < end, found
            time.sleep(0.01)
    finally:
        for pid in (*descendants(parent.pid), parent.pid):
            os.kill(pid, signal.SIGKILL)
        parent.wait()


def test_pidfds_are_there_on_a_modern_linux() -> None:
    if sys.platform != "linux":
        pytest.skip("Linux only")
    assert HAVE_PIDFD


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except (FileNotFoundError, ProcessLookupError):  # it ended between two looks, or between open and read
        return False


def _gone(pid: int, within_s: float = 3.0) -> None:
    end = time.monotonic() + within_s
    while _runs(pid):
        assert time.monotonic() < end, f"process {pid} still lives: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}"
        time.sleep(0.01)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
