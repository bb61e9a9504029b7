"""What is special about the bus in memory: its example, its sharing between threads, its SIGKILL."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

import cfn
from cfn.bus import memory
from cfn.bus.memory import MemoryBus
from cfn.errors import AgentGone, UsageError


def test_the_example_of_the_module_runs() -> None:
    _, _, example = (memory.__doc__ or "").partition("\n\n")
    code, _, _ = example.partition("\n\nGuarantees")
    assert "MemoryBus()" in code
    names = {"MemoryBus": cfn.MemoryBus}
    exec(textwrap.dedent(code), names)  # the module's own text
    assert names["worker"].gaps == 0  # type: ignore[attr-defined]


def test_one_mailbox_may_serve_several_threads() -> None:
    with MemoryBus() as bus, ThreadPoolExecutor(8) as threads:
        alice, bob = bus.register("alice"), bus.register("bob", max_inbox=50)

        def send(_: int) -> list[int]:
            return [alice.send("bob", "t", {}, timeout_s=30).sequence for _ in range(100)]

        def drain(_: int) -> list[int]:
            got = []
            while deliveries := bob.receive(0.5, limit=3):
                for delivery in deliveries:
                    delivery.ack()
                    got.append(delivery.message.sequence)
            return got

        sending = [threads.submit(send, n) for n in range(4)]
        draining = [threads.submit(drain, n) for n in range(4)]
        sent = [number for future in sending for number in future.result(60)]
        got = [number for future in draining for number in future.result(60)]
        assert sorted(sent) == sorted(got) == list(range(1, 401))
        assert bob.gaps == 0


def test_kill_is_for_those_who_are_attended() -> None:
    with MemoryBus() as bus:
        bus.register("shell", attended=False)
        with pytest.raises(UsageError, match="shell"):
            bus.kill("shell")
        with pytest.raises(AgentGone):
            bus.kill("nobody")
        bus.register("bob")
        bus.kill("bob")
        assert bus.agent("bob").alive is False
        with pytest.raises(UsageError):
            bus.kill("bob")


def test_nothing_is_written_to_disk(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.mkdir", lambda *_, **__: pytest.fail("a bus in memory made a folder"))
    with MemoryBus() as bus:
        alice = bus.register("alice")
        alice.send("alice", "t", {})
        alice.receive()[0].ack()
