"""Senders and receivers killed at random, thousands of times: what a send promised is found, and nothing comes after its ack.

Each process writes what it knows to a log of its own, outside the bus, as soon as it knows it; a line that a kill swallowed only
makes the judgement milder. The judge reads the logs and the bus, and knows nothing of how the bus works.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cfn import settings
from cfn.bus.filebus import FileBus
from cfn.errors import AgentExists, InboxFull, LeaseLost
from cfn.settings import Settings

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

SENDERS = ("ada", "bea", "cyd")
ROUNDS = 250


class Log:
    """One process's lines: `verb msg_id ns ...`, each written whole by one write."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(
            folder / f"{os.getpid()}-{os.urandom(3).hex()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    def say(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, [*words[:2], time.monotonic_ns(), *words[2:]])) + "\n").encode())


def send_for_ever(root: str, found: Settings, me: str, log: Log) -> None:
    bus = FileBus(root, found)
    try:
        mailbox = bus.register(me)
    except AgentExists:  # the one before is dying still
        return
    batch = 0
    while True:
        try:
            message = mailbox.send("eve", "note", {"pad": "x" * random.choice((10, 5000))}, timeout_s=0.2)
        except InboxFull:
            continue
        batch += 1
        log.say("sent", message.msg_id, f"{message.sender}.{batch}", message.sequence)


def receive_for_ever(root: str, found: Settings, me: str, log: Log) -> None:
    bus = FileBus(root, found)
    try:
        mailbox = bus.register(me)
    except AgentExists:
        return
    while True:
        for delivery in mailbox.receive(0.05, random.choice((1, 5))):
            message = delivery.message
            log.say("got", message.msg_id, delivery.attempt, delivery.receipt)
            fate = random.random()
            try:
                if fate < 0.9:
                    log.say("acking", message.msg_id)
                    delivery.ack()
                    log.say("acked", message.msg_id)
                elif fate < 0.95:
                    delivery.release()
            except LeaseLost:
                log.say("lost", message.msg_id)


def start(body: Callable[..., None], *args: object, logs: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        random.seed()
        body(*args, Log(logs))
        code = 0
    finally:
        os._exit(code)


def test_what_was_sent_is_there_and_what_was_acked_stays_away(tmp_path: Path, bus_root: str) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    found = settings.load({"max_attempts": 1000, "max_inbox": 50}, env={}, cwd=tmp_path)
    logs = tmp_path / "logs"
    logs.mkdir()
    FileBus(bus_root, found).close()
    roles: list[tuple[Callable[..., None], str]] = [*((send_for_ever, me) for me in SENDERS), (receive_for_ever, "eve")]
    with FileBus(bus_root, found) as bus:
        bus.register("eve", attended=False).close()
    living = {start(body, bus_root, found, me, logs=logs): (body, me) for body, me in roles}
    with FileBus(bus_root, found) as sweeper:
        for round_ in range(ROUNDS):
            time.sleep(chance.uniform(0.002, 0.03))  # the interval is the experiment, not a wait for something
            pid = chance.choice(list(living))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            body, me = living.pop(pid)
            living[start(body, bus_root, found, me, logs=logs)] = (body, me)
            if round_ % 5 == 0:
                sweeper.sweep()
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    judge(bus_root, found, logs, f"seed {seed}")


def judge(root: str, found: Settings, logs: Path, evidence: str) -> None:
    sent: set[str] = set()
    acked: dict[str, int] = {}
    acking: set[str] = set()
    got: dict[str, list[int]] = {}
    for path in logs.iterdir():
        for line in path.read_text().splitlines():
            verb, msg_id, at = line.split()[:3]
            if verb == "sent":
                sent.add(msg_id)
            elif verb == "got":
                got.setdefault(msg_id, []).append(int(at))
            elif verb == "acking":
                acking.add(msg_id)
            elif verb == "acked":
                acked[msg_id] = int(at)
    with FileBus(root, found) as bus:
        where = Counter(
            message.msg_id
            for box in ("inbox", "claimed", "dead")
            for message in bus.peek("eve", box, limit=10**6)  # type: ignore[arg-type]
        )
    assert len(sent) > 200, f"the stress was too mild to prove anything: {len(sent)} sends ({evidence})"
    assert len(acked) > 50, f"the stress was too mild to prove anything: {len(acked)} acks ({evidence})"
    assert [m for m, n in where.items() if n > 1] == [], f"in two places at once ({evidence})"
    assert [m for m in sent if m not in where and m not in acked and m not in acking] == [], f"lost ({evidence})"
    assert [m for m in acked if m in where] == [], f"acknowledged and still there ({evidence})"
    late = [m for m, at in acked.items() if any(when > at for when in got.get(m, []))]
    assert late == [], f"delivered after its ack ({evidence})"
