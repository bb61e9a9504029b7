"""A worker: one OS process, one agent. Registers, says that it is ready, takes tasks, sends results, leaves.

It waits in one poll for its bell, its lifeline and its job; a heartbeat comes from that same loop, so it is proof. When its
coordinator dies it removes its mailbox and ends everything in its process group. A result is sent before the process ends,
without blocking: a full inbox is tried again until there is room, a full file system for ``CFN_SEND_TIMEOUT``.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from cfn.bus.protocol import Delivery, Mailbox
from cfn.errors import AgentGone, BusFull, CfnError, Fenced, InboxFull, LeaseLost, MessageTooLarge
from cfn.message import dump_json
from cfn.swarm.agent import Job, Outcome
from cfn.swarm.body import Body
from cfn.swarm.capture import Output
from cfn.swarm.loop import HANG_UP, Loop
from cfn.swarm.patience import Patience
from cfn.swarm.task import Result, Task

if TYPE_CHECKING:
    from cfn.bus.mailbox import FileMailbox

_RETRY_S: Final = 0.01  # between two tries at a full inbox of the coordinator


def work(
    lifeline: int, mailbox: FileMailbox, agent: str, coordinator: str, team: str | None, run: str, term: int, body: Body
) -> None:
    """The whole life of a worker process, in a mailbox that its coordinator registered for it (or it itself)."""
    Worker(mailbox, lifeline, agent, coordinator, team, run, term, body).live()
    mailbox.bus.close()


class Worker:
    """See the module."""

    def __init__(
        self,
        mailbox: FileMailbox,
        lifeline: int,
        agent: str,
        coordinator: str,
        team: str | None,
        run: str,
        term: int,
        body: Body,
    ) -> None:
        self._mailbox = mailbox
        self._bus = mailbox.bus
        self._lifeline = lifeline
        self._agent = agent
        self._coordinator = coordinator
        self._team = team
        self._run = run
        self._term = term
        self._body = body
        self._job: Job | None = None
        self._task: Task | None = None
        self._attempt = 1
        self._cancelled = False
        self._leaving = False

    def live(self) -> None:
        os.environ.update(
            CFN_RUN=self._run,
            CFN_AGENT_ID=self._agent,
            CFN_COORDINATOR=self._coordinator,
            CFN_MESSAGE_BASE_DIR=self._bus.root,
            MESSAGE_BASE_DIR=self._bus.root,
        )
        mailbox = self._mailbox
        mailbox.min_term = self._term
        try:
            self._say(mailbox, "ready", {})
            self._turn(mailbox)
        except (AgentGone, Fenced):
            self._die(mailbox)  # the coordinator is gone or we were replaced: nobody waits for a result
        mailbox.remove()

    def _turn(self, mailbox: Mailbox) -> None:
        loop = Loop()
        loop.add(mailbox.fileno())
        loop.add(self._lifeline)
        watched: list[int] = []
        while not (self._leaving and self._job is None):
            due = self._job.due_s() if self._job is not None else None
            ready = loop.wait(
                min(self._bus.settings.heartbeat, due) if due is not None else self._bus.settings.heartbeat
            )
            if ready.get(self._lifeline, 0) & HANG_UP:
                self._die(mailbox)
            mailbox.drain_bell()
            for delivery in mailbox.receive(0.0, 16, control_only=True):  # its inbox belongs to its command
                self._handle(delivery)
            if self._job is not None:
                outcome = self._job.step()
                if outcome is not None:
                    loop.sync(watched, [])
                    watched = []
                    self._finish(mailbox, outcome)
                else:
                    fds = self._job.fds()
                    loop.sync(watched, fds)
                    watched = fds

    def _handle(self, delivery: Delivery) -> None:
        message = delivery.message
        try:
            delivery.ack()
        except LeaseLost:
            return  # this process was stopped for a while: it comes again
        if message.type in ("stop", "shutdown"):
            self._leaving = True
        elif message.type == "cancel":
            self._cancelled = self._leaving = True
            if self._job is not None:
                self._job.terminate()
        elif message.type == "task" and message.sender == self._coordinator:
            self._begin(Task(**message.payload["task"]), int(message.payload["attempt"]))

    def _begin(self, task: Task, attempt: int) -> None:
        self._task, self._attempt = task, attempt
        try:
            self._job = self._body.job(
                task,
                attempt,
                self._agent,
                self._coordinator,
                self._bus.root,
                self._run,
                self._bus.settings.max_message_bytes,
            )
        except CfnError as error:
            self._job = _Refused(str(error))
        self._job.start()
        if self._cancelled:
            self._job.terminate()

    def _finish(self, mailbox: Mailbox, outcome: Outcome) -> None:
        task = self._task
        assert task is not None
        self._job = self._task = None
        result = Result(
            task_id=task.task_id,
            status=outcome.status,
            result=outcome.result,
            exit_code=outcome.exit_code,
            attempt=self._attempt,
            agent=self._agent,
            team=self._team,
            duration_s=round(outcome.duration_s, 6),
            started_at=outcome.started_at,
            stderr_tail=outcome.stderr_tail,
            reason=outcome.reason,
            output_path=outcome.output_path,
            output_sha256=outcome.output_sha256,
            output_bytes=outcome.output_bytes,
            number=task.number,
        )
        try:
            self._say(mailbox, "result", wire(result))
        except MessageTooLarge:
            self._say(mailbox, "result", wire(self._on_disk(result)))
        if not self._body.pool:
            self._leaving = True
        if outcome.must_exit:
            mailbox.remove()
            _end_group()

    def _on_disk(self, result: Result) -> Result:
        """The same result with its value in a file: the message around it did not fit."""
        import dataclasses

        output = Output(0, self._body.spill_dir, result.task_id)
        output.write(dump_json(result.result))
        output.close()
        return dataclasses.replace(
            result,
            result=None,
            status="failed" if output.error is not None else result.status,
            reason=output.error or result.reason,
            stderr_tail=result.stderr_tail[-1024:],
            output_path=output.path,
            output_sha256=output.sha256,
            output_bytes=output.size,
        )

    def _say(self, mailbox: Mailbox, type: str, payload: dict[str, object]) -> None:
        patience = Patience(self._bus.settings.send_timeout)
        while True:
            try:
                mailbox.send(
                    self._coordinator, type, payload, priority="high", timeout_s=0.0, run=self._run, term=self._term
                )
                return
            except InboxFull:
                pass  # our coordinator lives: it will read
            except BusFull as refusal:
                patience.bear(refusal)  # what it takes from its inbox makes room
            if _hung_up(self._lifeline):
                self._die(mailbox)
            mailbox.beat()
            time.sleep(_RETRY_S)

    def _die(self, mailbox: Mailbox) -> None:
        """Nobody is there for us any more: leave no mailbox and no process behind."""
        mailbox.remove()
        _end_group()


def _end_group() -> None:
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _hung_up(fd: int) -> bool:
    from cfn.swarm.children import hung_up

    return hung_up(fd)


def wire(result: Result) -> dict[str, object]:
    """A result as the payload of a message."""
    return {**result.to_dict(), "number": result.number}


class _Refused:
    """A task that could not be made into a job: it fails with one clear reason."""

    def __init__(self, reason: str) -> None:
        self._outcome = Outcome(status="failed", reason=reason)

    def start(self) -> None: ...

    def fds(self) -> list[int]:
        return []

    def due_s(self) -> float | None:
        return 0.0

    def step(self) -> Outcome:
        return self._outcome

    def terminate(self, grace_s: float = 0.0) -> None: ...
