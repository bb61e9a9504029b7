"""The verbs of the bus, as a shell script uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cfn.bus.protocol import BOXES, REASONS
from cfn.cli import bury, peek

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out


def test_the_choices_are_those_of_the_bus() -> None:
    assert bury.REASONS == REASONS
    assert peek.BOXES == BOXES


def test_register_counts_incarnations(cfn: Cfn) -> None:
    assert cfn("register", "a").out == "a (incarnation 1)\n"
    assert cfn("register", "a", "--json").line == {"agent": "a", "epoch": 2}


def test_register_keeps_what_it_is_told(cfn: Cfn) -> None:
    options = [
        "--role",
        "tester",
        "--team",
        "red",
        "--run",
        "r1",
        "--coordinator",
        "lead",
        "--capability",
        "py",
        "--shared",
    ]
    cfn("register", "a", *options, "--max-inbox", "7")
    (info,) = cfn("agent", "list", "--json").lines
    assert (info["role"], info["team"], info["run"], info["parent"]) == ("tester", "red", "r1", "lead")
    assert (info["capabilities"], info["shared"], info["max_inbox"], info["attended"]) == (["py"], True, 7, False)


def test_send_prints_the_id_of_the_message(pair: Cfn, send: Callable[..., str]) -> None:
    sent = send('{"text":"Grüße \\ud83d\\ude00"}')
    (message,) = pair("peek", "worker-1").lines
    assert message["msg_id"] == sent
    assert (message["from"], message["to"], message["type"]) == ("lead", "worker-1", "request")
    assert message["payload"] == {"text": "Grüße 😀"}


def test_send_with_json_prints_the_whole_message(pair: Cfn) -> None:
    sent = pair("send", "--from", "lead", "--to", "worker-1", "--type", "task", "--json").line
    assert sent == pair("peek", "worker-1").line
    assert sent["payload"] == {}


@pytest.mark.parametrize("options", [["-"], ["--payload", "-"]])
def test_a_payload_comes_from_stdin(pair: Cfn, shell: Cfn, options: list[str]) -> None:
    sent = shell("send", "--from", "lead", "--to", "worker-1", "--type", "t", *options, stdin=b'{"from":"stdin"}\n')
    assert sent.code == 0, sent
    assert pair("peek", "worker-1").line["payload"] == {"from": "stdin"}


def test_send_sets_what_its_options_say(pair: Cfn, send: Callable[..., str]) -> None:
    send("{}", "work", "--priority", "high", "--reply-to", "m-1", "--expires-in", "60")
    message = pair("peek", "worker-1").line
    assert message["priority"] == "high"
    assert message["reply_to"] == "m-1"
    assert 50 < message["expires_at"] - time.time() <= 60


def test_the_control_lane_is_served_first(pair: Cfn, send: Callable[..., str]) -> None:
    send("{}", "work")
    send("{}", "cancel", "--priority", "control")
    assert [line["message"]["type"] for line in pair("receive", "worker-1", "--limit", "2").lines] == ["cancel", "work"]


def test_a_delayed_message_comes_later(pair: Cfn, send: Callable[..., str]) -> None:
    send("{}", "work", "--delay", "0.4")
    began = time.monotonic()
    assert pair("receive", "worker-1").code == 4
    assert pair("receive", "worker-1", "--timeout", "10").line["attempt"] == 1
    assert 0.2 < time.monotonic() - began < 5


def test_an_expired_message_is_buried(pair: Cfn, send: Callable[..., str]) -> None:
    send("{}", "work", "--expires-in", "0.01")
    time.sleep(0.02)
    assert pair("receive", "worker-1").code == 4
    assert pair("bus", "dead", "--json").line["reason"] == "expired"


def test_a_batch_is_one_delivery(pair: Cfn, tmp_path: Path) -> None:
    lines = [{"payload": {"n": 1}}, {"payload": {"n": 2}, "type": "work", "reply_to": "m-9", "expires_in": 60}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    sent = pair("send", "--from", "lead", "--to", "worker-1", "--type", "task", "--batch", "b.jsonl")
    assert sent.code == 0
    assert len(sent.out.split()) == 2
    assert pair("count", "worker-1").out == "1\n"
    messages = pair("receive", "worker-1").line["messages"]
    assert [message["msg_id"] for message in messages] == sent.out.split()
    assert [message["type"] for message in messages] == ["task", "work"]
    assert messages[1]["reply_to"] == "m-9"
    assert "reply_to" not in messages[0]


def test_nothing_to_receive_is_exit_4_with_no_output(pair: Cfn) -> None:
    ran = pair("receive", "worker-1", "--timeout", "0.05")
    assert (ran.code, ran.out, ran.err) == (4, "", "")


def test_a_receipt_outlives_the_process_that_printed_it(pair: Cfn, shell: Cfn, send: Callable[..., str]) -> None:
    send()
    got = shell("receive", "worker-1").line
    assert got["agent"] == "worker-1"
    assert got["attempt"] == 1
    assert got["message"]["payload"] == {"n": 1}
    assert 20 < got["lease_until"] - time.time() <= 30
    assert pair("bus", "sweep", "--json").line["returned"] == 0, "a sweep leaves it alone while its lease runs"
    assert pair("receive", "worker-1").code == 4
    assert shell("ack", got["receipt"]).code == 0
    assert pair("count", "worker-1", "claimed").out == "0\n"
    pair("ack", got["receipt"]).refused(3, "worker-1", "lease")


def test_a_lease_that_ended_brings_the_message_back(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    first = pair("receive", "worker-1", "--lease", "0.05").line
    again = pair("receive", "worker-1", "--timeout", "10").line
    assert again["attempt"] == 2
    assert again["message"]["msg_id"] == first["message"]["msg_id"]
    pair("ack", first["receipt"]).refused(3, "lease")
    assert pair("ack", again["receipt"]).code == 0


def test_renew_gives_a_new_receipt(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    first = pair("receive", "worker-1").line["receipt"]
    second = pair("renew", first, "--lease", "100").out.strip()
    assert second != first
    pair("ack", first).refused(3)
    assert pair("ack", second).code == 0


def test_release_delivers_again(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    assert pair("release", pair("receive", "worker-1").line["receipt"]).code == 0
    assert pair("receive", "worker-1").line["attempt"] == 2


def test_release_with_a_delay_delivers_later(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("release", pair("receive", "worker-1").line["receipt"], "--delay", "0.3")
    assert pair("receive", "worker-1").code == 4
    assert pair("receive", "worker-1", "--timeout", "10").line["attempt"] == 2


def test_bury_and_put_back(pair: Cfn, send: Callable[..., str]) -> None:
    sent = send()
    assert pair("bury", pair("receive", "worker-1").line["receipt"], "--reason", "fenced").code == 0
    letter = pair("bus", "dead", "--json").line
    assert (letter["reason"], letter["agent"], letter["from"], letter["message"]["msg_id"]) == (
        "fenced",
        "worker-1",
        "lead",
        sent,
    )
    assert letter["letter"] in pair("bus", "dead").out
    assert pair("bus", "dead", "--put-back", letter["letter"]).code == 0
    assert pair("receive", "worker-1").line["attempt"] == 1
    assert pair("bus", "dead").out == ""


def test_many_receipts_are_settled_each_on_its_own(pair: Cfn, shell: Cfn, send: Callable[..., str]) -> None:
    for _ in range(3):
        send()
    receipts = [line["receipt"] for line in pair("receive", "worker-1", "--limit", "3").lines]
    assert pair("ack", receipts[1]).code == 0
    ran = shell("ack", "--json", "-", stdin="\n".join(receipts).encode())
    assert ran.code == 3, "the exit code is that of the failure"
    assert [line["receipt"] for line in ran.lines] == [receipts[0], receipts[2]]
    assert ran.err.count("\n") == 1
    assert receipts[1] in ran.err


def test_reply_answers_and_acks(pair: Cfn, send: Callable[..., str]) -> None:
    sent = send()
    receipt = pair("receive", "worker-1").line["receipt"]
    answer = pair("reply", receipt, "--payload", '{"done":true}', "--json").line
    got = pair("receive", "lead").line["message"]
    assert got == answer
    assert (got["from"], got["type"], got["reply_to"], got["payload"]) == ("worker-1", "response", sent, {"done": True})
    assert pair("count", "worker-1", "claimed").out == "0\n"


def test_reply_without_ack_keeps_the_claim(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    receipt = pair("receive", "worker-1").line["receipt"]
    assert pair("reply", receipt, "--no-ack", "--type", "progress").code == 0
    assert pair("count", "worker-1", "claimed").out == "1\n"
    assert pair("ack", receipt).code == 0


def test_a_message_of_a_batch_is_answered_by_its_id(pair: Cfn, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"payload":{}}\n{"payload":{}}\n')
    ids = pair("send", "--from", "lead", "--to", "worker-1", "--type", "task", "--batch", "b.jsonl").out.split()
    receipt = pair("receive", "worker-1").line["receipt"]
    pair("reply", receipt).refused(2, "batch of 2", "--message")
    pair("reply", receipt, "--message", "nonsense").refused(2, "'nonsense'")
    assert pair("reply", receipt, "--message", ids[1]).code == 0
    assert pair("receive", "lead").line["message"]["reply_to"] == ids[1]


def test_receive_with_ack_consumes(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    got = pair("receive", "worker-1", "--ack").line
    assert pair("count", "worker-1", "claimed").out == "0\n"
    pair("ack", got["receipt"]).refused(3)


def test_peek_never_consumes(pair: Cfn, send: Callable[..., str]) -> None:
    for number in range(3):
        send(f'{{"n":{number}}}')
    for _ in range(2):
        assert [message["payload"]["n"] for message in pair("peek", "worker-1", "--limit", "2").lines] == [0, 1]
    assert pair("count", "worker-1").out == "3\n"


def test_the_boxes_are_seen(pair: Cfn, send: Callable[..., str]) -> None:
    send()
    pair("receive", "worker-1")
    assert pair("peek", "worker-1", "--box", "claimed").line["payload"] == {"n": 1}
    assert pair("count", "worker-1", "claimed", "--json").line == {"agent": "worker-1", "box": "claimed", "count": 1}
    assert pair("count", "worker-1").out == "0\n"


def test_follow_streams_until_it_is_idle(pair: Cfn, send: Callable[..., str]) -> None:
    for number in range(5):
        send(f'{{"n":{number}}}')
    ran = pair("receive", "worker-1", "--follow", "--timeout", "0.1", "--ack")
    assert ran.code == 0
    assert [line["message"]["payload"]["n"] for line in ran.lines] == list(range(5))


def test_follow_ends_at_its_limit(pair: Cfn, send: Callable[..., str]) -> None:
    for _ in range(3):
        send()
    assert len(pair("receive", "worker-1", "--follow", "--limit", "2").lines) == 2
    assert pair("count", "worker-1").out == "1\n"


def test_follow_prints_at_once_and_ends_on_an_interrupt(pair: Cfn, send: Callable[..., str], bus_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cfn", "receive", "worker-1", "--follow"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy(),
    ) as reader:  # fmt: skip
        assert reader.stdout is not None
        assert reader.stderr is not None
        for number in range(2):
            send(f'{{"n":{number}}}')
            assert json.loads(reader.stdout.readline())["message"]["payload"] == {"n": number}
        reader.send_signal(signal.SIGINT)
        assert reader.wait(10) == 130
        assert reader.stderr.read() == b"cfn: interrupted\n"
    assert pair("count", "worker-1", "claimed").out == "2\n", "what was printed stays with who has the receipts"
