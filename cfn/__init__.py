"""cfn: hundreds to thousands of command-line agents on one host as a team, without a broker.

The public surface; everything else is inside. Names are loaded when they are first touched, so that a one-shot ``cfn send``
does not pay for the swarm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus
    from cfn.bus.memory import MemoryBus
    from cfn.bus.protocol import Bus, Delivery, Draft, Mailbox
    from cfn.message import Message
    from cfn.swarm.run import Run, Swarm
    from cfn.swarm.task import Report, Result, Task

_WHERE = {
    # moving messages
    "Bus": "cfn.bus.protocol",
    "Mailbox": "cfn.bus.protocol",
    "Delivery": "cfn.bus.protocol",
    "Draft": "cfn.bus.protocol",
    "FileBus": "cfn.bus.filebus",
    "MemoryBus": "cfn.bus.memory",
    "Message": "cfn.message",
    # a team of agents
    "Swarm": "cfn.swarm.run",
    "Run": "cfn.swarm.run",
    "Task": "cfn.swarm.task",
    "Result": "cfn.swarm.task",
    "Report": "cfn.swarm.task",
}

__all__ = [
    # moving messages
    "Bus",
    "Delivery",
    "Draft",
    "FileBus",
    "Mailbox",
    "MemoryBus",
    "Message",
    # a team of agents
    "Report",
    "Result",
    "Run",
    "Swarm",
    "Task",
    # about this package
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'cfn' has no attribute {name!r}")
