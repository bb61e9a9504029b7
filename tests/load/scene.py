"""What every measurement gets: folders that vanish, sizes, settings, and a way to ask a fresh interpreter.

Two folders: one beside the place where this user's bus would be (the same file system, a tmpfs as a rule), one on disk for
what cfn keeps on disk. Both are removed whatever happens; a program that was asked is ended if it has not ended by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import floor

from cfn.bus import place
from cfn.bus.filebus import FileBus
from cfn.bus.mailbox import FileMailbox
from cfn.errors import RunError, UnfitPlace
from cfn.rollout.steps import Step, phase
from cfn.settings import Settings, load

HERE: Final = Path(__file__).resolve().parent
_POLITE_S: Final = 5.0  # a master that was told to end takes its agents with it within two seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    pairs: int  # of blocks of messages
    letters: int  # messages sent and taken in one block
    batches: int  # files in one block
    pings: int  # round trips in one block
    hybrid: Step
    tree: Step
    hybrid_pairs: int
    tree_pairs: int
    limit_s: float  # for one round


def full() -> Sizes:
    """What figures are quoted from. The swarms are those of the rollout's last phase."""
    steps = {step.name: step for step in phase("phase3").steps}
    return Sizes(
        pairs=11, letters=2000, batches=50, pings=1000,
        hybrid=steps["hybrid-708"], tree=steps["tree-2000"], hybrid_pairs=5, tree_pairs=3, limit_s=300.0,
    )  # fmt: skip


def quick() -> Sizes:
    """A look at whether everything is measured; its figures say little about large swarms."""
    return Sizes(
        pairs=3, letters=200, batches=5, pings=100,
        hybrid=Step(name="hybrid-36", topology="hybrid", total=36, coordinators=7),
        tree=Step(name="tree-92", topology="tree", total=92, coordinators=7, fan=2),
        hybrid_pairs=2, tree_pairs=1, limit_s=60.0,
    )  # fmt: skip


class Scene:
    """See the module; made by :func:`scene`."""

    def __init__(self, folder: Path, disk: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.disk = disk
        self.sizes = sizes
        self.say = say
        self.settings: Settings = load({"message_base_dir": str(folder / "bus"), "state_dir": str(disk / "state")})

    @cached_property
    def floor(self) -> floor.Floor:
        (self.folder / "floor").mkdir()
        return floor.make(self.folder / "floor", self.disk, self.say)

    @contextlib.contextmanager
    def mailboxes(self, *agents: str, max_inbox: int | None = None) -> Iterator[tuple[FileMailbox, ...]]:
        """Registered here, and removed with whatever is still in them."""
        with FileBus(settings=self.settings) as bus:
            mailboxes = tuple(bus.register(agent, max_inbox=max_inbox) for agent in agents)
            try:
                yield mailboxes
            finally:
                for mailbox in mailboxes:
                    mailbox.remove()

    @contextlib.contextmanager
    def program(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A sibling of this file in a fresh interpreter, on our bus, with pipes; ended when the block is left."""
        where = {"CFN_MESSAGE_BASE_DIR": self.settings.message_base_dir, "CFN_STATE_DIR": self.settings.state_dir}
        child = subprocess.Popen(
            [sys.executable, str(HERE / name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **where},
            text=True,
        )
        try:
            yield child
        finally:
            _end(child)

    def ask(self, name: str, **question: Any) -> dict[str, Any]:
        """What that program answers to one JSON object. Raises: RunError when it gives no answer."""
        with self.program(name) as child:
            try:
                answer, _ = child.communicate(json.dumps(question), timeout=self.sizes.limit_s + _POLITE_S)
            except subprocess.TimeoutExpired:
                raise RunError(f"{name} did not answer within {self.sizes.limit_s + _POLITE_S:g} s") from None
        if child.returncode != 0:
            raise RunError(f"{name} ended with exit code {child.returncode}")
        found: dict[str, Any] = json.loads(answer)
        return found


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.communicate(timeout=_POLITE_S)
        except subprocess.TimeoutExpired:
            child.kill()
    # its pipes may be closed already, nobody may read them any more, or something that it started may hold them
    with contextlib.suppress(ValueError, OSError, subprocess.TimeoutExpired):
        child.communicate(timeout=_POLITE_S)


def base() -> Path:
    """The folder in which this user's bus lies, or would lie."""
    return Path(place.find(load())).parent


@contextlib.contextmanager
def scene(folder: Path, sizes: Sizes, say: Callable[[str], None]) -> Iterator[Scene]:
    """Raises: UnfitPlace where there can be no folder."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = stack.enter_context(tempfile.TemporaryDirectory(prefix="cfn-bench-", dir=folder))
            disk = stack.enter_context(tempfile.TemporaryDirectory(prefix="cfn-bench-"))
        except OSError as error:
            raise UnfitPlace(
                f"cannot make a folder in {folder}: {error.strerror}; --dir names another place", path=str(folder)
            ) from None
        yield Scene(Path(ours), Path(disk), sizes, say)
