"""A bus without room, borne for a while: what others take out of their inboxes makes room for what we have to say.

Guarantee: nothing is dropped. After the limit (``CFN_SEND_TIMEOUT``) the refusal goes on to the caller, as at a full inbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cfn.bus.protocol import Mailbox
from cfn.errors import BusFull

_RETRY_S: Final = 0.01


class Patience:
    """For a loop that has other things to do meanwhile: `bear` each refusal, say when it is `over`."""

    __slots__ = ("_limit_s", "_since")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None

    def bear(self, refusal: BusFull) -> None:
        """Raises: `refusal`, when the first one since the last success is older than the limit."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since >= self._limit_s:
            raise refusal

    def over(self) -> None:
        self._since = None


def patiently(mailbox: Mailbox, limit_s: float, send: Callable[[], object]) -> None:
    """For a word that must be said now: try until there is room. Raises: what `send` raises, BusFull after the limit."""
    patience = Patience(limit_s)
    while True:
        try:
            send()
            return
        except BusFull as refusal:
            patience.bear(refusal)
        mailbox.beat()
        time.sleep(_RETRY_S)
