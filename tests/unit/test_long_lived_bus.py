"""A bus object that lives for long: nothing grows, and what it let go of is another's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfn.bus.filebus import FileBus
from cfn.bus.memory import MemoryBus
from cfn.errors import UsageError
from cfn.settings import Settings, load
from cfn.swarm import runs

FDS = Path("/proc/self/fd")


@pytest.mark.skipif(not FDS.exists(), reason="this system does not list a process's descriptors")
def test_redeeming_and_putting_back_keep_no_descriptor(bus_root: str) -> None:
    with FileBus(bus_root) as bus:
        mailbox = bus.register("a")
        mailbox.send("a", "note", {})

        def round_trip() -> None:
            (delivery,) = mailbox.receive()
            bus.redeem(delivery.receipt).bury()
            bus.put_back(bus.dead("a")[0].letter)

        round_trip()
        before = len(os.listdir(FDS))
        for _ in range(10):
            round_trip()
        assert len(os.listdir(FDS)) == before


def test_mailboxes_that_ended_are_forgotten(bus_root: str) -> None:
    with FileBus(bus_root) as bus:
        bus.register("a", attended=False)
        for _ in range(5):
            bus.open("a").close()
            bus.register("b").remove()
        assert len(bus._mailboxes) == 1


def test_closing_twice_does_not_stop_the_heart_of_a_successor(bus_root: str) -> None:
    first, second = FileBus(bus_root), FileBus(bus_root)
    mailbox = first.register("a")
    mailbox.close()
    second.register("a")
    mailbox.close()
    mailbox.detach()
    first.close()
    assert second.beat_age_s("a") is not None


@pytest.mark.parametrize("lease_s", [-1.0, float("nan"), 8 * 24 * 3600, 1e12])
def test_a_lease_that_nobody_would_honour_is_refused(lease_s: float, bus_root: str) -> None:
    for bus in (FileBus(bus_root), MemoryBus()):
        mailbox = bus.register("a")
        mailbox.send("a", "note", {})
        with pytest.raises(UsageError, match="lease_s"):
            mailbox.receive(lease_s=lease_s)
        assert bus.count("a") == 1
        (delivery,) = mailbox.receive(lease_s=7 * 24 * 3600)
        bus.sweep()
        delivery.ack()


def test_a_report_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Settings = load({"state_dir": str(tmp_path)}, env={}, cwd=tmp_path)
    folder = runs.RunFolder(settings, "r1")
    folder.make([], {})

    def torn(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        folder.write_report({"run": "r1", "ended": "finished"})
    assert folder.read_report() is None
