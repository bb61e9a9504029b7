"""No descriptor, no room: every step of an operation fails once, and the operation can be tried again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfn.bus.filebus import FileBus
from cfn.errors import BusFull
from cfn.settings import Settings, load
from cfn.swarm import runs


class Failing:
    """The `nth` call of an operation of the system fails."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, nth: int, code: int) -> None:
        self.calls = 0
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        patch.setattr(os, name, call)


def every_step(name: str, code: int, what: Callable[[], None]) -> Iterator[OSError]:
    """Run `what` with its first call of `os.<name>` failing, then with its second …, until it needs no more calls."""
    for nth in range(1, 200):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, name, nth, code)
            try:
                what()
            except OSError as error:
                caught = error
            else:
                if failing.calls < nth:
                    return
                continue
        yield caught
    raise AssertionError("it needs no end of calls")


FAILURES = [("open", errno.EMFILE), ("open", errno.ENOSPC), ("mkdir", errno.ENOSPC), ("write", errno.ENOSPC)]


@pytest.mark.parametrize("before", ["new", "known"])
@pytest.mark.parametrize(("name", "code"), FAILURES)
def test_a_registration_that_found_no_room_can_be_tried_again(name: str, code: int, before: str, bus_root: str) -> None:
    bus = FileBus(bus_root)
    if before == "known":
        bus.register("a").close()

    def register() -> None:
        process = bus.reborn()
        process.register("a").close()
        process.close()

    for error in every_step(name, code, register):
        assert isinstance(error, BusFull), error
        register()
        if before == "new":
            bus.remove("a")


@pytest.mark.parametrize(("name", "code"), FAILURES)
def test_a_send_that_found_no_room_was_not_sent(name: str, code: int, bus_root: str) -> None:
    bus = FileBus(bus_root)
    bus.register("sender", attended=False).close()
    bus.register("recipient")
    sent: list[str] = []

    def send() -> None:
        process = bus.reborn()
        sent.append(process.open("sender").send("recipient", "note", {}).msg_id)
        process.close()

    for error in every_step(name, code, send):
        assert isinstance(error, BusFull), error
        assert bus.count("recipient") == len(sent)
    assert [message.msg_id for message in bus.peek("recipient")] == sent


def test_a_host_that_cannot_be_learned_now_is_not_taken_for_one_without_locks(
    bus_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileBus(bus_root).close()
    real = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".lock"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BusFull):
        FileBus(bus_root)


def test_looking_for_dead_runs_leaves_nothing_that_looks_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Settings = load({"state_dir": str(tmp_path)}, env={}, cwd=tmp_path)
    live = runs.RunFolder(settings, "r1").live
    live.parent.mkdir(parents=True)
    live.write_bytes(b"/nowhere")
    seen: list[str] = []
    for name in ("open", "mkfifo"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, real=real, **o: seen.append(str(path)) or real(path, *a, **o))
    assert [run for run, _ in runs.dead_runs(settings)] == ["r1"]
    assert any("probe" in path for path in seen)
    assert [path for path in seen if path.startswith(f"{live.parent}/") and path != str(live)] == []
