"""A coordinator that joins a run from outside: another container, another shell, the same bus.

Steps: register as ``<run>.coord-<team>``, tell the master `up`, wait for `assign` (this coordinator's part of the plan and what
agents do), then lead as any other coordinator. No lifeline leads here: each side asks the other's `alive` lock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from cfn.bus.protocol import Mailbox
from cfn.errors import AgentGone, NoSuchRun, UsageError
from cfn.message import Message
from cfn.swarm.body import Body
from cfn.swarm.coordinator import Coordinator
from cfn.swarm.runs import RunFolder
from cfn.swarm.topology import Node

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

#: Room for the `ready` and the result of every worker of the largest team: known only after the assignment.
_ROOM: Final = 1 << 16


def join(bus: FileBus, run: str, team: str, *, wait_s: float, fork: bool) -> None:
    """Lead team `team` of `run` to its end. Raises: NoSuchRun when no master is there within `wait_s`, AgentExists."""
    name = f"coord-{team}"
    master = f"{run}.master"
    mailbox = bus.register(f"{run}.{name}", role="coordinator", team=team, run=run, parent=master, max_inbox=_ROOM)
    try:
        assigned = _assignment(bus, mailbox, master, run, wait_s)
        node = Node.from_dict(assigned.payload["node"])
        outputs = RunFolder(bus.settings, run).outputs
        outputs.mkdir(mode=0o700, parents=True, exist_ok=True)
        body = Body.from_dict(assigned.payload["body"]).replace(spill_dir=str(outputs))
        if node.name != name:
            raise UsageError(f"the master assigned {node.name!r} to {name!r}: two coordinators joined as one team?")
        leader = Coordinator(bus, node, run, master, body.warm(), None, fork=fork, mailbox=mailbox)
    except BaseException:
        mailbox.remove()
        raise
    leader.lead()


def _assignment(bus: FileBus, mailbox: Mailbox, master: str, run: str, wait_s: float) -> Message:
    end = time.monotonic() + wait_s
    said = False
    while time.monotonic() < end:
        if not said:
            try:
                mailbox.send(master, "up", {}, priority="control", run=run)
                said = True
            except AgentGone:
                pass  # the master is not there yet
        for delivery in mailbox.receive(0.1, 1, control_only=True):
            if delivery.message.type == "assign" and delivery.message.sender == master:
                delivery.ack()
                return delivery.message
            delivery.release()
        if said and not bus.is_alive(master):
            break
    raise NoSuchRun(
        f"the master of run {run!r} did not answer within {wait_s:g} s; is it on this bus ({bus.root})?", run=run
    )
