"""Ends and takeovers of mailboxes, cut off or run into by others at the worst instruction."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cfn.bus import ending, registry
from cfn.bus.filebus import FileBus
from cfn.bus.files import Folder
from cfn.errors import CfnError, Fenced, UnfitPlace


class Killed(BaseException):
    """What a SIGKILL is to the process that gets it: nothing more is done."""


@pytest.mark.parametrize("end", ["remove", "take over"])
def test_a_send_whose_file_vanished_with_its_mailbox_was_not_sent(
    end: str, bus_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remover is killed after it unlinked the file that is being sent, before it removed the folder around it."""
    bus, other = FileBus(bus_root), FileBus(bus_root)
    sender = bus.register("sender", attended=False)
    bus.register("recipient")

    def empty_and_die(path: str, **options: Any) -> None:
        for name in os.listdir(path):
            if os.path.isfile(f"{path}/{name}"):
                os.unlink(f"{path}/{name}")
        raise Killed

    create = Folder.create

    def interrupted(self: Folder, name: str, data: bytes) -> None:
        create(self, name, data)
        monkeypatch.setattr(Folder, "create", create)
        monkeypatch.setattr(shutil, "rmtree", empty_and_die)
        with pytest.raises(Killed):
            other.remove("sender") if end == "remove" else other.register("sender", attended=False)
        monkeypatch.undo()

    monkeypatch.setattr(Folder, "create", interrupted)
    with pytest.raises(Fenced):
        sender.send("recipient", "note", {})
    assert bus.count("recipient") == 0


def test_an_agent_whose_registration_was_cut_off_can_be_registered(
    bus_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileBus(bus_root) as bus:
        bus.register("a").close()

        def die(*args: Any) -> None:
            raise Killed

        monkeypatch.setattr(registry, "_write", die)
        with pytest.raises(Killed):
            bus.register("a")
        monkeypatch.undo()
        mailbox = bus.register("a")
        mailbox.send("a", "note", {})
        assert [d.message.type for d in mailbox.receive()] == ["note"]


def test_two_that_register_one_ephemeral_agent_at_once_leave_one_that_works(
    bus_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = FileBus(bus_root), FileBus(bus_root)
    first.register("a", attended=False).close()
    replace = os.replace

    def overtaken(source: str, target: str) -> None:
        monkeypatch.undo()
        second.register("a", attended=False)
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    first.register("a", attended=False)
    first.open("a").send("a", "note", {})
    assert first.count("a") == 1


def test_a_mailbox_that_two_end_at_once_ends(bus_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, sweeper = FileBus(bus_root), FileBus(bus_root)
    bus.register("b")
    bus.register("a").send("a", "note", {})
    finish = ending.finish

    def overtaken(*args: Any) -> None:
        monkeypatch.undo()
        sweeper.sweep()
        finish(*args)

    monkeypatch.setattr(ending, "finish", overtaken)
    bus.remove("a")
    assert bus.agent_ids() == ["b"]
    assert [letter.reason for letter in bus.dead("a")] == ["agent-gone"]


def test_a_folder_that_is_no_agent_is_named_and_not_looked_at_for_ever(bus_root: str) -> None:
    with FileBus(bus_root) as bus:
        os.mkdir(f"{bus_root}/ghost")
        with pytest.raises(UnfitPlace, match="ghost"):
            bus.register("ghost")


def test_a_bus_that_lost_its_first_page_is_named_and_not_looked_at_for_ever(bus_root: str) -> None:
    FileBus(bus_root).close()
    Path(bus_root, ".cfn", "bus.json").unlink()
    with pytest.raises(CfnError, match="cfn bus clean"):
        FileBus(bus_root)
