"""A coordinator: one single-threaded process that leads workers, or coordinators, or both.

    up -> (mesh) -> ready -> tasks ... results ... -> stop or cancel -> bye

Each turn of its loop: wait (bell, lifeline, ended children, next timer); reap; read all mail; judge the dead (in this order: a
result that was sent before its worker died is read before the death is judged); start, dispatch, send results up. It never
blocks on a send of tasks and results: what finds no room is tried again in the next turn.

:class:`Coordinator` is the part that every level has; :mod:`cfn.swarm.master` adds the ledger and the policy at the root.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cfn.bus.protocol import Delivery, Draft, Mailbox
from cfn.errors import AgentGone, BusFull, Fenced, InboxFull, LeaseLost, MessageTooLarge
from cfn.message import Message
from cfn.swarm import children
from cfn.swarm.body import Body
from cfn.swarm.branches import Branch, Branches
from cfn.swarm.children import Child, Lifeline
from cfn.swarm.crew import Crew, Work
from cfn.swarm.loop import HANG_UP, Loop
from cfn.swarm.patience import Patience, patiently
from cfn.swarm.task import Result, Task
from cfn.swarm.topology import Node, worker_name
from cfn.swarm.worker import wire, work

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus
    from cfn.bus.mailbox import FileMailbox

#: From a cancellation to SIGKILL, in a worker's command (its own SIGTERM grace is within it) and for coordinators above.
CANCEL_GRACE_S: Final = 1.2
_FROM_PARENT: Final = frozenset({"task", "mesh", "open", "stop", "drain"})
_TURN_S: Final = 0.25  # longest turn without an event: heartbeat, watching, timers
_LOOK_S: Final = 0.1
_DYING_S: Final = 0.5  # a large process on a busy host takes a while to end
_SHORT_S: Final = 0.01  # while something waits for room or for a process group to vanish
_BATCH: Final = 100  # results in one file
_MESH_S: Final = 10.0  # a peer that did not answer by then died: the report says so, the run goes on
_READ: Final = 512  # messages read in one turn before work goes on


class Coordinator:
    """One node of the plan at work."""

    role = "coordinator"

    def __init__(
        self, bus: FileBus, node: Node, run: str, parent: str | None, body: Body, lifeline: int | None, *, term: int = 1,
        fork: bool = True, join: bool = False, mailbox: Mailbox | None = None,
    ) -> None:  # fmt: skip
        self.bus = bus
        self.node = node
        self.run = run
        self.agent = f"{run}.{node.name}"
        self.parent = parent
        self.body = body
        self.term = term
        self._lifeline_fd = lifeline
        self._fork = fork
        self._join = join
        size = max(
            bus.settings.max_inbox, 2 * (node.workers + len(node.children)) + 64
        )  # every child's ready and result has room
        self.mailbox = mailbox or bus.register(
            self.agent, role=self.role, team=node.team, run=run, parent=parent, max_inbox=size
        )
        self.mailbox.min_term = term
        self._lifeline = Lifeline()
        self._children: dict[int, Child] = {}
        self.crew = Crew(
            bus, self.mailbox, node.team, body, node.workers, self._worker_id, self._start_workers, self._final, term
        )
        self.branches = Branches(bus, self.mailbox, run, body, node.children, self._branch_lost, term)
        self._peers: list[str] | None = None
        self._pongs: set[str] = set()
        self._mesh_until = 0.0
        self._met = False
        self._said_ready = False
        self.opened = False
        self._pending: list[Work] = []  # for the coordinators below
        self._up: list[Result] = []  # results on their way to the parent
        self._patience = Patience(bus.settings.send_timeout)
        self._stopping = self._draining = False
        self._cancelled = False
        self._done_unacked: set[str] = set()  # messages that were handled when their lease was over
        self._kill_at: float | None = None
        self._parent_looked_at = 0.0
        self._health_at = time.monotonic() + bus.settings.health_check_interval

    # ------------------------------------------------------------ the loop

    def lead(self) -> None:
        """The whole life, from start to an empty house."""
        loop = Loop(children=True)
        loop.add(self.mailbox.fileno())
        loop.add(self._lifeline_fd)
        gc.collect()
        gc.freeze()  # children share these pages instead of copying them when a collection marks them
        try:
            self.begin()
            while not self.is_over():
                ready = loop.wait(self._pause_s())
                if self._lifeline_fd is not None and ready.get(self._lifeline_fd, 0) & HANG_UP:
                    self.orphaned()
                    break
                if self._lifeline_fd is None and self._parent_died():
                    self.orphaned()
                    break
                self.turn()
            self.end()
        except Fenced:
            self.orphaned()  # replaced or removed from outside: take the team along, say nothing more
        finally:
            self._clear()
            loop.close()

    def _parent_died(self) -> bool:
        """Of one that joined from outside: no lifeline leads here, so the parent's lock is asked, ten times a second."""
        now = time.monotonic()
        if self.parent is None or now - self._parent_looked_at < _LOOK_S:
            return False
        self._parent_looked_at = now
        return not self.bus.is_alive(self.parent)

    def turn(self) -> None:
        """One round; see the module for its order."""
        self.mailbox.drain_bell()
        ended = children.reap(self._children)
        self._read_mail(self._waiting() if ended else 0)
        for child in ended:
            if not self.branches.ended(child):
                self.crew.ended(child)
        self.branches.watch()
        self.crew.kill_hung()
        self.crew.enforce()
        self._enforce()
        self.crew.spawn()
        self._greet()
        self.distribute()
        self.crew.dispatch()
        if self.node.workers and not self.crew.size and self.parent is not None:
            self._stopping = True  # it could start no agent: it leaves, so that the others get what is still to do
        self.deliver()
        self._report_health()

    def _pause_s(self) -> float:
        if self.crew.starting:
            return 0.0
        if self._lifeline_fd is None and self.parent is not None:
            return _SHORT_S if self._up else _LOOK_S
        if self._up or self.crew.restless or self._kill_at is not None:
            return _SHORT_S
        return min(_TURN_S, float(self.bus.settings.heartbeat) / 2)

    def _waiting(self) -> int:
        try:
            return self.bus.count(self.agent)
        except AgentGone:
            return 0  # the next receive says it

    def _read_mail(self, least: int) -> None:
        """At least so many files (all that were there when somebody's end was told), else as much as a turn may take."""
        left, files = _READ, least
        while left > 0 or files > 0:
            deliveries = self.mailbox.receive(0.0, 64)
            if not deliveries:
                return
            files -= len(deliveries)
            for delivery in deliveries:
                left -= len(delivery.messages)
                self._handle(delivery)

    # ------------------------------------------------------------ mail

    def _handle(self, delivery: Delivery) -> None:
        """What nobody here understands, or may not say, is kept where `cfn bus dead` shows it.

        A lease that ran out while this process was stopped comes back as another delivery: acknowledged then, not done twice.
        """
        first = delivery.message.msg_id
        try:
            if first in self._done_unacked or self._take(delivery):
                delivery.ack()
            self._done_unacked.discard(first)
        except LeaseLost:
            self._done_unacked.add(first)

    def _take(self, delivery: Delivery) -> bool:
        """Whether it is to be acknowledged; else it was buried."""
        try:
            for message in delivery.messages:
                if message.type in _FROM_PARENT and message.sender != self.parent:
                    raise KeyError(message.type)
                handler = getattr(self, f"_on_{message.type}", None)
                if handler is None:
                    raise KeyError(message.type)
                handler(message)
        except (KeyError, TypeError, ValueError):
            delivery.bury("rejected")
            return False
        return True

    def _on_ready(self, message: Message) -> None:
        if self.branches.of(message.sender) is not None:
            self.branches.is_ready(message.sender, dict(message.payload))
        else:
            self.crew.is_ready(message.sender)

    def _on_result(self, message: Message) -> None:
        result = Result(**message.payload)
        if self.branches.of(message.sender) is not None:
            self.branches.finished(message.sender, result.task_id)
            self._final(result)
        else:
            self.crew.finished(message.sender, result)

    def _on_task(self, message: Message) -> None:
        made = Work(Task(**message.payload["task"]), int(message.payload["attempt"]))
        if self._cancelled or self._draining:
            return
        self.accept([made])

    def _on_up(self, message: Message) -> None:
        self.branches.is_up(message.sender)

    def _on_mesh(self, message: Message) -> None:
        self._peers = [str(peer) for peer in message.payload["peers"]]
        self._mesh_until = time.monotonic() + _MESH_S
        for peer in self._peers:
            with contextlib.suppress(AgentGone, InboxFull):
                self._patiently(
                    partial(self.mailbox.send, peer, "ping", {}, priority="control", timeout_s=0.0, term=self.term)
                )

    def _on_ping(self, message: Message) -> None:
        with contextlib.suppress(AgentGone, InboxFull):
            self._patiently(
                partial(self.mailbox.reply, message, {}, type="pong", priority="control", timeout_s=0.0, term=self.term)
            )

    def _on_pong(self, message: Message) -> None:
        self._pongs.add(message.sender)

    def _on_open(self, message: Message) -> None:
        self.open()

    def _on_stop(self, message: Message) -> None:
        self.stop()

    def _on_drain(self, message: Message) -> None:
        self.drain()

    def _on_cancel(self, message: Message) -> None:
        self.cancel()

    def _on_shutdown(self, message: Message) -> None:
        self.cancel()

    def _on_lost(self, message: Message) -> None:
        """A coordinator further down died; the master writes it into the report."""
        if self.branches.of(message.sender) is not None:
            self.say_up("lost", dict(message.payload))

    def _on_health(self, message: Message) -> None:
        branch = self.branches.of(message.sender)
        if branch is not None:
            branch.workers_lost = int(message.payload["workers_lost"])
            branch.gaps = int(message.payload["gaps"])

    def _on_bye(self, message: Message) -> None:
        self._on_health(message)
        self.branches.left(message.sender)

    # ------------------------------------------------------------ start

    def begin(self) -> None:
        if self.node.children and not self._join:
            self.branches.fork(self._start_coordinator)
        if self.parent is not None:
            self.say_up("up", {})
        self.crew.spawn()

    def _worker_id(self, n: int) -> str:
        return f"{self.run}.{worker_name(self.node, n)}"

    def _start_workers(self, agents: list[str]) -> Iterator[Child]:
        """Start them, one after the other; ends early with the OSError of the system that starts no more."""
        args = (self.agent, self.node.team, self.run, self.term, self.body)
        if self._fork:
            yield from self._fork_workers(agents, *args)
            return
        for agent in agents:
            child = children.spawn_child(agent, spawned_worker, self.bus.root, self.bus.settings, agent, *args)
            self._children[child.pid] = child
            yield child

    def _fork_workers(self, agents: list[str], *args: Any) -> Iterator[Child]:
        """Register all, fork all, then let go of all: what a parent touches between two forks is copied for each child
        (450 pages a fork when it was done one by one)."""
        made: list[tuple[str, FileMailbox]] = []
        forked: list[tuple[Child, FileMailbox]] = []
        try:
            for agent in agents:
                who = {"role": "worker", "team": self.node.team, "run": self.run, "parent": self.agent}
                made.append((agent, self.bus.prepare(agent, **who)))
            for agent, mailbox in made:
                mailbox.leave_to_child(self.agent)
                try:
                    forked.append(
                        (children.fork_child(agent, self._lifeline, forked_worker, mailbox, agent, *args), mailbox)
                    )
                finally:
                    mailbox.adopt()  # the next child must not keep this one's lock
        finally:
            for child, mailbox in forked:
                mailbox.hand_over()
                with contextlib.suppress(OSError):  # no room: the record names the parent's pid, nothing else is amiss
                    self.bus.set_pid(child.name, child.pid)
                self._children[child.pid] = child
                yield child
            for _, mailbox in made[len(forked) :]:
                mailbox.remove()
                mailbox.bus.close()

    def _start_coordinator(self, node: Node) -> Child:
        args = (node, self.run, self.agent, self.body, self.term, self._fork)
        if self._fork:
            child = children.fork_child(node.name, self._lifeline, coordinate, self.bus, *args)
        else:
            child = children.spawn_child(node.name, spawned_coordinator, self.bus.root, self.bus.settings, *args)
        self._children[child.pid] = child
        return child

    def _greet(self) -> None:
        """Once: the mesh when all coordinators are up; `ready` when everybody below is, and the mesh has answered."""
        if not self._met and self.node.children and self.branches.all_up:
            self._met = True
            self.on_all_up()
        if self._said_ready or not (self.crew.all_ready and self.branches.all_ready):
            return
        if self._in_mesh and not self._mesh_answered():
            return
        self._said_ready = True
        self.on_ready()

    def _mesh_answered(self) -> bool:
        if self._peers is None:
            return False
        return len(self._pongs) >= len(self._peers) or time.monotonic() >= self._mesh_until

    @property
    def _in_mesh(self) -> bool:
        """Whether this one has peers: the coordinators of the first level are a mesh."""
        return self.parent is not None and self.parent.endswith(".master")

    def on_all_up(self) -> None:
        """All child coordinators are registered."""
        if self.parent is None:
            self.branches.meet()

    def on_ready(self) -> None:
        self.say_up("ready", self.census())

    def census(self) -> dict[str, int]:
        """Who lives here and below."""
        return {
            "living": 1 + self.crew.alive + sum(branch.living for branch in self.branches.living),
            "mesh_pings": len(self._peers or ()) + sum(branch.mesh_pings for branch in self.branches.all.values()),
            "mesh_answered": len(self._pongs) + sum(branch.mesh_answered for branch in self.branches.all.values()),
        }

    def open(self) -> None:
        """The barrier falls: tasks may go out."""
        self.opened = True
        self.crew.open()
        self.branches.tell("open")

    # ------------------------------------------------------------ tasks down, results up

    def accept(self, works: list[Work]) -> None:
        """Tasks from the parent: to the own workers, or further down."""
        if self.node.workers:
            self.crew.take(works)
        else:
            self._pending.extend(works)

    def distribute(self) -> None:
        """What waits here goes to the children in proportion to their room."""
        if not self._pending:
            return
        if not self.branches.living:
            self._lose(self._pending, "no coordinator is left for it in its team")
            self._pending = []
            return
        rooms = [(branch, self.branches.room(branch)) for branch in self.branches.living]
        self._pending = self._share(self._pending, rooms)

    def _share(self, works: list[Work], rooms: list[tuple[Branch, int]]) -> list[Work]:
        """Give each branch its share; what is left."""
        total = sum(max(0, room) for _, room in rooms)
        for branch, room in rooms:
            if room <= 0 or not works:
                continue
            share = min(room, -(-len(works) * room // total))
            total -= room
            refused = self.branches.give(branch, works[:share])
            works = refused + works[share:]
        return works

    def _final(self, result: Result) -> None:
        self._up.append(result)

    def deliver(self) -> None:
        """Send results up, as many in one file as fit."""
        while self._up:
            sent = self._send_up(self._up[:_BATCH])
            del self._up[:sent]
            if not sent:
                return

    def _send_up(self, part: list[Result]) -> int:
        """How many of them were sent: all, or (too large together) the first few, or none (no room now)."""
        assert self.parent is not None
        drafts = [Draft(type="result", payload=wire(result)) for result in part]
        try:
            self.mailbox.send_batch(self.parent, drafts, priority="high", timeout_s=0.0, term=self.term)
        except InboxFull:
            return 0
        except BusFull as refusal:
            self._patience.bear(refusal)
            return 0
        except MessageTooLarge:
            return self._send_up(part[: len(part) // 2])
        except AgentGone:
            raise Fenced(f"the coordinator {self.parent!r} is gone", agent=self.agent) from None
        self._patience.over()
        return len(part)

    def say_up(self, type: str, payload: dict[str, Any]) -> None:
        assert self.parent is not None
        send = partial(self.mailbox.send, self.parent, type, payload, priority="control", run=self.run, term=self.term)
        try:
            self._patiently(send)
        except AgentGone:
            raise Fenced(f"the coordinator {self.parent!r} is gone", agent=self.agent) from None

    def _patiently(self, send: Callable[[], object]) -> None:
        patiently(self.mailbox, self.bus.settings.send_timeout, send)

    def _branch_lost(self, branch: Branch, works: list[Work]) -> None:
        """A coordinator below died: its tasks are lost with it, and said so."""
        self._lose(works, f"its coordinator {branch.agent} died")
        self.say_up("lost", {"agent": branch.agent})

    def _lose(self, works: list[Work], reason: str) -> None:
        for made in works:
            self._final(
                Result(
                    task_id=made.task.task_id,
                    status="lost",
                    attempt=made.attempt,
                    team=self.node.team,
                    reason=reason,
                    number=made.task.number,
                )
            )

    def _report_health(self) -> None:
        now = time.monotonic()
        if self.parent is not None and now >= self._health_at and not self._stopping:
            self._health_at = now + self.bus.settings.health_check_interval
            self.say_up("health", self.health())

    def health(self) -> dict[str, Any]:
        return {
            "status": "healthy",
            "inbox_count": self.bus.count(self.agent),
            "alive": self.crew.alive,
            **self.losses(),
        }

    def losses(self) -> dict[str, int]:
        """Here and below."""
        return {
            "workers_lost": self.crew.lost + sum(branch.workers_lost for branch in self.branches.all.values()),
            "gaps": self.mailbox.gaps + sum(branch.gaps for branch in self.branches.all.values()),
        }

    # ------------------------------------------------------------ the end

    def stop(self) -> None:
        """No more tasks will come: everybody leaves when their work is done."""
        self._stopping = True
        self.crew.stop()
        self.branches.tell("stop")

    def drain(self) -> None:
        """Let what runs end, and start nothing more, of what waits here either."""
        self._stopping = self._draining = True
        self._pending.clear()
        self.crew.drain()
        self.branches.tell("drain")

    def cancel(self) -> None:
        """End everything now; what ran is reported as cancelled, what waited is forgotten here (the master knows it)."""
        if self._cancelled:
            return
        self._cancelled = self._stopping = True
        self._pending.clear()
        self.crew.cancel(CANCEL_GRACE_S)
        self.branches.tell("cancel")
        self._kill_at = time.monotonic() + CANCEL_GRACE_S + 0.4  # a level above waits for the one below

    def _enforce(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for branch in self.branches.living:
                if branch.child is not None:
                    branch.child.kill()

    def is_over(self) -> bool:
        return self._stopping and not self._children and not self._up and not self.branches.living

    def end(self) -> None:
        if self.parent is not None and self._stopping:
            with contextlib.suppress(Fenced, InboxFull, BusFull):
                self.say_up("bye", self.health())

    def orphaned(self) -> None:
        """The parent is gone: nobody waits for a result. Take everything along, within 2 s."""
        for child in self._children.values():
            child.kill()
        if self.parent is not None and self._is_dead(self.parent):
            self.bus.remove(self.parent)  # a dead parent cannot clear up after itself

    def _is_dead(self, agent: str) -> bool:
        """Its lifeline is closed; the kernel closes the lock of the same process within this instant, or it lives."""
        end = time.monotonic() + _DYING_S
        while self.bus.is_alive(agent):
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)
        return True

    def _clear(self) -> None:
        """No process and no mailbox of this team is left behind."""
        self._lifeline.close()  # whoever still lives below wakes and ends itself
        children.wait_for_end(self._children, 1.0)
        for agent in self.bus.agent_ids():
            if agent.startswith(self.agent + ".") or (
                self.parent is None and agent.startswith(self.run + ".") and agent != self.agent
            ):
                self.bus.remove(agent)
        self.mailbox.remove()
        if self.parent is None:
            with contextlib.suppress(OSError):
                self.bus.forget_control(self.run)


def coordinate(
    lifeline: int, bus: FileBus, node: Node, run: str, parent: str, body: Body, term: int, fork: bool
) -> None:
    """The whole life of a forked coordinator process; `bus` is its parent's."""
    mine = bus.reborn()
    try:
        Coordinator(mine, node, run, parent, body, lifeline, term=term, fork=fork).lead()
    finally:
        mine.close()


def spawned_coordinator(
    lifeline: int, root: str, settings: Any, node: Node, run: str, parent: str, body: Body, term: int, fork: bool
) -> None:
    from cfn.bus.filebus import FileBus

    coordinate(lifeline, FileBus(root, settings), node, run, parent, body.warm(), term, fork)


def forked_worker(lifeline: int, mailbox: FileMailbox, *args: Any) -> None:
    mailbox.adopt()
    work(lifeline, mailbox, *args)


def spawned_worker(
    lifeline: int,
    root: str,
    settings: Any,
    agent: str,
    coordinator: str,
    team: str | None,
    run: str,
    term: int,
    body: Body,
) -> None:
    from cfn.bus.filebus import FileBus

    mailbox = FileBus(root, settings).register(agent, role="worker", team=team, run=run, parent=coordinator)
    work(lifeline, mailbox, agent, coordinator, team, run, term, body.warm())
