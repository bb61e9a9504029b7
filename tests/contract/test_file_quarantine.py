"""What lies in an inbox and is no message of ours is quarantined with a reason, and the rest goes on. File transports only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cfn.bus import names
from cfn.bus.events import Buried, Event
from cfn.bus.filebus import FileBus
from cfn.bus.protocol import Draft, Mailbox
from cfn.errors import UsageError
from cfn.message import Message

from .stage import FileStage, HandClock


class Post:
    """A writer and a reader with a good message before and one after whatever is dropped between."""

    def __init__(self, stage: FileStage) -> None:
        self.bus: FileBus = stage.open()
        self.root = stage.root
        self.alice: Mailbox = self.bus.register("alice")
        self.bob: Mailbox = self.bus.register("bob")
        self.before = self.alice.send("bob", "t", {"n": 1})

    @property
    def inbox(self) -> Path:
        return self.root / "bob" / "inbox"

    def name(self, **fields: Any) -> str:
        """The name of a message that is due now."""
        due = self.bus.now() + names.AGING_US[names.LANE[fields.get("lane", "n")]]
        plain: dict[str, Any] = {
            "due": due, "lane": "n", "sender": "carol", "epoch": 1, "writer": "0123456789", "seq": 1, "attempt": 1,
            "count": None,
        }  # fmt: skip
        return names.Name(**{**plain, **fields}).text

    def content(self, **fields: Any) -> bytes:
        plain = {"msg_id": "m", "from": "carol", "to": "bob", "type": "t", "sequence": 1, "timestamp": 1, "payload": {}}
        return json.dumps({**plain, **fields}).encode() + b"\n"

    def receive_all(self) -> list[Message]:
        got: list[Message] = []
        while deliveries := self.bob.receive(limit=10):
            for delivery in deliveries:
                delivery.ack()
                got += delivery.messages
        return got

    def check_only_good_ones_come(self, quarantined: int = 1) -> None:
        after = self.alice.send("bob", "t", {"n": 2})
        assert self.receive_all() == [self.before, after]
        assert self.receive_all() == []
        letters = self.bus.dead("bob")
        assert [letter.reason for letter in letters] == ["malformed"] * quarantined
        assert self.bus.count("bob", "dead") == quarantined
        assert all(letter.message is None for letter in letters)
        assert self.bus.count("bob") == self.bus.count("bob", "claimed") == 0
        assert self.bob.gaps == 0


@pytest.fixture
def post(file_stage: FileStage) -> Post:
    return Post(file_stage)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "something").write_text("inside")


def link_to_a_message(path: Path) -> None:
    target = path.parent.parent / "tmp" / "elsewhere.json"
    target.write_bytes(
        b'{"msg_id":"m","from":"carol","to":"bob","type":"t","sequence":1,"timestamp":1,"payload":{"secret":1}}\n'
    )
    path.symlink_to(target)


def dangling_link(path: Path) -> None:
    path.symlink_to("nothing")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
    finally:
        os.rename("s", path.name)
        os.chdir(here)


THINGS: list[Callable[[Path], None]] = [
    fifo, folder, full_folder, link_to_a_message, dangling_link, link_to_itself, a_socket,
]  # fmt: skip


@pytest.mark.parametrize("make", THINGS, ids=lambda make: make.__name__)
def test_a_thing_with_a_name_of_ours_that_is_no_file_is_quarantined(post: Post, make: Callable[[Path], None]) -> None:
    make(post.inbox / post.name())
    post.check_only_good_ones_come()


@pytest.mark.parametrize("make", THINGS, ids=lambda make: make.__name__)
def test_a_thing_with_any_name_is_quarantined(post: Post, make: Callable[[Path], None]) -> None:
    make(post.inbox / "dropped-here")
    post.check_only_good_ones_come()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"{", b'{"msg_id":"m","from":"carol"', b"not json", b"[]", b"null", b'{"a":1}', b"\xff\xfe\x00", b"\x00" * 4096,
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_half_a_json_and_worse_is_quarantined(post: Post, content: bytes) -> None:
    (post.inbox / post.name()).write_bytes(content)
    post.check_only_good_ones_come()


@pytest.mark.parametrize(
    "fields",
    [{"payload": []}, {"payload": None}, {"type": ""}, {"sequence": -1}, {"priority": "urgent"}, {"from": "mallory"}],
    ids=str,
)
def test_a_message_with_a_field_that_does_not_fit_is_quarantined(post: Post, fields: dict[str, Any]) -> None:
    (post.inbox / post.name()).write_bytes(post.content(**fields))
    post.check_only_good_ones_come()


def test_a_message_that_comes_out_of_a_fifo_is_no_message(post: Post) -> None:
    path = post.inbox / post.name()
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(pipe, post.content())
        post.check_only_good_ones_come()
    finally:
        os.close(pipe)


def test_a_file_above_the_limit_is_quarantined_unread(post: Post) -> None:
    with open(post.inbox / post.name(), "wb") as file:
        file.truncate(3 << 30)
    post.check_only_good_ones_come()


@pytest.mark.parametrize(
    "name",
    [
        "x", "msg-001.json", ".hidden", "a b.json", "~", "~~~~.json", "ü.json", "line\nbreak.json", "x" * 255, "-rf", "..json",
        "1~n~carol~1.0123456789.1~1.json",  # a time without its sixteen digits
        "1795537057607569~x~carol~1.0123456789.1~1.json",  # no such lane
        "1795537057607569~n~carol~1.0123456789.1~1.jsonl",  # a batch without its count
        "1795537057607569~n~carol~1.0123456789.1~1~5.json",  # a single message with one
        "1795537057607569~n~carol~1.XYZ.1~1.json",
        "1795537057607569~n~carol~1.0123456789.1~-1.json",
        "1795537057607569~n~carol~1.0123456789.1~1.json.tmp",
        "1795537057607569~n~carol~1.0123456789.1~1~0123456789~1795537057607569.json",  # a claimed name
        "1795537057607569~n~../../x~1.0123456789.1~1.json".replace("/", "\\"),
    ],
    ids=lambda name: repr(name)[:40],
)  # fmt: skip
def test_a_name_outside_the_grammar_is_quarantined_even_if_its_content_is_a_message(post: Post, name: str) -> None:
    (post.inbox / name).write_bytes(post.content())
    post.check_only_good_ones_come()
    [letter] = post.bus.dead("bob")
    assert letter.sender is None
    assert letter.size_bytes == len(post.content())


def test_quarantined_things_keep_their_content_and_their_old_name(post: Post) -> None:
    (post.inbox / "half.json").write_bytes(b'{"half":')
    post.check_only_good_ones_come()
    [path] = (post.root / "bob" / "dead").iterdir()
    assert path.name.endswith("~malformed~half.json")
    assert path.read_bytes() == b'{"half":'


def test_the_control_lane_quarantines_too(post: Post) -> None:
    os.mkfifo(post.root / "bob" / "control" / post.name(lane="c"))
    (post.root / "bob" / "control" / "stray").write_text("x")
    stop = post.alice.send("bob", "stop", {}, priority="control")
    [delivery] = post.bob.receive()
    assert delivery.message == stop
    delivery.ack()
    post.check_only_good_ones_come(quarantined=2)


def test_a_batch_whose_lines_are_not_what_its_name_says_is_quarantined_whole(post: Post) -> None:
    line = post.content()
    (post.inbox / post.name(count=3)).write_bytes(line * 2)
    (post.inbox / post.name(count=2, seq=4)).write_bytes(line + line[:20])
    (post.inbox / post.name(count=0, seq=6)).write_bytes(b"")
    post.check_only_good_ones_come(quarantined=3)


def test_a_hundred_strays_do_not_hold_up_the_mail(post: Post) -> None:
    for number in range(100):
        (post.inbox / f"stray-{number:03}").write_text("x")
    post.check_only_good_ones_come(quarantined=100)


def test_strays_in_claimed_are_quarantined_by_the_sweep(post: Post) -> None:
    claimed = post.root / "bob" / "claimed"
    (claimed / "stray").write_text("x")
    os.mkfifo(claimed / "pipe")
    (claimed / "folder").mkdir()
    post.bus.sweep()
    assert list(claimed.iterdir()) == []
    post.check_only_good_ones_come(quarantined=3)


def test_observers_hear_of_a_quarantine(post: Post) -> None:
    heard: list[Event] = []
    post.bus.observe(heard.append)
    os.mkfifo(post.inbox / "pipe")
    (post.inbox / post.name()).write_bytes(b"{")
    post.receive_all()
    assert [event.reason for event in heard if isinstance(event, Buried)] == ["malformed", "malformed"]


def test_peek_passes_over_what_is_no_message(post: Post) -> None:
    os.mkfifo(post.inbox / post.name())
    (post.inbox / post.name(seq=2)).mkdir()
    (post.inbox / "stray").write_text("x")
    (post.inbox / post.name(seq=3)).write_bytes(b"{")
    assert post.bus.peek("bob") == [post.before]
    assert post.bus.count("bob") == 5, "peek consumes nothing, not even strays"


def test_a_request_finds_its_reply_among_strays(post: Post, file_stage: FileStage) -> None:
    second = file_stage.open()

    def answer() -> None:
        own = second.open("bob")
        for delivery in own.receive(30, limit=5):
            if delivery.message.type == "q":
                own.reply(delivery.message, {"a": 1})
            delivery.ack()

    assert post.receive_all() == [post.before]
    os.mkfifo(post.root / "alice" / "inbox" / post.name(sender="bob"))
    (post.root / "alice" / "inbox" / post.name(sender="bob", seq=2)).write_bytes(b"{")
    answering = file_stage.meanwhile(answer)
    assert post.alice.request("bob", "q", {}, timeout_s=30).payload == {"a": 1}
    answering.result(30)


def test_what_was_quarantined_under_no_name_cannot_be_put_back(post: Post) -> None:
    (post.inbox / "stray").write_text("x")
    post.receive_all()
    [letter] = post.bus.dead("bob")
    with pytest.raises(UsageError):
        post.bus.put_back(letter.letter)
    assert post.bus.count("bob", "dead") == 1


def test_a_malformed_letter_that_was_mended_can_be_put_back(post: Post) -> None:
    (post.inbox / post.name()).write_bytes(b"{")
    assert post.receive_all() == [post.before]
    [letter] = post.bus.dead("bob")
    (post.root / letter.agent / "dead" / letter.letter.partition("/")[2]).write_bytes(post.content())
    post.bus.put_back(letter.letter)
    assert [message.msg_id for message in post.receive_all()] == ["m"]


def test_removing_a_mailbox_with_strays_in_it_succeeds(post: Post) -> None:
    for box in ("inbox", "control", "claimed", "dead", "tmp"):
        os.mkfifo(post.root / "bob" / box / "pipe")
        (post.root / "bob" / box / "stray").write_text("x")
        (post.root / "bob" / box / "folder").mkdir()
        (post.root / "bob" / box / "folder" / "inside").write_text("x")
    (post.root / "bob" / "stray").write_text("x")
    (post.root / "bob" / "stray-folder").mkdir()
    post.bus.remove("bob")
    assert [info.agent for info in post.bus.agents()] == ["alice"]
    assert sorted(path.name for path in (post.root / ".cfn" / "gone").iterdir()) == []
    assert post.before in [letter.message for letter in post.bus.dead("bob")]


def test_strays_on_the_bus_itself_are_no_agents(post: Post) -> None:
    (post.root / "lost+found").mkdir()
    (post.root / "a-file").write_text("x")
    (post.root / "no-agent").mkdir()
    assert [info.agent for info in post.bus.agents()] == ["alice", "bob"]
    post.bus.sweep(dead_agents=True)
    assert post.bus.dead() == []
    post.check_only_good_ones_come(quarantined=0)


def test_a_message_written_by_hand_is_delivered(post: Post) -> None:
    name = post.name()
    part = post.root / "alice" / "tmp" / "1" / name
    part.write_bytes(post.content(color="blue").removesuffix(b"\n"))
    part.rename(post.inbox / name)
    got = post.receive_all()
    assert [message.msg_id for message in got] == [post.before.msg_id, "m"]
    assert got[1].extra == {"color": "blue"}


def test_a_name_from_the_far_future_is_not_delivered_and_holds_nothing_up(post: Post) -> None:
    (post.inbox / post.name(due=9_999_999_999_999_999)).write_bytes(post.content())
    after = post.alice.send("bob", "t", {})
    assert post.receive_all() == [post.before, after]
    assert post.bus.count("bob") == 1


# ---------------------------------------------------------------- what only files can show


def test_a_sender_that_wrote_to_many_others_meanwhile_goes_on_with_its_numbers(file_stage: FileStage) -> None:
    bus = file_stage.open()
    alice, bob = bus.register("alice"), bus.register("bob")
    assert [alice.send("bob", "t", {}).sequence for _ in range(2)] == [1, 2]
    for number in range(130):
        bus.register(f"other-{number}", attended=False)
        alice.send(f"other-{number}", "t", {})
    bob.close()
    bob = bus.register("bob")
    assert alice.send("bob", "t", {}).sequence == 3
    assert len(bob.receive(limit=5)) == 3
    assert bob.gaps == 0


def test_unfinished_writes_of_a_dead_writer_are_discarded_and_those_of_a_living_one_are_not(
    file_stage: FileStage,
) -> None:
    if not file_stage.sees_death:
        pytest.skip("without kernel locks no writer is proven dead")
    bus = file_stage.open()
    alice = bus.register("alice")
    bus.register("bob")
    message = alice.send("bob", "t", {})
    other = file_stage.elsewhere()
    other.tell("register", agent="carol")
    other.tell("flood", to="bob", count=1)
    writers = {sender: _writer(file_stage.root, sender) for sender in ("alice", "carol")}
    for sender, writer in writers.items():
        torn = names.Name(bus.now(), "n", sender, 1, writer, 2, 1, None).text
        (file_stage.root / sender / "tmp" / "1" / torn).write_bytes(b'{"torn')
    assert bus.sweep().discarded == 0
    other.kill()
    assert bus.sweep().discarded == 1
    assert list((file_stage.root / "carol" / "tmp" / "1").iterdir()) == []
    assert len(list((file_stage.root / "alice" / "tmp" / "1").iterdir())) == 1
    assert message in bus.peek("bob")


def _writer(root: Path, sender: str) -> str:
    parsed = [names.parse(path.name) for path in (root / "bob" / "inbox").iterdir()]
    return next(name.writer for name in parsed if name is not None and name.sender == sender)


def test_the_order_of_names_is_the_order_of_delivery(file_stage: FileStage, clock: HandClock) -> None:
    bus = file_stage.open(clock=clock)
    alice, bob = bus.register("alice"), bus.register("bob")
    for lane in ("low", "high", "normal", "high"):
        alice.send("bob", "t", {}, priority=lane)
        clock.advance(0.5)
    alice.send_batch("bob", [Draft(type="t", payload={})] * 3)
    by_name = [
        names.parse(name) for name in sorted(path.name for path in (file_stage.root / "bob" / "inbox").iterdir())
    ]
    got = [delivery.message.sequence for delivery in bob.receive(limit=10)]
    assert got == [name.seq for name in by_name if name is not None]
