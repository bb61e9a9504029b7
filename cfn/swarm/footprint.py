"""What one agent costs a host: the numbers behind `cfn doctor` and every check of a plan against a machine.

Measured on Linux 6, CPython 3.11, tmpfs, with 700 idle agents in one swarm, then rounded up; the user's command comes on top.
"""

from __future__ import annotations

from typing import Final

#: A forked warm worker: 0.45 MB proportional set size plus 0.1 MB of kernel memory (page tables, task struct), doubled.
MEMORY_BYTES: Final = 1 << 20
#: A mailbox: its folder, six folders in it, agent.json, alive, bell; plus its writer's lock; plus one message on its way.
INODES: Final = 12
#: On tmpfs every file and every folder with entries takes whole pages of 4 KiB: 12 of them, and room for a claimed message of
#: up to three pages.
TMPFS_BYTES: Final = 60 * 1024
#: Processes: the agent and the command that it runs.
PIDS: Final = 2
#: Descriptors that its coordinator holds for it: the recipient's inbox, control and bell, and the pipe that tells its death.
COORDINATOR_DESCRIPTORS: Final = 4
#: Descriptors of a coordinator for itself: its own mailbox (9), the bus, standard streams, imports in flight, the ledger.
OWN_DESCRIPTORS: Final = 64
