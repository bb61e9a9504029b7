"""Figures of single messages: send, claim and ack, batches, and how long a waiting process takes to wake.

send, claim: one process sends a block of messages to another mailbox of its own bus, then claims and acks them one by one; the
inbox is as deep as the block. batch: files of 100 messages, whole life. wake: two processes, one of which always waits;
half a round trip, from before `send` to the message in hand on the other side, acks outside of it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from pairs import Figure, Sample, interleave, percentile
from scene import Scene

from cfn.bus.mailbox import FileMailbox
from cfn.bus.protocol import Draft
from cfn.errors import RunError

BATCH: Final = 100
_WAIT_S: Final = 30.0
_PAYLOAD: Final[dict[str, Any]] = {"path": "src/module.py", "text": "x" * 64, "number": 1}


def letters(scene: Scene) -> list[Figure]:
    count = scene.sizes.letters
    lower = scene.floor
    figures = [
        Figure(section="send", key="send", what="send one message", unit="µs",
               floor_is=f"{lower.language}: create, write, close, rename"),
        Figure(section="claim", key="claim", what="claim and ack one message", unit="µs",
               floor_is=f"{lower.language}: rename, open, read, close, unlink"),
    ]  # fmt: skip
    with scene.mailboxes("bench-a", "bench-b", max_inbox=max(1000, count)) as (sender, receiver):
        size_bytes = _size(sender, receiver)
        _letters(sender, receiver, count // 10 or 1)  # the first ones open what later ones find open

        def below() -> Sample:
            return {"send": lower.send(count, size_bytes), "claim": lower.take(count, size_bytes)}

        pairs = interleave(scene.sizes.pairs, below, lambda: _letters(sender, receiver, count))
    return [_collect(figure, pairs) for figure in figures]


def _collect(figure: Figure, pairs: list[tuple[Sample, Sample]]) -> Figure:
    """The values of all pairs into their figure, in µs."""
    for ours, floor in pairs:
        figure.take(ours.get(figure.key), floor.get(figure.key), 1e-3)
    return figure


def _size(sender: FileMailbox, receiver: FileMailbox) -> int:
    """Bytes of one message, as its file has them."""
    sender.send(receiver.agent, "bench", _PAYLOAD)
    inbox = receiver.folders["inbox"]
    size_bytes = inbox.size(inbox.names()[0])
    _take(receiver)
    return size_bytes


def _letters(sender: FileMailbox, receiver: FileMailbox, count: int) -> Sample:
    began = time.perf_counter_ns()
    for _ in range(count):
        sender.send(receiver.agent, "bench", _PAYLOAD)
    sent = time.perf_counter_ns()
    for _ in range(count):
        _take(receiver)
    taken = time.perf_counter_ns()
    return {"send": (sent - began) / count, "claim": (taken - sent) / count}


def _take(receiver: FileMailbox) -> int:
    """Claim and ack what is next; how many messages that were."""
    found = receiver.receive()
    if not found:
        raise RunError("a message that was sent is not in the inbox")
    found[0].ack()
    return len(found[0].messages)


def batches(scene: Scene) -> list[Figure]:
    count = scene.sizes.batches
    lower = scene.floor
    figure = Figure(
        section="batch", key="batch", what=f"batch of {BATCH} in a file, whole life, a message", unit="µs",
        floor_is=f"{lower.language}: the file, written, renamed twice, read, unlinked",
    )  # fmt: skip
    drafts = [Draft(type="bench", payload=_PAYLOAD) for _ in range(BATCH)]
    with scene.mailboxes("bench-a", "bench-b") as (sender, receiver):
        sender.send_batch(receiver.agent, drafts)
        inbox = receiver.folders["inbox"]
        size_bytes = inbox.size(inbox.names()[0])
        _take(receiver)

        def below() -> Sample:
            return {"batch": (lower.send(count, size_bytes) + lower.take(count, size_bytes)) / BATCH}

        def ours() -> Sample:
            began = time.perf_counter_ns()
            for _ in range(count):
                sender.send_batch(receiver.agent, drafts)
            whole = sum(_take(receiver) for _ in range(count))
            took = time.perf_counter_ns() - began
            if whole != count * BATCH:
                raise RunError(f"{count * BATCH} messages were sent in batches, {whole} came")
            return {"batch": took / whole}

        pairs = interleave(scene.sizes.pairs, below, ours)
    return [_collect(figure, pairs)]


def wake(scene: Scene) -> list[Figure]:
    count = scene.sizes.pings
    lower = scene.floor
    floor_is = f"{lower.language}: one byte through a FIFO to a waiting process"
    shares = {"wake-p50": 0.5, "wake-p99": 0.99}
    figures = [
        Figure(section="wake", key=key, what=f"wake another process with a message, p{share * 100:.0f}", unit="µs",
               floor_is=floor_is)
        for key, share in shares.items()
    ]  # fmt: skip

    def halves(times: list[float]) -> Sample:
        return {key: percentile(times, share) / 2 for key, share in shares.items()}

    def below() -> Sample:
        times = lower.ping(count)
        return halves(times) if times else {}

    with scene.mailboxes("bench-caller") as (caller,), scene.program("echo.py") as other:
        assert other.stdout is not None
        if other.stdout.readline() != "ready\n":
            raise RunError("echo.py did not start")
        pairs = interleave(scene.sizes.pairs, below, lambda: halves(_pings(caller, count)))
        caller.send("bench-echo", "stop", {})
        other.wait(_WAIT_S)
    if not any(floor for _, floor in pairs):
        for figure in figures:
            figure.floor_is = "none here: no FIFO or no fork"
    return [_collect(figure, pairs) for figure in figures]


def _pings(caller: FileMailbox, count: int) -> list[float]:
    times = []
    for number in range(count):
        began = time.perf_counter_ns()
        asked = caller.send("bench-echo", "ping", {"number": number})
        found = caller.receive(_WAIT_S)
        times.append(float(time.perf_counter_ns() - began))
        if not found or found[0].message.reply_to != asked.msg_id:
            raise RunError(f"ping {number} was not answered within {_WAIT_S:g} s")
        found[0].ack()
    return times
