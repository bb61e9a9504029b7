"""What can go wrong, told so that a caller can act on it.

Every error answers one question in its class attribute ``retry``:

* ``"safe"``: nothing happened; doing the same again is right once the cause is gone.
* ``"unsafe"``: doing the same again cannot help (or would do harm).
* ``"unknown"``: the outcome could not be learned; look before you try again.

The facts are attributes, never text to parse, and every error survives pickling. ``exit_code`` is what the command line
ends with, out of the one table in :class:`Exit`.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Literal

Retry = Literal["safe", "unsafe", "unknown"]


class Exit(enum.IntEnum):
    """Exit codes of every command, in one table."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    PARTIAL = 4  # the deadline passed (or a part was lost); what was finished was printed
    UNFIT = 5  # this environment cannot carry what was asked
    FULL = 6  # backpressure: an inbox or the file system is full
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


class CfnError(Exception):
    """Root of all errors that cfn raises on purpose. Message first, facts as keywords."""

    retry: ClassVar[Retry] = "unsafe"
    exit_code: ClassVar[Exit] = Exit.ERROR

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts") or {}
        if name in facts:
            return facts[name]
        raise AttributeError(name)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))


def _rebuild(kind: type[CfnError], message: str, facts: dict[str, Any]) -> CfnError:
    return kind(message, **facts)


# ---------------------------------------------------------------- what was asked is wrong


class UsageError(CfnError, ValueError):
    """An argument is not acceptable. Mend the argument; nothing happened."""

    exit_code = Exit.USAGE


class BadAgentId(UsageError):
    """Not an agent id: 1-64 of ``A-Z a-z 0-9 . _ -``, starting with a letter or digit. Fact: ``agent``."""


class BadMessage(UsageError):
    """Not a message: a field is missing, of the wrong type, or the payload is not a JSON object."""


class MessageTooLarge(BadMessage):
    """Above ``CFN_MAX_MESSAGE_BYTES``. Facts: ``size_bytes``, ``limit_bytes``. Send a path instead of the content."""


# ---------------------------------------------------------------- agents


class AgentError(CfnError, LookupError):
    """Something about an agent. Fact: ``agent``."""


class AgentGone(AgentError):
    """No such agent (never registered, or removed). The message was not sent."""

    exit_code = Exit.NOT_FOUND


class AgentExists(AgentError):
    """A living process holds this identity, or an id that differs only by case is taken. Fact: ``holder``."""


class Fenced(AgentError):
    """The caller was replaced or removed: it can no longer send, claim or ack. End; do not retry."""


# ---------------------------------------------------------------- messages in motion


class LeaseLost(CfnError):
    """The lease ended before the ack: someone else may have the message. The work must not be counted."""

    exit_code = Exit.NOT_FOUND


class InboxFull(CfnError, TimeoutError):
    """The recipient's inbox stayed full for the whole timeout; the message was not sent. Facts: ``agent``, ``depth``."""

    retry = "safe"
    exit_code = Exit.FULL


class NoReply(CfnError, TimeoutError):
    """A request was delivered and no reply came in time: the other side may have acted. Facts: ``agent``, ``msg_id``."""

    retry = "unknown"


class BusFull(CfnError, OSError):
    """The file system or a limit of this process refused (ENOSPC, EDQUOT, EMFILE, ENFILE). Nothing was sent. Fact: ``errno``."""

    retry = "safe"
    exit_code = Exit.FULL

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.errno = facts.get("errno")  # OSError's own field of that name would hide the fact


# ---------------------------------------------------------------- places and limits


class UnfitPlace(CfnError, OSError):
    """The bus must not live there (symlink, foreign owner, open to others, not writable). Fact: ``path``."""

    exit_code = Exit.UNFIT


class UnfitHost(CfnError):
    """This host cannot carry the plan (memory, descriptors, pids, no engine). The message says the mend."""

    exit_code = Exit.UNFIT


class FormatError(CfnError):
    """The bus on disk was written by a version that this one cannot read. Facts: ``found``, ``known``."""

    exit_code = Exit.UNFIT


# ---------------------------------------------------------------- runs


class RunError(CfnError):
    """Something about a run. Fact: ``run``."""


class NoSuchRun(RunError):
    """No run of that name lives or is recorded here."""

    exit_code = Exit.NOT_FOUND


class TaskError(UsageError):
    """A task of the input cannot be taken. Facts: ``line`` (1-based), ``source``."""
