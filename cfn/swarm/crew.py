"""The workers of one coordinator: started in batches, given one task each, watched, ended.

A worker counts as ready when its `ready` message came; none gets a task before the whole swarm is ready (the barrier). A
worker that died or hangs is ended with its whole process group; its task is done again only when that group is gone, at most
``LOST_RETRIES`` times, then it is `lost`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cfn.bus.protocol import Mailbox
from cfn.errors import AgentGone, BusFull, InboxFull
from cfn.swarm.body import Body
from cfn.swarm.children import GROUP_WAIT_S, Child, group_is_gone
from cfn.swarm.lateness import Lateness
from cfn.swarm.patience import Patience, patiently
from cfn.swarm.task import Result, Task

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

#: How often a task whose worker died is given to another one.
LOST_RETRIES: Final = 2
#: So many agents (and as many as the team has) may die at birth before the team's tasks are given up.
_STILLBORN: Final = 10
#: A fork costs 0.5 to 3 ms: eight of them leave a turn far below the heartbeat.
_STARTS_A_TURN: Final = 8
_REFUSAL_PAUSE_S: Final = 0.1
_REFUSAL_S: Final = 2.0


@dataclass(slots=True)
class Work:
    """A task on its way through a team."""

    task: Task
    attempt: int = 1
    lost: int = 0  # workers that died with it
    started_at: float | None = None


@dataclass(slots=True)
class _Worker:
    agent: str
    child: Child
    ready: bool = False
    work: Work | None = None
    leaving: bool = False  # it was told to, or its one task is done


@dataclass(slots=True)
class Crew:
    """See the module. `start(agents)` starts worker processes; `done(result)` takes what is final."""

    bus: FileBus
    mailbox: Mailbox
    team: str | None
    body: Body
    size: int  # workers to keep while there is work
    name: Callable[[int], str]  # the agent id of the n-th worker
    start: Callable[[list[str]], Iterable[Child]]
    done: Callable[[Result], None]
    term: int = 1
    lost: int = 0
    _looked_at: float = 0.0
    _steady_since: float = field(default_factory=time.monotonic)
    _ticked_at: float = field(default_factory=time.monotonic)
    _lateness: Lateness | None = None
    queue: deque[Work] = field(default_factory=deque)
    _workers: dict[str, _Worker] = field(default_factory=dict)  # by agent id
    _by_pid: dict[int, _Worker] = field(default_factory=dict)
    _idle: deque[_Worker] = field(default_factory=deque)
    _cooling: list[tuple[int, float, Work]] = field(default_factory=list)  # group, give-up time, what to do again
    _made: int = 0
    _unready: int = 0
    _busy: int = 0
    _staying: int = 0  # workers that may get (more) work
    _stillborn: int = 0  # died before they were ready
    _refusals: int = 0
    _start_again_at: float = 0.0
    refusal: str | None = None  # why there are fewer workers than planned
    _open: bool = False  # the barrier fell
    _draining: bool = False  # what waits is not started any more
    _stopped: bool = False  # no more work will come
    _ending: bool = False
    _kill_at: float | None = None
    _patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self._patience = Patience(self.bus.settings.send_timeout)

    # ------------------------------------------------------------ numbers

    @property
    def workers(self) -> int:
        return self.size

    @property
    def outstanding(self) -> int:
        """Tasks taken and not final."""
        return len(self.queue) + len(self._cooling) + self._busy

    @property
    def alive(self) -> int:
        return len(self._workers)

    @property
    def restless(self) -> bool:
        """Whether something is due that no descriptor announces."""
        return bool(self._cooling) or (self._kill_at is not None and bool(self._workers))

    @property
    def starting(self) -> bool:
        """Whether the next turn should start more workers at once."""
        return (
            not self._ending
            and not self._stopped
            and self._made < self.size
            and self._unready < self.body.batch
            and time.monotonic() >= self._start_again_at
        )

    @property
    def all_ready(self) -> bool:
        return self._made >= self.size and self._unready == 0

    # ------------------------------------------------------------ spawning

    def spawn(self) -> None:
        """Start workers: first up to `size`, later as many as there is work for; at most ``batch`` of them not ready yet.

        A few at a time, so that a turn stays short on a host with far more processes than cores.
        """
        if self._ending or self._stopped or time.monotonic() < self._start_again_at:
            return
        room = self.size - self._staying
        wanted = room if self._made < self.size else min(room, len(self.queue) - len(self._idle) - self._unready)
        count = min(wanted, self.body.batch - self._unready, _STARTS_A_TURN)
        if count <= 0:
            return
        try:
            for child in self.start([self.name(self._made + n) for n in range(1, count + 1)]):
                worker = _Worker(child.name, child)
                self._workers[child.name] = self._by_pid[child.pid] = worker
                self._made += 1
                self._refusals = 0
                self._unready += 1
                self._staying += 1
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        """The system starts no more processes now: try again for two seconds, then go on with those that are there."""
        self._refusals += 1
        self._start_again_at = time.monotonic() + _REFUSAL_PAUSE_S
        if self._refusals * _REFUSAL_PAUSE_S < _REFUSAL_S:
            return
        self.size = self._staying  # names go on from `_made`: a name that lives must not be given again
        count = f"only {self.size} agents" if self.size else "no agent"
        self.refusal = f"{count} could be started: {error.strerror or error}"

    def is_ready(self, agent: str) -> None:
        worker = self._workers.get(agent)
        if worker is not None and not worker.ready:
            worker.ready = True
            self._unready -= 1
            self._idle.append(worker)

    def open(self) -> None:
        self._open = True

    # ------------------------------------------------------------ tasks

    def take(self, works: list[Work]) -> None:
        self.queue.extend(works)

    def dispatch(self) -> None:
        """Give idle workers what waits. Never blocks: a worker's control folder holds one task."""
        self._warm_up()
        if not self.size and self.refusal is not None:
            self._give_up(self.refusal)
        while self._open and self.queue and self._idle:
            worker = self._idle.popleft()
            if worker.leaving or worker.agent not in self._workers:
                continue
            work = self.queue.popleft()
            try:
                self._say(worker, "task", {"task": work.task.to_dict(), "attempt": work.attempt})
            except AgentGone:
                self.queue.appendleft(work)  # it died this instant: reaping tells
                continue
            except InboxFull:
                self.queue.appendleft(work)
                self._idle.append(worker)
                return
            except BusFull as refusal:
                self.queue.appendleft(work)
                self._idle.appendleft(worker)
                self._patience.bear(refusal)
                return
            self._patience.over()
            work.started_at = time.time()
            worker.work = work
            self._busy += 1

    def finished(self, agent: str, result: Result) -> None:
        """A worker's result: final, or one more try."""
        worker = self._workers.get(agent)
        work = worker.work if worker is not None else None
        if worker is None or work is None or work.task.task_id != result.task_id:
            self.done(result)  # of a worker that was given up: the ledger keeps the first
            return
        worker.work = None
        self._busy -= 1
        if self.body.pool and result.status not in ("timeout", "cancelled") and not worker.leaving:
            self._idle.append(worker)
        else:
            self._leaves(worker)
        over = self._draining or self._ending
        tries = work.attempt - work.lost  # an agent that died is no failure of the task
        if result.status in ("failed", "timeout") and tries <= self.body.retries and not over:
            again = Work(work.task, work.attempt + 1, work.lost)
            self._cooling.append((worker.child.pid if worker.leaving else 0, time.monotonic() + GROUP_WAIT_S, again))
        else:
            self.done(result)

    def _leaves(self, worker: _Worker) -> None:
        if not worker.leaving:
            worker.leaving = True
            self._staying -= 1

    def _warm_up(self) -> None:
        """Put back in the queue what waited for an earlier attempt's process group to vanish."""
        if not self._cooling:
            return
        now = time.monotonic()
        waiting = []
        for group, give_up, work in self._cooling:
            leaver = self._by_pid.get(group)
            if leaver is not None:
                if now > give_up:
                    leaver.child.kill()  # its task is over and it does not end: reaping ends its group
                    give_up = now + GROUP_WAIT_S
                waiting.append((group, give_up, work))
            elif group == 0 or group_is_gone(group) or now > give_up:
                self.queue.appendleft(work)
            else:
                waiting.append((group, give_up, work))
        self._cooling = waiting

    # ------------------------------------------------------------ death

    def ended(self, child: Child) -> None:
        """A worker process is reaped; its group is killed."""
        worker = self._by_pid.pop(child.pid, None)
        if worker is None:
            return
        del self._workers[worker.agent]
        unasked = not worker.leaving and not self._ending
        self._leaves(worker)
        if child.code != 0:
            self.bus.remove(worker.agent)
        if not worker.ready:
            self._unready -= 1
            self._stillborn += unasked
            self._give_up_starting()
        work = worker.work
        if work is None:
            self.lost += unasked
            return
        self._busy -= 1
        if self._ending:
            self.done(self._result(worker, work, "cancelled", "cancelled while it ran"))
            return
        self.lost += 1
        if work.lost < LOST_RETRIES:
            again = Work(work.task, work.attempt + 1, work.lost + 1)
            self._cooling.append((child.pid, time.monotonic() + GROUP_WAIT_S, again))
        else:
            code = child.code or 0
            why = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self.done(self._result(worker, work, "lost", f"its agent died {work.lost + 1} times, last time: {why}"))

    def _give_up_starting(self) -> None:
        """Agents that die before they are ready will not get better by starting more of them."""
        if self._stillborn > max(_STILLBORN, self.size) and not self._staying:
            self._give_up(f"{self._stillborn} agents died before they were ready; see stderr")

    def _give_up(self, reason: str) -> None:
        while self.queue:
            work = self.queue.popleft()
            self.done(
                Result(
                    task_id=work.task.task_id,
                    status="lost",
                    attempt=work.attempt,
                    team=self.team,
                    reason=reason,
                    number=work.task.number,
                )
            )

    def _result(self, worker: _Worker, work: Work, status: Any, reason: str) -> Result:
        return Result(
            task_id=work.task.task_id,
            status=status,
            attempt=work.attempt,
            agent=worker.agent,
            team=self.team,
            started_at=work.started_at,
            duration_s=round(time.time() - work.started_at, 6) if work.started_at else 0.0,
            reason=reason,
            number=work.task.number,
        )

    def kill_hung(self) -> None:
        """End the hung ones (three heartbeats missing, and not starved): reaping does the rest. Looks once a heartbeat."""
        now, beat_s = time.monotonic(), self.bus.settings.heartbeat
        if now - self._ticked_at > beat_s:
            self._steady_since = now  # this process was paused itself: the count begins again
        self._ticked_at = now
        if self._lateness is None:
            self._lateness = Lateness(beat_s)
        if now - self._looked_at < beat_s or now - self._steady_since < self._lateness.limit_s:
            return
        self._looked_at = now
        for worker in self._workers.values():
            # a spawned one imports what it needs before its first heartbeat, a forked one has all it needs
            watched = worker.ready or worker.child.popen is None
            age = functools.partial(self.bus.beat_age_s, worker.agent)
            if watched and self._lateness.judge(worker.agent, age, worker.child.pid):
                worker.child.kill()

    # ------------------------------------------------------------ the end

    def stop(self) -> None:
        """No more work: idle workers leave, busy ones after their task, and no more are started."""
        self._stopped = True
        for worker in self._workers.values():
            self._dismiss(worker)

    def drain(self) -> None:
        """Stop, and forget what has not been started."""
        self._draining = True
        self.queue.clear()
        self._cooling = []
        self.stop()

    def _dismiss(self, worker: _Worker) -> None:
        if not worker.leaving:
            self._leaves(worker)
            with contextlib.suppress(AgentGone, InboxFull):
                patiently(self.mailbox, self.bus.settings.send_timeout, lambda: self._say(worker, "stop", {}))

    def cancel(self, grace_s: float) -> list[Work]:
        """End everything within about `grace_s`; gives back what had not been started."""
        left = [*self.queue, *(work for _, _, work in self._cooling)]
        self.queue.clear()
        self._cooling = []
        self._ending = True
        self._kill_at = time.monotonic() + grace_s
        for worker in self._workers.values():
            with contextlib.suppress(AgentGone, InboxFull, BusFull):  # whom it does not reach is killed soon
                self._say(worker, "cancel", {})
        return left

    def enforce(self) -> None:
        """After a cancellation's grace: SIGKILL for what is left."""
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for worker in self._workers.values():
                worker.child.kill()

    def _say(self, worker: _Worker, type: str, payload: dict[str, Any]) -> None:
        self.mailbox.send(worker.agent, type, payload, priority="control", timeout_s=0.0, term=self.term)
