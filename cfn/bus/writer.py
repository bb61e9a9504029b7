"""A writer: one process on one bus, with the lock that proves it lives.

A writer's id (10 hex digits) numbers its streams and names its claims. Its lock file ``.cfn/w/<id>`` is locked for as long as
the process lives; a free lock on an existing file means: this writer died, its unfinished writes may be discarded and its
claims returned. No file at all means: ephemeral, judged by lease alone. A forked child is a new writer: it closes every
inherited lock first thing (:class:`cfn.bus.files.Lock`), so that a child cannot keep its dead parent alive.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from cfn.bus.capabilities import LockKind
from cfn.bus.files import Lock, lock_held


class Writer:
    """The id and, once something is written or claimed, the lock."""

    __slots__ = ("_dir", "_kind", "_lock", "id")

    def __init__(self, folder: str, kind: LockKind, make_id: Callable[[], str] = lambda: os.urandom(5).hex()) -> None:
        self._dir = folder
        self._kind = kind
        self._lock: Lock | None = None
        self.id = make_id()

    def prove(self) -> str:
        """Take the lock (once) and return the id. The file appears under its name already locked."""
        if self._lock is None and self._kind != "none":
            final = os.path.join(self._dir, self.id)
            new = final if self._kind == "msvcrt" else os.path.join(self._dir, f".new-{self.id}")
            lock = Lock.take(new, self._kind)
            assert lock is not None, "a fresh writer id was locked by another"
            try:
                if new != final:  # Windows cannot rename an open file; there, a sweep may take the newborn for dead
                    os.rename(new, final)
            except BaseException:
                lock.close()
                raise
            self._lock = lock
        return self.id

    def close(self) -> None:
        if self._lock is not None:
            if self._kind == "msvcrt":
                self._lock.close()
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._dir, self.id))
            self._lock.close()
            self._lock = None

    def leave_to_child(self) -> None:
        if self._lock is not None:
            self._lock.leave_to_child()

    def adopt(self) -> None:
        if self._lock is not None:
            self._lock.adopt()

    def hand_over(self) -> None:
        """In the parent, after the fork: drop the descriptor without a word on disk."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def is_dead(folder: str, writer: str, kind: LockKind) -> bool:
    """Whether that writer is proven dead: its file exists and its lock is free."""
    try:
        return lock_held(os.path.join(folder, writer), kind) is False
    except FileNotFoundError:
        return False
