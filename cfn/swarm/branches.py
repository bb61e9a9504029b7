"""The coordinators below one coordinator: started (or joining from outside), given tasks on credit, watched.

Credit: a child never has more tasks outstanding than its workers plus a small prefetch, so what goes down never fills an
inbox, and what comes up always finds its parent reading: full inboxes cannot deadlock a tree.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cfn.bus.protocol import Draft, Mailbox
from cfn.errors import AgentGone, BusFull, InboxFull, MessageTooLarge
from cfn.swarm.body import Body
from cfn.swarm.children import Child
from cfn.swarm.crew import Work
from cfn.swarm.lateness import Lateness
from cfn.swarm.patience import Patience, patiently
from cfn.swarm.topology import Node

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

#: Tasks that a team may hold beyond one a worker, so that no worker waits for the way to the master and back.
_PREFETCH: Final = 0.25
_POOL_PREFETCH: Final = 16  # a pool's worker is done in less time than that way takes
_BATCH: Final = 100
#: How often an external coordinator's lock is asked; a forked one's death is told by the kernel.
_LOOK_S: Final = 0.1
#: Words after which a coordinator leaves: who was not there yet when one was said hears it when it comes.
_ENDS: Final = frozenset({"stop", "drain", "cancel"})


@dataclass(slots=True)
class Branch:
    """One child coordinator."""

    agent: str
    node: Node
    child: Child | None = None  # None: it joins from outside
    up: bool = False
    ready: bool = False
    gone: bool = False
    living: int = 0  # processes below and including it, when it was ready
    mesh_pings: int = 0
    mesh_answered: int = 0
    workers_lost: int = 0
    gaps: int = 0
    works: dict[str, Work] = field(default_factory=dict)  # outstanding, by task id

    @property
    def workers(self) -> int:
        return self.node.agents


class Branches:
    """See the module. `lost(branch, works)` is told once when a coordinator dies."""

    def __init__(
        self, bus: FileBus, mailbox: Mailbox, run: str, body: Body, nodes: Sequence[Node], lost: Callable[[Branch, list[Work]], None],
        term: int = 1,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._mailbox = mailbox
        self._body = body
        self._lost = lost
        self._term = term
        self.all = {f"{run}.{node.name}": Branch(f"{run}.{node.name}", node) for node in nodes}
        self._by_pid: dict[int, Branch] = {}
        self._end: str | None = None  # the last word of _ENDS
        self._looked_at = 0.0
        self._steady_since = self._ticked_at = time.monotonic()
        self._lateness = Lateness(bus.settings.heartbeat)
        self._patience = Patience(bus.settings.send_timeout)

    # ------------------------------------------------------------ numbers

    @property
    def living(self) -> list[Branch]:
        return [branch for branch in self.all.values() if not branch.gone]

    @property
    def all_up(self) -> bool:
        return all(branch.up for branch in self.living)

    @property
    def all_ready(self) -> bool:
        return all(branch.ready for branch in self.living)

    def of(self, agent: str) -> Branch | None:
        return self.all.get(agent)

    # ------------------------------------------------------------ start

    def fork(self, start: Callable[[Node], Child]) -> None:
        for branch in self.all.values():
            branch.child = start(branch.node)
            self._by_pid[branch.child.pid] = branch

    def is_up(self, agent: str) -> Branch | None:
        branch = self.all.get(agent)
        if branch is not None:
            branch.up = True
            if self._end is not None:
                self.say(branch, self._end, {})
        return branch

    def meet(self) -> None:
        """All are up: tell each its peers, so that they ping each other over the mesh."""
        peers = [branch.agent for branch in self.living]
        for branch in self.living:
            self.say(branch, "mesh", {"peers": [peer for peer in peers if peer != branch.agent]})

    def is_ready(self, agent: str, payload: dict[str, Any]) -> None:
        branch = self.all.get(agent)
        if branch is not None:
            branch.ready = True
            branch.living = int(payload["living"])
            branch.mesh_pings = int(payload["mesh_pings"])
            branch.mesh_answered = int(payload["mesh_answered"])

    # ------------------------------------------------------------ tasks

    def room(self, branch: Branch) -> int:
        """Tasks that it may get now."""
        if branch.gone:
            return 0
        extra = branch.workers * _POOL_PREFETCH if self._body.pool else max(2, int(branch.workers * _PREFETCH))
        return branch.workers + extra - len(branch.works)

    def give(self, branch: Branch, works: list[Work]) -> list[Work]:
        """Send tasks down in batches; gives back those that could not be sent."""
        for start in range(0, len(works), _BATCH):
            part = works[start : start + _BATCH]
            try:
                self._send(branch, part)
            except (AgentGone, InboxFull):
                return works[start:]
            except BusFull as refusal:
                self._patience.bear(refusal)
                return works[start:]
            self._patience.over()
            for work in part:
                branch.works[work.task.task_id] = work
        return []

    def _send(self, branch: Branch, part: list[Work]) -> None:
        drafts = [Draft(type="task", payload={"task": work.task.to_dict(), "attempt": work.attempt}) for work in part]
        try:
            self._mailbox.send_batch(branch.agent, drafts, priority="high", timeout_s=0.0, term=self._term)
        except MessageTooLarge:
            if len(part) == 1:
                raise
            half = len(part) // 2
            self._send(branch, part[:half])
            self._send(branch, part[half:])

    def finished(self, agent: str, task_id: str) -> None:
        branch = self.all.get(agent)
        if branch is not None:
            branch.works.pop(task_id, None)

    # ------------------------------------------------------------ death

    def ended(self, child: Child) -> bool:
        """A forked coordinator is reaped. Whether it was one of ours."""
        branch = self._by_pid.pop(child.pid, None)
        if branch is not None:
            if child.code == 0 and self._end is not None:
                branch.gone = True  # as asked, but its goodbye found no room
            self._bury(branch)
        return branch is not None

    def watch(self) -> None:
        """External coordinators whose lock is free are dead; those whose heart stopped three beats ago are hung, unless they are starved."""
        now = time.monotonic()
        if now - self._ticked_at > self._bus.settings.heartbeat:
            self._steady_since = now  # this process was paused itself: the count begins again
        self._ticked_at = now
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for branch in self.living:
            if not branch.up:
                continue
            if branch.child is None and not self._bus.is_alive(branch.agent):
                self._bury(branch)
            elif now - self._steady_since > self._lateness.limit_s and self._is_hung(branch):
                if branch.child is not None:
                    branch.child.kill()  # reaping tells the rest
                else:
                    self._bury(branch)

    def _is_hung(self, branch: Branch) -> bool:
        pid = branch.child.pid if branch.child is not None else None
        return self._lateness.judge(branch.agent, functools.partial(self._bus.beat_age_s, branch.agent), pid)

    def _bury(self, branch: Branch) -> None:
        if branch.gone:
            return
        branch.gone = True
        works = list(branch.works.values())
        branch.works.clear()
        self._bus.remove(branch.agent)
        self._lost(branch, works)

    # ------------------------------------------------------------ the end

    def tell(self, type: str) -> None:
        """The same word to all of them. Nobody waits for the end of those that never joined."""
        if type in _ENDS:
            self._end = type
        for branch in self.living:
            if self._end is not None and branch.child is None and not branch.up:
                branch.gone = True
            else:
                self.say(branch, type, {})

    def say(self, branch: Branch, type: str, payload: dict[str, Any]) -> None:
        send = partial(
            self._mailbox.send, branch.agent, type, payload, priority="control", timeout_s=0.0, term=self._term
        )
        with contextlib.suppress(AgentGone, InboxFull):  # its death is told elsewhere
            if type == "cancel":
                with contextlib.suppress(BusFull):  # whom it does not reach is killed soon
                    send()
            else:
                patiently(self._mailbox, self._bus.settings.send_timeout, send)

    def left(self, agent: str) -> None:
        """It said goodbye: its end is no loss, unless nobody asked for it."""
        branch = self.all.get(agent)
        if branch is None or branch.gone:
            return
        if self._end is None:
            self._bury(branch)
        else:
            branch.gone = True
