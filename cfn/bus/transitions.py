"""The folders of one agent and the transitions of its messages: each is one rename or one unlink, compare-and-swap on a name.

| transition | operation | FileNotFoundError means |
|---|---|---|
| claim | ``inbox/N`` -> ``claimed/N~me~deadline`` | taken by another |
| renew | ``claimed/…~me~d`` -> ``…~me~d'`` | LeaseLost |
| ack | unlink ``claimed/…~me~d`` | LeaseLost |
| give back | ``claimed/…`` -> ``inbox/N`` with attempt + 1 | LeaseLost (someone else won) |
| bury | ``claimed/…`` -> ``dead/`` with the reason in the name | LeaseLost (someone else won) |

Holder and deadline are both in the claimed name, so renew, ack and a sweep that returns the claim exclude each other: the
kernel lets exactly one of them find the old name.
"""

from __future__ import annotations

import contextlib
import os
from typing import Literal

from cfn.bus import names
from cfn.bus.capabilities import Capabilities
from cfn.bus.files import Folder
from cfn.bus.names import LETTER, Claim, Name
from cfn.errors import LeaseLost

FOLDERS = ("control", "inbox", "claimed", "outbox", "dead", "tmp")
_CONTROL = LETTER["control"]

GivenBack = Literal["returned", "buried"]


class AgentFolders:
    """One agent's folders, opened when first needed. Raises FileNotFoundError where the agent is gone."""

    __slots__ = ("_caps", "_open", "agent", "path")

    def __init__(self, agent: str, path: str, caps: Capabilities) -> None:
        self.agent = agent
        self.path = path
        self._caps = caps
        self._open: dict[str, Folder] = {}

    def __getitem__(self, name: str) -> Folder:
        folder = self._open.get(name)
        if folder is None:
            folder = self._open[name] = Folder(os.path.join(self.path, name), self._caps)
        return folder

    def alias(self, name: str, path: str) -> None:
        """Open `path` (below this agent's) under the name of one of its folders. Raises FileNotFoundError."""
        self._open[name] = Folder(os.path.join(self.path, path), self._caps)

    def close(self) -> None:
        for folder in self._open.values():
            folder.close()
        self._open.clear()

    def home(self, name: Name) -> Folder:
        """Where an undelivered message of that lane lies."""
        return self["control"] if name.lane == _CONTROL else self["inbox"]

    def claim(self, source: Folder, text: str, holder: str, deadline: int) -> str | None:
        """Take it; the claimed name, or None when another was faster."""
        claimed = names.claimed(text, holder, deadline)
        try:
            source.rename(text, self["claimed"], claimed)
        except FileNotFoundError:
            return None
        return claimed

    def renew(self, text: str, claim: Claim, deadline: int) -> str:
        renewed = names.claimed(claim.name.text, claim.holder, deadline)
        if renewed != text:
            with self._lease(text):
                self["claimed"].rename(text, self["claimed"], renewed)
        return renewed

    def ack(self, text: str) -> None:
        with self._lease(text):
            self["claimed"].unlink(text)

    def restore(self, text: str, name: Name) -> None:
        """Undo a claim that was never handed over: the same name again, the attempt not spent."""
        with self._lease(text):
            self["claimed"].rename(text, self.home(name), name.text)

    def give_back(self, text: str, name: Name, max_attempts: int, due: int | None = None) -> GivenBack:
        """Return a claim for another delivery, `due` a new sort key (None: its old place); bury it when attempts are spent."""
        if name.delivery >= max_attempts:
            self.bury(text, name, "attempts")
            return "buried"
        again = name._replace(attempt=name.delivery + 1, due=name.due if due is None else due)
        with self._lease(text):
            self["claimed"].rename(text, self.home(name), again.text)
        return "returned"

    def bury(self, text: str, name: Name, reason: str) -> None:
        with self._lease(text):
            self["claimed"].rename(text, self["dead"], names.dead(name, reason))

    def quarantine(self, source: Folder, text: str, now: int) -> str | None:
        """Move something that is no message out of the way; its new name in dead/, None when it was gone already."""
        grave = names.malformed(text, now)
        with contextlib.suppress(FileNotFoundError):
            source.rename(text, self["dead"], grave)
            return grave
        return None

    @contextlib.contextmanager
    def _lease(self, text: str):  # type: ignore[no-untyped-def]
        try:
            yield
        except FileNotFoundError:
            raise LeaseLost(
                f"the lease on a message of {self.agent!r} is over: it was returned, taken over, or acknowledged already; "
                "do not count this work",
                agent=self.agent,
                receipt=f"{self.agent}/{text}",
            ) from None
