"""Delayed messages wait aside: they neither block a receive nor hide what is ready behind them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cfn.bus.filebus import FileBus


@pytest.fixture
def bus(tmp_path: Path) -> FileBus:
    return FileBus(tmp_path / "bus")


def test_an_inbox_of_delayed_messages_is_empty_now(bus: FileBus) -> None:
    with bus:
        sender, receiver = bus.register("a"), bus.register("b")
        sender.send("b", "later", {}, delay_s=3600)
        began = time.monotonic()
        assert receiver.receive(0.0) == []
        assert receiver.receive(0.2) == []
        assert 0.2 <= time.monotonic() - began < 30


def test_waiting_for_a_delayed_message_costs_no_cpu(bus: FileBus) -> None:
    with bus:
        sender, receiver = bus.register("a"), bus.register("b")
        sender.send("b", "later", {}, delay_s=1.0)
        spent = time.process_time()
        assert [delivery.message.type for delivery in receiver.receive(30)] == ["later"]
        assert time.process_time() - spent < 0.5


def test_many_delayed_messages_of_a_higher_lane_hide_nothing(bus: FileBus) -> None:
    with bus:
        sender, receiver = bus.register("a"), bus.register("b")
        for _ in range(300):  # more than one listing serves
            sender.send("b", "later", {}, delay_s=0.9, priority="high")
        sender.send("b", "now", {})
        assert [delivery.message.type for delivery in receiver.receive(0.0, 400)] == ["now"]
        got = 0
        while got < 300:
            deliveries = receiver.receive(30, 400)
            assert deliveries, "all of them come once they are due"
            got += len(deliveries)
        assert receiver.gaps == 0
