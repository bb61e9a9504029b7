"""What one agent costs a host: the numbers behind `cfn doctor` and every check of a plan against a machine.

Planning numbers: what was measured (Linux 6, CPython 3.11, tmpfs, 200 agents, each a process with one claimed message) plus
room for what a running swarm adds. The commands that agents run come on top and are not known here.
"""

from __future__ import annotations

from typing import Final

#: A forked warm worker has 0.45 MB proportional set size and 0.1 MB of kernel memory; the rest is what it touches while it works.
MEMORY_BYTES: Final = 1 << 20
#: 13 measured: the mailbox's folder, six folders in it and tmp/<incarnation>, agent.json, alive, bell, the writer's lock, one
#: message; and three more messages on their way.
INODES: Final = 16
#: 8 KiB measured: agent.json and one message, a page each (folders and empty files take none); and 13 messages more.
TMPFS_BYTES: Final = 60 * 1024
#: Processes: the agent and the command that it runs.
PIDS: Final = 2
#: Descriptors that its coordinator holds for it: the mailbox's inbox, control and bell, and what tells its death.
COORDINATOR_DESCRIPTORS: Final = 4
#: Descriptors of a coordinator for itself: its own mailbox (12), the bus, standard streams, the ledger, imports in flight.
OWN_DESCRIPTORS: Final = 64
