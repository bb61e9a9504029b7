"""`cfn agent`: the bridge of an agent that joined from outside, and the end of an agent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out

TELL = "import json,os,sys; print(json.dumps({'stdin': json.load(sys.stdin), 'env': dict(os.environ)}))"


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


def eventually(look: Callable[[], Any], timeout_s: float = 10) -> Any:
    """The first true value of `look`; fails with the last one that it saw."""
    until = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < until, f"still {seen!r} after {timeout_s} s"
        time.sleep(0.02)
    return seen


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`cfn agent run` in a process of its own, started; killed at the end if it still runs."""
    command = [sys.executable, "-m", "cfn", "agent", "run", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy()) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_bridge_runs_the_task_and_answers(pair: Cfn, send: Callable[..., str], bus_dir: Path) -> None:
    asked, told = send('{"n":1}', "request"), send('{"n":2}', "info")
    ran = pair("agent", "run", "worker-1", "Process job-001", "--task-id", "job-001", *python(TELL))
    assert ran.code == 0
    assert ran.err == ""
    result = ran.line
    assert (result["task_id"], result["status"], result["exit_code"], result["agent"]) == (
        "job-001",
        "ok",
        0,
        "worker-1",
    )
    assert (result["attempt"], result["messages"], result["replies"]) == (1, 2, 1)
    task, env = result["result"]["stdin"], result["result"]["env"]
    assert (task["task_id"], task["task"]) == ("job-001", "Process job-001")
    assert [message["msg_id"] for message in task["messages"]] == [asked, told]
    assert json.loads(env["CFN_TASK"]) == task
    assert (env["CFN_AGENT_ID"], env["CFN_TASK_ID"], env["CFN_COORDINATOR"]) == ("worker-1", "job-001", "lead")
    assert env["CFN_MESSAGE_BASE_DIR"] == env["MESSAGE_BASE_DIR"] == str(bus_dir)
    answer = pair("receive", "lead").line["message"]
    assert (answer["type"], answer["from"], answer["reply_to"]) == ("response", "worker-1", asked)
    assert answer["payload"]["status"] == "ok"
    assert answer["payload"]["result"] == result["result"]
    assert (
        pair("count", "lead").out == pair("count", "worker-1").out == pair("count", "worker-1", "claimed").out == "0\n"
    )


def test_request_task_and_work_are_answered_each(pair: Cfn, send: Callable[..., str]) -> None:
    asked = [send("{}", kind) for kind in ("request", "task", "work")]
    assert pair("agent", "run", "worker-1", "t", "--", "true").line["replies"] == 3
    assert [line["message"]["reply_to"] for line in pair("receive", "lead", "--limit", "9").lines] == asked


def test_every_message_of_a_batch_is_answered(pair: Cfn, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"payload":{}}\n{"payload":{}}\n')
    ids = pair("send", "--from", "lead", "--to", "worker-1", "--type", "task", "--batch", "b.jsonl").out.split()
    assert pair("agent", "run", "worker-1", "t", "--", "true").line["replies"] == 2
    assert [line["message"]["reply_to"] for line in pair("receive", "lead", "--limit", "9").lines] == ids


def test_the_coordinator_option_wins_over_the_environment(cfn: Cfn, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = python("import os; print(os.environ.get('CFN_COORDINATOR'))")
    assert cfn("agent", "run", "w", "t", *tell).line["result"] == "None"
    monkeypatch.setenv("CFN_COORDINATOR", "outer")
    assert cfn("agent", "run", "w", "t", *tell).line["result"] == "outer"
    assert cfn("agent", "run", "w", "t", "--coordinator", "inner", *tell).line["result"] == "inner"


def test_a_failed_command_is_exit_1_and_is_answered(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    ran = pair("agent", "run", "worker-1", "t", *python("import sys; print('half'); sys.exit('broke')"))
    assert ran.code == 1
    assert ran.line["status"] == "failed"
    assert ran.line["exit_code"] == 1
    assert ran.line["result"] == "half"
    assert ran.line["stderr_tail"] == "broke\n"
    assert "broke" in ran.line["reason"]
    assert pair("receive", "lead").line["message"]["payload"]["status"] == "failed"
    assert pair("count", "worker-1", "claimed").out == "0\n"


def test_a_timeout_is_exit_4_and_kills_what_ignores_sigterm(
    pair: Cfn, send: Callable[..., str], tmp_path: Path
) -> None:
    send()
    code = f"import os,signal,time; signal.signal(15, signal.SIG_IGN); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    began = time.monotonic()
    ran = pair("agent", "run", "worker-1", "t", "--timeout", "0.5", *python(code))
    assert ran.code == 4
    assert ran.line["status"] == "timeout"
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert pair("receive", "lead").line["message"]["payload"]["status"] == "timeout"


def test_output_above_the_limit_goes_to_a_file(cfn: Cfn, tmp_path: Path) -> None:
    code = "import sys\nfor n in range(1600): sys.stdout.write('x' * 65536)"
    line = cfn("agent", "run", "w", "t", "--task-id", "big", "--results", str(tmp_path / "out"), *python(code)).line
    assert line["status"] == "ok"
    assert line["result"] is None
    assert line["output_bytes"] == 1600 * 65536
    written = Path(line["output_path"])
    assert written.parent == tmp_path / "out"
    assert line["output_sha256"] == hashlib.sha256(b"x" * (1600 * 65536)).hexdigest()
    assert written.stat().st_size == line["output_bytes"]


def test_a_result_near_the_limit_still_fits_its_answer(
    pair: Cfn, send: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFN_MAX_MESSAGE_BYTES", "4096")
    send()
    ran = pair("agent", "run", "worker-1", "t", *python("import sys; print('x' * 2000); sys.stderr.write('e' * 9000)"))
    assert ran.code == 0
    payload = pair("receive", "lead").line["message"]["payload"]
    assert payload["status"] == "ok"
    assert payload["result"] is None
    assert "limit" in payload["reason"]


def test_a_command_that_is_not_there_costs_no_message(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("agent", "run", "worker-1", "t", "--", "no-such-tool").refused(3, "'no-such-tool'", "PATH")
    pair("agent", "run", "worker-1", "t", "--", "./nowhere/tool").refused(3, "'./nowhere/tool'", "executable")
    pair("agent", "run", "worker-1", "t", "--cwd", "/nowhere", "--", "true").refused(2, "'/nowhere'", "--cwd")
    assert pair("receive", "worker-1").line["attempt"] == 1


def test_without_a_command_it_hands_over_what_waits(pair: Cfn, shell: Cfn, send: Callable[..., str]) -> None:
    asked = send()
    ran = shell("agent", "run", "worker-1", "Process job-001", "--task-id", "job-001")
    assert ran.code == 0, ran
    assert {name: ran.line[name] for name in ("task_id", "task", "agent")} == {
        "task_id": "job-001", "task": "Process job-001", "agent": "worker-1",
    }  # fmt: skip
    (handed,) = ran.line["messages"]
    assert handed["message"]["msg_id"] == asked
    assert handed["attempt"] == 1
    assert pair("reply", handed["receipt"], "--payload", '{"done":1}').code == 0
    assert pair("receive", "lead").line["message"]["reply_to"] == asked


def test_an_agent_of_the_bridge_leaves_nothing_behind(cfn: Cfn) -> None:
    cfn("agent", "run", "w", "t", "--", "true")
    assert cfn("agent", "list", "--json").lines == []


def test_with_stay_it_stays_as_an_ephemeral_agent(cfn: Cfn) -> None:
    cfn("agent", "run", "w", "t", "--stay", "--role", "tester", "--", "true")
    (info,) = cfn("agent", "list", "--json").lines
    assert (info["agent"], info["attended"], info["role"]) == ("w", False, "tester")


def test_an_agent_that_was_there_before_is_there_afterwards(pair: Cfn) -> None:
    pair("register", "w", "--team", "red", "--max-inbox", "5")
    pair("agent", "run", "w", "t", "--", "true")
    info = next(info for info in pair("agent", "list", "--json").lines if info["agent"] == "w")
    assert (info["attended"], info["team"], info["max_inbox"]) == (False, "red", 5)


def test_mail_that_came_meanwhile_keeps_the_agent_here(pair: Cfn) -> None:
    code = "import subprocess,sys; sys.exit(subprocess.call([sys.executable, '-m', 'cfn', 'send', '--from', 'lead', '--to', 'w', '--type', 'late']))"
    assert pair("agent", "run", "w", "t", *python(code)).line["messages"] == 0
    assert pair("receive", "w").line["message"]["type"] == "late"


def test_it_is_alive_while_it_works_and_nobody_else_can_be_it(pair: Cfn) -> None:
    with running("w", "t", "--", "sleep", "60"):
        eventually(lambda: [info for info in pair("agent", "list", "--alive", "--json").lines if info["agent"] == "w"])
        pair("agent", "run", "w", "t", "--", "true").refused(1, "'w'", "alive")
        pair("register", "w").refused(1, "'w'", "alive")


def test_leases_are_held_while_the_command_works(
    pair: Cfn, send: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFN_LEASE", "0.6")
    send()
    ran = pair("agent", "run", "worker-1", "t", "--", "sleep", "2")
    assert ran.code == 0
    assert ran.err == ""
    assert ran.line["replies"] == 1
    assert pair("count", "worker-1").out == "0\n"


def test_a_cancel_ends_the_command(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    with running("worker-1", "t", "--task-id", "t1", "--", "sleep", "60") as bridge:
        eventually(lambda: pair("count", "worker-1", "claimed").out == "1\n")
        send('{"task_id":"another"}', "cancel", "--priority", "control")
        eventually(lambda: pair("count", "worker-1").out == "0\n")
        assert bridge.poll() is None, "a cancel of another task is not ours"
        send('{"task_id":"t1"}', "cancel", "--priority", "control")
        out, _ = bridge.communicate(timeout=10)
    assert bridge.returncode == 130
    assert json.loads(out)["status"] == "cancelled"
    assert pair("receive", "lead").line["message"]["payload"]["status"] == "cancelled"


def test_a_cancel_that_was_there_first_keeps_the_command_from_starting(
    pair: Cfn, send: Callable[..., str], tmp_path: Path
) -> None:
    send("{}", "cancel", "--priority", "control")
    ran = pair("agent", "run", "worker-1", "t", "--", "touch", str(tmp_path / "ran"))
    assert ran.code == 130
    assert ran.line["status"] == "cancelled"
    assert not (tmp_path / "ran").exists()


def test_health_is_answered_while_the_command_works(pair: Cfn, send: Callable[..., str]) -> None:
    with running("worker-1", "t", "--", "sleep", "60"):
        eventually(lambda: pair("agent", "list", "--alive", "--json").lines)
        asked = send("{}", "health", "--priority", "control")
        answer = pair("receive", "lead", "--timeout", "10").line["message"]
    assert (answer["reply_to"], answer["payload"]) == (asked, {"status": "healthy", "inbox_count": 0})


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_gives_the_messages_back(pair: Cfn, send: Callable[..., str], tmp_path: Path, signum: int) -> None:
    send()
    code = f"import os,time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with running("worker-1", "t", *python(code)) as bridge:
        eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        bridge.send_signal(signum)
        out, err = bridge.communicate(timeout=10)
    assert bridge.returncode == 130
    assert json.loads(out)["status"] == "cancelled"
    assert err == b"cfn: interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert pair("receive", "worker-1").line["attempt"] == 2
    assert pair("count", "lead").out == "0\n", "nothing was answered"


def test_a_killed_bridge_frees_its_messages_at_once(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    with running("worker-1", "t", "--", "sleep", "5") as bridge:
        eventually(lambda: pair("count", "worker-1", "claimed").out == "1\n")
        bridge.kill()
        bridge.wait()
        assert pair("receive", "worker-1", "--timeout", "2").line["attempt"] == 2


def test_an_answer_that_finds_no_room_is_exit_6_and_the_message_goes_back(
    pair: Cfn, send: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFN_SEND_TIMEOUT", "0.05")
    pair("register", "lead", "--max-inbox", "1")
    send()
    assert pair("send", "--from", "worker-1", "--to", "lead", "--type", "noise").code == 0
    ran = pair("agent", "run", "worker-1", "t", "--", "true")
    assert ran.code == 6
    assert ran.line["status"] == "ok"
    assert ran.line["replies"] == 0
    assert ran.err.count("\n") == 1
    assert "'lead' is full" in ran.err
    assert pair("receive", "worker-1").line["attempt"] == 2


def test_an_asker_that_is_gone_does_not_undo_the_work(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("agent", "shutdown", "lead")
    ran = pair("agent", "run", "worker-1", "t", "--", "true")
    assert ran.code == 0
    assert ran.line["replies"] == 0
    assert "lead is gone" in ran.err
    assert pair("count", "worker-1").out == pair("count", "worker-1", "claimed").out == "0\n"


@pytest.mark.parametrize("task_id", ["", "a\0b"])
def test_an_unusable_task_id_is_refused(cfn: Cfn, task_id: str) -> None:
    cfn("agent", "run", "w", "t", "--task-id", task_id, "--", "true").refused(2, "--task-id")


# ---------------------------------------------------------------- list and shutdown


def test_list_filters_and_shows_a_table(pair: Cfn) -> None:
    pair("register", "x", "--team", "red", "--run", "r1")
    assert [info["agent"] for info in pair("agent", "list", "--team", "red", "--json").lines] == ["x"]
    assert [info["agent"] for info in pair("agent", "list", "--run", "r2", "--json").lines] == []
    assert pair("agent", "list", "--alive", "--json").lines == []
    rows = pair("agent", "list").out.splitlines()
    assert rows[0].split()[:2] == ["AGENT", "STATE"]
    assert len(rows) == 4
    assert rows[3].split()[:2] == ["x", "ephemeral"]


def test_shutdown_tells_the_coordinator_and_removes_the_mailbox(pair: Cfn, bus_dir: Path) -> None:
    ran = pair("agent", "shutdown", "worker-1", "--json")
    assert ran.line == {"agent": "worker-1", "removed": True, "coordinator_told": True, "buried": 0}
    told = pair("receive", "lead").line["message"]
    assert (told["from"], told["type"], told["payload"]) == ("worker-1", "shutdown", {"reason": "graceful"})
    assert told["priority"] == "control"
    assert not (bus_dir / "worker-1").exists()


def test_shutdown_refuses_while_messages_are_left(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("agent", "shutdown", "worker-1").refused(4, "worker-1", "1 message:", "--force")
    pair("receive", "worker-1")
    pair("agent", "shutdown", "worker-1").refused(4, "1 message")
    assert pair("count", "lead").out == "0\n"


def test_shutdown_waits_for_a_receiver(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    with subprocess.Popen(
        [sys.executable, "-m", "cfn", "receive", "worker-1", "--follow", "--ack", "--timeout", "1"],
        stdout=subprocess.DEVNULL,
    ):
        ran = pair("agent", "shutdown", "worker-1", "--timeout", "20", "--json")
    assert ran.code == 0
    assert ran.line["buried"] == 0


def test_shutdown_buries_what_is_left_after_its_timeout(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    ran = pair("agent", "shutdown", "worker-1", "--timeout", "0.1")
    assert ran.code == 4
    assert "1 message buried" in ran.out
    assert pair("bus", "dead", "--json").line["reason"] == "agent-gone"


def test_shutdown_by_force_buries_at_once(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    assert pair("agent", "shutdown", "worker-1", "--force", "--json").line["buried"] == 1
    assert pair("bus", "dead", "--json").line["reason"] == "agent-gone"


def test_shutdown_goes_on_when_the_coordinator_is_gone(pair: Cfn) -> None:
    pair("agent", "shutdown", "lead")
    ran = pair("agent", "shutdown", "worker-1", "--json")
    assert ran.code == 0
    assert ran.line["coordinator_told"] is False
    assert "lead was not told" in ran.err


def test_shutdown_of_a_working_agent_lets_it_finish(pair: Cfn) -> None:
    with running("w", "t", "--coordinator", "lead", "--", "sleep", "0.6") as bridge:
        eventually(lambda: pair("agent", "list", "--alive", "--json").lines)
        ran = pair("agent", "shutdown", "w", "--timeout", "20")
        assert ran.code == 0, ran
        out, _ = bridge.communicate(timeout=10)
    assert bridge.returncode == 0
    assert json.loads(out)["status"] == "ok"
    assert pair("receive", "lead").line["message"]["type"] == "shutdown"
    pair("count", "w").refused(3, "'w'")


def test_shutdown_says_so_when_a_working_agent_stays(pair: Cfn) -> None:
    with running("w", "t", "--", "sleep", "60"):
        eventually(lambda: pair("agent", "list", "--alive", "--json").lines)
        pair("agent", "shutdown", "w", "--timeout", "0.1").refused(4, "w was told", "0.1 s", "--timeout")
