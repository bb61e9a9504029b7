"""An agent that joined from outside: one process that is an agent on the bus for the time of one task.

Steps: register (attended), drain the inbox, run the command; meanwhile heartbeat, renew what was drained, listen to the control
lane; answer, ack, leave. An answer goes out before its ack: when this process dies in between, the message comes again, and a
sender may see two answers with one `reply_to`, never none. When the process is killed, its lock frees the claims at once.

Control messages: `cancel` ends the command (its `task_id`, if it names one, must be ours), `shutdown` lets it finish and then
leaves for good after telling the coordinator, `health` is answered. They are never part of the task.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from cfn.errors import AgentExists, AgentGone, BusFull, CfnError, InboxFull, LeaseLost, MessageTooLarge

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus
    from cfn.bus.protocol import AgentInfo, Delivery, Mailbox
    from cfn.message import Message
    from cfn.swarm.agent import Outcome

#: Types of messages that wait for an answer, as in the reference.
ASKS: Final = frozenset(("request", "task", "work"))
#: Room that a result leaves for the rest of its message: identity, and 4 KiB of stderr, which JSON may write six times as long.
_ENVELOPE_BYTES: Final = 32 * 1024
#: How often the control lane is looked at: a cancel is obeyed within that time.
_LISTEN_S: Final = 0.2


class Cancelled(BaseException):
    """Raised out of the wait for the command, which then ends it. BaseException: no handler of errors may swallow it."""


class Bridge:
    """The agent, for one task. Use `present` around `work`."""

    def __init__(self, bus: FileBus, agent: str, task_id: str, identity: Mapping[str, str | None]) -> None:
        self._bus = bus
        self._agent = agent
        self._task_id = task_id
        self._before = _known(bus, agent)
        self._identity = _merged(identity, self._before)
        self._leaving = False  # a shutdown was received
        self._deliveries: list[Delivery] = []
        self._renew_at = 0.0
        self._listen_at = 0.0
        self.mailbox: Mailbox
        self.troubles: list[str] = []  # for stderr
        self.unanswered = 0  # askers whose inbox stayed full: their messages went back

    @contextlib.contextmanager
    def present(self, *, stay: bool) -> Iterator[None]:
        """Be registered while the body runs; afterwards stay as an ephemeral agent, or leave."""
        self.mailbox = self._bus.register(self._agent, attended=True, **self._identity)
        try:
            yield
        finally:
            self._give_back()
            if self._leaving:
                self._tell_coordinator()
                self.mailbox.remove()
            elif stay or self._before is not None or self._bus.count(self._agent):
                self.mailbox.close()
                with contextlib.suppress(AgentExists):  # another process is this agent already
                    self._bus.register(self._agent, attended=False, **self._identity)
            else:
                self.mailbox.remove()

    def work(
        self, task: str, command: list[str], *, cwd: str | None, timeout_s: float | None, spill_dir: str
    ) -> dict[str, Any]:
        """Drain, run, answer, ack; the result as it is printed. An interrupt gives everything back and raises."""
        from cfn.swarm.agent import Outcome

        began_at = time.time()
        try:
            self._drain()
            outcome = self._run(task, command, cwd, timeout_s, spill_dir)
        except Cancelled as cancel:
            duration_s = time.time() - began_at
            outcome = Outcome(status="cancelled", reason=str(cancel), started_at=began_at, duration_s=duration_s)
        result = self._result(outcome)
        messages = sum(len(delivery.messages) for delivery in self._deliveries)
        return {**result, "messages": messages, "replies": self._answer(result)}

    # ------------------------------------------------------------ before and while it runs

    def _drain(self) -> None:
        """Claim what waits now, at most a full inbox: who sends faster than we read must not keep us from the task."""
        limit = self._bus.settings.max_inbox
        while len(self._deliveries) < limit and (found := self.mailbox.receive(0.0, 64)):
            for delivery in found:
                if delivery.message.priority == "control":
                    self._obey(delivery)
                else:
                    self._deliveries.append(delivery)

    def _run(self, task: str, command: list[str], cwd: str | None, timeout_s: float | None, spill_dir: str) -> Outcome:
        from cfn.swarm.agent import environment, run_command, task_json
        from cfn.swarm.task import Task

        messages = [message.to_dict() for delivery in self._deliveries for message in delivery.messages]
        work = Task(task_id=self._task_id, payload={"task": task, "messages": messages})
        limit = self._bus.settings.max_message_bytes
        return run_command(
            command,
            task_json(work),
            environment(work, self._agent, self._identity["parent"], self._bus.root, None, os.environ, self._attempt),
            cwd,
            timeout_s,
            max(limit - _ENVELOPE_BYTES, limit // 2),
            spill_dir,
            task_id=self._task_id,
            idle=self._live,
            idle_s=_LISTEN_S,
        )

    def _live(self) -> None:
        """Called while the command runs: heartbeat, leases, control lane."""
        now = time.monotonic()
        if now < self._listen_at:
            return
        self._listen_at = now + _LISTEN_S
        self.mailbox.beat()
        if now >= self._renew_at:
            self._renew_at = now + self._bus.settings.lease / 3
            self._deliveries = [delivery for delivery in self._deliveries if self._renewed(delivery)]
        while self._control_waits():
            for delivery in self.mailbox.receive(0.0, 1):
                self._obey(delivery) if delivery.message.priority == "control" else delivery.release()

    def _renewed(self, delivery: Delivery) -> bool:
        try:
            delivery.renew()
        except LeaseLost:
            self.troubles.append(
                f"a message of {delivery.message.sender} was lost to another receiver while the command ran"
            )
            return False
        return True

    def _control_waits(self) -> bool:
        """The control lane is what a peek sees first."""
        head = self._bus.peek(self._agent, "inbox", 1)
        return bool(head) and head[0].priority == "control"

    def _obey(self, delivery: Delivery) -> None:
        message = delivery.message
        if message.type == "health":
            with contextlib.suppress(AgentGone, InboxFull):
                inbox = self._bus.count(self._agent)
                self.mailbox.reply(message, {"status": "healthy", "inbox_count": inbox}, timeout_s=0.0)
        elif message.type == "shutdown":
            self._leaving = True
        delivery.ack()
        if message.type == "cancel" and message.payload.get("task_id") in (None, self._task_id):
            raise Cancelled(f"cancelled by {message.sender}")

    # ------------------------------------------------------------ afterwards

    @property
    def _attempt(self) -> int:
        return max((delivery.attempt for delivery in self._deliveries), default=1)

    def _result(self, outcome: Outcome) -> dict[str, Any]:
        from cfn.swarm.task import Result

        return Result(
            task_id=self._task_id,
            status=outcome.status,
            result=outcome.result,
            exit_code=outcome.exit_code,
            attempt=self._attempt,
            agent=self._agent,
            team=self._identity["team"],
            duration_s=round(outcome.duration_s, 6),
            started_at=outcome.started_at,
            stderr_tail=outcome.stderr_tail,
            reason=outcome.reason,
            output_path=outcome.output_path,
            output_sha256=outcome.output_sha256,
            output_bytes=outcome.output_bytes,
        ).to_dict()

    def _answer(self, result: dict[str, Any]) -> int:
        """Answer and ack delivery by delivery; returns how many answers went out. What could not be answered goes back."""
        replies = 0
        for delivery in self._deliveries:
            try:
                for message in delivery.messages:
                    replies += self._reply(message, result)
                delivery.ack()
            except LeaseLost:
                self.troubles.append(
                    f"the lease of a message of {delivery.message.sender} ended before its ack: it comes again"
                )
            except (InboxFull, BusFull) as error:
                self.unanswered += 1
                self.troubles.append(f"not answered, given back: {error}")
                with contextlib.suppress(LeaseLost):
                    delivery.release()
        self._deliveries = []
        return replies

    def _reply(self, message: Message, result: dict[str, Any]) -> bool:
        if message.type not in ASKS:
            return False
        try:
            try:
                self.mailbox.reply(message, result)
            except MessageTooLarge:  # a small limit: say what became of it, without the output
                short = {name: result[name] for name in ("task_id", "status", "exit_code", "agent", "attempt")}
                self.mailbox.reply(
                    message, {**short, "result": None, "reason": "the result is above the message limit"}
                )
        except AgentGone:
            self.troubles.append(f"{message.sender} is gone: its {message.type} was done and not answered")
            return False
        return True

    def _give_back(self) -> None:
        for delivery in self._deliveries:
            with contextlib.suppress(LeaseLost):
                delivery.release()
        self._deliveries = []

    def _tell_coordinator(self) -> None:
        parent = self._identity["parent"]
        if parent is None:
            return
        try:
            self.mailbox.send(parent, "shutdown", {"reason": "graceful"}, priority="control", timeout_s=1.0)
        except CfnError as error:
            self.troubles.append(f"its coordinator {parent} was not told: {error}")


def joined(bus: FileBus, agent: str, task: str, task_id: str, identity: Mapping[str, str | None]) -> dict[str, Any]:
    """Without a command: be registered and hand over what waits, claimed, with receipts that outlive this process."""
    before = _known(bus, agent)
    if before is not None and not before.attended:
        mailbox = bus.open(agent)
    else:
        mailbox = bus.register(agent, attended=False, **_merged(identity, before))
    found: list[Delivery] = []
    try:
        while len(found) < bus.settings.max_inbox and (more := mailbox.receive(0.0, 64)):
            found += more
    finally:
        mailbox.detach()
    messages = [
        {"receipt": delivery.receipt, "attempt": delivery.attempt, "message": message.to_dict()}
        for delivery in found
        for message in delivery.messages
    ]
    return {"task_id": task_id, "task": task, "agent": agent, "messages": messages}


def _known(bus: FileBus, agent: str) -> AgentInfo | None:
    try:
        return bus.agent(agent)
    except AgentGone:
        return None


def _merged(identity: Mapping[str, str | None], before: AgentInfo | None) -> dict[str, Any]:
    """What the command line says of the agent; where it is silent, what its earlier registration said."""
    out: dict[str, Any] = {
        name: value or (getattr(before, name) if before else None) for name, value in identity.items()
    }
    if before is not None:
        kept = {
            "run": before.run,
            "shared": before.shared,
            "max_inbox": before.max_inbox,
            "capabilities": before.capabilities,
        }
        out.update(kept)
    return out
