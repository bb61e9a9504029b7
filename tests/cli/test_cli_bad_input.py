"""Bad input: one line that names the value and the mend, the exit code of the table, and nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out

POSIX_ONLY = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX files and permissions")
TO_WORKER = ("send", "--from", "lead", "--to", "worker-1", "--type", "task")

# ---------------------------------------------------------------- agents and their ids


@pytest.mark.parametrize(
    "arguments",
    [
        ("receive", "nobody"),
        ("peek", "nobody"),
        ("count", "nobody"),
        ("send", "--from", "nobody", "--to", "lead", "--type", "t"),
        ("send", "--from", "lead", "--to", "nobody", "--type", "t"),
        ("agent", "shutdown", "nobody"),
    ],
)
def test_an_unknown_agent(pair: Cfn, bus_dir: Path, arguments: tuple[str, ...]) -> None:
    pair(*arguments).refused(3, "'nobody'", "cfn agent list")
    assert not (bus_dir / "nobody").exists(), "never a silent folder"


ILLEGAL = {
    "../x": "'../x'",
    "a/b": "'a/b'",
    "": "''",
    ".hidden": "'.hidden'",
    "-dash": "-dash",
    "has space": "'has space'",
    "tilde~": "'tilde~'",
    "ümlaut": "'ümlaut'",
    "new\nline": "'new\\nline'",
    "dot.": "'dot.'",
    "con": "'con'",
    "NUL.txt": "'NUL.txt'",
    "x" * 65: "x" * 65,
    "y" * 300: "y" * 77 + "...",
}


@pytest.mark.parametrize("agent", ILLEGAL)
@pytest.mark.parametrize("verb", ["register", "receive", "count", "agent shutdown"])
def test_an_illegal_id(pair: Cfn, bus_dir: Path, verb: str, agent: str) -> None:
    before = sorted(path.name for path in bus_dir.parent.rglob("*"))
    words = verb.split()
    ran = pair(*words, agent) if not agent.startswith("-") else pair(*words, "--", agent)
    ran.refused(2, ILLEGAL[agent], "not an agent id")
    assert sorted(path.name for path in bus_dir.parent.rglob("*")) == before


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_an_illegal_id_in_a_send(pair: Cfn, option: str) -> None:
    other = {"--from": "--to", "--to": "--from"}[option]
    pair("send", option, "../x", other, "lead", "--type", "t").refused(2, "'../x'", "A-Z a-z 0-9")


@pytest.mark.parametrize(("first", "second"), [("alpha", "Alpha"), ("Alpha", "alpha"), ("aLpha", "alPha")])
def test_an_id_that_differs_only_by_case(cfn: Cfn, first: str, second: str) -> None:
    assert cfn("register", first).code == 0
    cfn("register", second).refused(1, f"'{second}'", f"'{first}'", "choose another id")
    assert [info["agent"] for info in cfn("agent", "list", "--json").lines] == [first]


# ---------------------------------------------------------------- payloads and messages


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ("[1,2]", "'[1,2]'"),
        ('"text"', "'\"text\"'"),
        ("7", "'7'"),
        ("null", "'null'"),
        ("{n:1}", "'{n:1}'"),
        ('{"n":NaN}', "NaN"),
        ("", "''"),
        ('{"n":1', "'{\"n\":1'"),
        ("[" * 100_000, "[[["),
        ('{"text":"' + "x" * 500, "..."),
    ],
)
def test_a_payload_that_is_not_a_json_object(pair: Cfn, shell: Cfn, payload: str, shown: str) -> None:
    pair(*TO_WORKER, "--payload", payload).refused(2, "--payload", shown, "JSON object")
    shell(*TO_WORKER, "-", stdin=payload.encode()).refused(2, "stdin", shown)
    assert pair("count", "worker-1").out == "0\n"


def test_a_payload_that_is_not_utf_8(pair: Cfn, shell: Cfn) -> None:
    shell(*TO_WORKER, "-", stdin=b'{"n":"\xff"}').refused(2, "stdin", "\\xff")


def test_a_payload_given_twice_or_forgotten_to_quote(pair: Cfn) -> None:
    pair(*TO_WORKER, "--payload", "{}", "-").refused(2, "give one of them")
    pair(*TO_WORKER, '{"n":1}').refused(2, "--payload", '{"n":1}')


def test_a_message_above_the_size_limit(pair: Cfn, shell: Cfn) -> None:
    big = b'{"text":"' + b"x" * (1 << 20) + b'"}'
    shell(*TO_WORKER, "-", stdin=big).refused(2, "1048576", "CFN_MAX_MESSAGE_BYTES", "send its path")
    assert pair("count", "worker-1").out == "0\n"
    assert shell(*TO_WORKER, "-", stdin=big, env={"CFN_MAX_MESSAGE_BYTES": str(2 << 20)}).code == 0
    assert pair("count", "worker-1").out == "1\n"


def test_an_empty_type(pair: Cfn) -> None:
    pair("send", "--from", "lead", "--to", "worker-1", "--type", "").refused(2, "--type ''")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"payload":{}}\nhalf {\n', ("b.jsonl line 2", "'half {'")),
        ('{"payload":[]}\n', ("b.jsonl line 1", "'payload'")),
        ('{"payload":{}}\n\n{"type":"t"}\n', ("b.jsonl line 3", "'payload'")),
        ('{"payload":{},"colour":1}\n', ("b.jsonl line 1", "'colour'")),
        ('{"payload":{},"type":7}\n', ("b.jsonl line 1", "'type'")),
        ('{"payload":{},"expires_in":"soon"}\n', ("b.jsonl line 1", "'expires_in'")),
        ("\n", ("b.jsonl", "no message")),
    ],
)
def test_a_broken_line_in_a_batch_file(pair: Cfn, tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    (tmp_path / "b.jsonl").write_text(content)
    pair(*TO_WORKER, "--batch", "b.jsonl").refused(2, *words)
    assert pair("count", "worker-1").out == "0\n", "a batch is sent whole or not at all"


def test_a_batch_that_is_too_long_or_missing_or_mixed(pair: Cfn, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"payload":{}}\n' * 1001)
    pair(*TO_WORKER, "--batch", "b.jsonl").refused(2, "1001", "CFN_MAX_BATCH")
    pair(*TO_WORKER, "--batch", "nowhere.jsonl").refused(2, "'nowhere.jsonl'", "No such file")
    pair(*TO_WORKER, "--batch", "b.jsonl", "--payload", "{}").refused(2, "--batch", "--payload")
    assert pair("count", "worker-1").out == "0\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--timeout", "soon"), ("--timeout", "-1"), ("--delay", "nan"), ("--expires-in", "inf"), ("--priority", "urgent")],
)
def test_an_option_that_does_not_fit(pair: Cfn, option: str, value: str) -> None:
    pair(*TO_WORKER, f"{option}={value}").refused(2, option, value)


@pytest.mark.parametrize("limit", ["0", "-3", "many", "1.5", "9" * 40])
def test_a_limit_that_does_not_fit(pair: Cfn, limit: str) -> None:
    pair("receive", "worker-1", f"--limit={limit}").refused(2, "--limit", limit)


@pytest.mark.parametrize("verb", ["ack", "renew", "release", "bury", "reply"])
@pytest.mark.parametrize(
    ("receipt", "code"),
    [
        ("nonsense", 2),
        ("worker-1/nonsense", 2),
        ("../x/1795537370245828~n~a~1.907d80ea71.1~1~9ca73fa0ce~1795537399343490.json", 2),
        ("nobody/1795537370245828~n~a~1.907d80ea71.1~1~9ca73fa0ce~1795537399343490.json", 3),
        ("worker-1/1795537370245828~n~lead~1.907d80ea71.1~1~9ca73fa0ce~1795537399343490.json", 3),
    ],
)
def test_a_receipt_that_is_none_or_is_over(pair: Cfn, verb: str, receipt: str, code: int) -> None:
    pair(verb, receipt).refused(code, receipt.split("/")[0])


@pytest.mark.parametrize("letter", ["nonsense", "worker-1/nonsense", "../x", "worker-1/../../lead/agent.json"])
def test_a_dead_letter_that_is_none(pair: Cfn, letter: str) -> None:
    pair("bus", "dead", "--put-back", letter).refused(2, letter, "cfn bus dead")


def test_a_full_inbox(pair: Cfn, send: Callable[..., str]) -> None:
    pair("register", "worker-1", "--max-inbox", "2")
    for _ in range(2):
        send()
    pair(*TO_WORKER, "--timeout", "0.1").refused(6, "'worker-1' is full", "2 of 2", "CFN_MAX_INBOX")
    assert pair("count", "worker-1").out == "2\n"
    send("{}", "cancel", "--priority", "control")
    pair("receive", "worker-1", "--limit", "2", "--ack")
    send()


# ---------------------------------------------------------------- what was dropped into an inbox


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    (path / "inner").mkdir(parents=True)


def _half(path: Path) -> None:
    path.write_bytes(b'{"msg_id":"x","from":"lead",')


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


NAMED = "1000000000000000~n~lead~1.0123456789.1~1.json"  # follows the grammar, so it is claimed and only then found out


@POSIX_ONLY
@pytest.mark.parametrize("name", ["dropped", NAMED])
@pytest.mark.parametrize("make", [_fifo, _folder, _half, _link])
def test_what_is_no_message_is_quarantined_and_the_rest_goes_on(
    pair: Cfn, send: Callable[..., str], bus_dir: Path, make: Callable[[Path], None], name: str
) -> None:
    make(bus_dir / "worker-1" / "inbox" / name)
    sent = send()
    ran = pair("receive", "worker-1", "--limit", "5", "--ack")
    assert [line["message"]["msg_id"] for line in ran.lines] == [sent]
    assert ran.err == ""
    letter = pair("bus", "dead", "--json").line
    assert letter["reason"] == "malformed"
    assert letter["message"] is None
    assert pair("count", "worker-1").out == pair("count", "worker-1", "claimed").out == "0\n"


# ---------------------------------------------------------------- where the bus must not live


@POSIX_ONLY
def test_a_root_that_is_a_symlink(cfn: Cfn, tmp_path: Path, bus_dir: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    bus_dir.symlink_to(real)
    for verb in (("bus", "init"), ("register", "a"), ("count", "a"), ("bus", "clean", "--force")):
        cfn(*verb).refused(5, str(bus_dir), "symlink", "CFN_MESSAGE_BASE_DIR")
    assert not list(real.iterdir())


@POSIX_ONLY
@pytest.mark.parametrize("mode", [0o770, 0o750, 0o705, 0o777])
def test_a_root_that_is_open_to_others(cfn: Cfn, bus_dir: Path, mode: int) -> None:
    bus_dir.mkdir()
    bus_dir.chmod(mode)
    cfn("register", "a").refused(5, str(bus_dir), f"{mode:04o}", f"chmod 700 {bus_dir}")
    assert not list(bus_dir.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_root_that_belongs_to_someone_else(cfn: Cfn, bus_dir: Path) -> None:
    bus_dir.mkdir(mode=0o700)
    os.chown(bus_dir, 12345, 12345)
    cfn("register", "a").refused(5, str(bus_dir), "user 12345", "CFN_MESSAGE_BASE_DIR")
    assert not list(bus_dir.iterdir())


def test_a_root_that_is_a_file(cfn: Cfn, bus_dir: Path) -> None:
    bus_dir.write_text("")
    cfn("register", "a").refused(5, str(bus_dir), "not a folder")


@POSIX_ONLY
def test_a_root_that_cannot_be_made(cfn: Cfn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = str(tmp_path / "file" / "bus")
    cfn("register", "a", "--bus", where).refused(5, where, "CFN_MESSAGE_BASE_DIR")


def test_no_bus_at_all(cfn: Cfn, bus_dir: Path) -> None:
    for verb in (("count", "a"), ("agent", "list"), ("bus", "sweep"), ("bus", "dead"), ("bus", "clean")):
        cfn(*verb).refused(5, str(bus_dir), "cfn bus init")
    assert not bus_dir.exists()


def test_a_bus_of_another_format(pair: Cfn, bus_dir: Path) -> None:
    facts = bus_dir / ".cfn" / "bus.json"
    facts.write_text(facts.read_text().replace('"format":1', '"format":99'))
    pair("count", "lead").refused(5, str(bus_dir), "99")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("CFN_LEASE", "soon"), ("CFN_MAX_INBOX", "0"), ("CFN_TOPOLOGY", "ring"), ("CFN_METRICS_ENABLED", "perhaps")],
)
def test_a_setting_that_does_not_fit(cfn: Cfn, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    cfn("register", "a").refused(2, name, value)


@pytest.mark.parametrize("content", ["max_inbox = ", "colour = 1\n", "max_inbox = 'many'\n"])
def test_a_settings_file_that_cannot_be_used(cfn: Cfn, tmp_path: Path, content: str) -> None:
    (tmp_path / "cfn.toml").write_text(content)
    cfn("register", "a").refused(2, str(tmp_path / "cfn.toml"))


# ---------------------------------------------------------------- a host that is full


def _in_tmpfs(script: str, options: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in a mount namespace of its own, where /mnt is a small tmpfs; skips where that is not allowed."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) to mount a small tmpfs")
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("mounting a tmpfs in a namespace is not allowed here")
    full = f'mount -t tmpfs -o mode=0700,{options} none /mnt; cfn() {{ {sys.executable} -m cfn "$@"; }}\n{script}'
    return subprocess.run(
        ["unshare", "-rm", "bash", "-ec", full],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "CFN_MESSAGE_BASE_DIR": "/mnt/bus"},
    )  # fmt: skip


def test_a_full_tmpfs_loses_nothing(bus_dir: Path) -> None:
    done = _in_tmpfs(
        """
        cfn register a >/dev/null; cfn register b >/dev/null
        cfn send --from a --to b --type before --payload '{"n":1}' >/dev/null
        head -c 10000000 /dev/zero > /mnt/filler 2>/dev/null || true
        head -c 3000 /dev/zero | tr '\\0' x | sed 's/^/{"text":"/; s/$/"}/' > /tmp/payload-$$
        cfn send --from a --to b --type more - < /tmp/payload-$$ && exit 99 || echo "code $?"
        rm /tmp/payload-$$
        cfn receive b --ack | grep -o '"type":"[a-z]*"'
        rm /mnt/filler
        cfn send --from a --to b --type after >/dev/null
        cfn receive b --limit 9 --ack | grep -o '"type":"[a-z]*"'
        """,
        "size=1m",
    )
    assert done.stdout.splitlines() == ["code 6", '"type":"before"', '"type":"after"'], done
    assert done.stderr.count("\n") == 1, done
    assert "No space left" in done.stderr, done
    assert "free space" in done.stderr, done


def test_a_tmpfs_without_inodes_refuses_to_register(bus_dir: Path) -> None:
    done = _in_tmpfs(
        "for n in $(seq 9); do cfn register a$n >/dev/null || { echo code $?; exit 0; }; done", "nr_inodes=60"
    )
    assert done.stdout == "code 6\n", done
    assert done.stderr.count("\n") == 1, done
    assert "No space left" in done.stderr, done


@POSIX_ONLY
def test_too_few_descriptors(pair: Cfn, send: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE at whichever open it strikes: one line, exit 6, and every message is sent whole or not at all."""
    sent = 0
    command = f"exec {sys.executable} -m cfn send --from lead --to worker-1 --type t"
    codes = []
    for limit in range(5, 16):
        done = subprocess.run(
            ["bash", "-c", f"ulimit -n {limit}; {command}"], capture_output=True, text=True, timeout=60, check=False
        )
        codes.append(done.returncode)
        if done.returncode == 0:
            sent += 1
        else:
            assert done.returncode == 6, (limit, done)
            assert done.stderr.count("\n") == 1, (limit, done)
            assert "ulimit -n" in done.stderr, (limit, done)
    assert set(codes) == {0, 6}, codes
    assert pair("count", "worker-1").out == f"{sent}\n"


def test_a_run_on_a_full_tmpfs_waits_for_room_and_loses_no_agent(bus_dir: Path) -> None:
    """Eight agents send 90 KB results through a bus of 1 MB: nobody dies of it, and nothing is lost."""
    done = _in_tmpfs(
        """
        for n in $(seq 60); do echo '{}'; done |
          cfn run --pool -j 8 --report /mnt/../tmp/report-$$ -- sh -c 'head -c 90000 /dev/zero | tr "\\0" x' |
          grep -o '"status":"[a-z]*"' | sort | uniq -c
        grep -o '"workers_lost": [0-9]*' /tmp/report-$$; rm /tmp/report-$$
        """,
        "size=1m",
    )
    assert done.stdout.split() == ["60", '"status":"ok"', '"workers_lost":', "0"], done
    assert "Traceback" not in done.stderr, done


def test_a_run_whose_bus_has_no_room_at_all_ends_with_its_reason(bus_dir: Path) -> None:
    done = _in_tmpfs(
        """
        cfn bus init >/dev/null
        dd if=/dev/zero of=/mnt/filler bs=4k 2>/dev/null || true
        echo '{}' | cfn run -- true && exit 99 || echo "code $?"
        """,
        "size=1m",
    )
    assert done.stdout == "code 5\n", done
    assert done.stderr.count("\n") == 1, done
    assert "the file system of /mnt/bus" in done.stderr, done


@POSIX_ONLY
def test_a_run_with_too_few_descriptors_is_refused_before_it_starts(bus_dir: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 40; echo '{{}}' | {sys.executable} -m cfn run -- true"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, ""), done
    assert done.stderr.count("\n") == 1, done
    assert "ulimit -n" in done.stderr, done
    assert not bus_dir.exists(), "nothing was started"
