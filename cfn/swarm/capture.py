"""What an agent printed: in memory while it is small, on disk when it is not.

Guarantees: nothing is cut off; memory stays within the limit plus one read, whatever is written; an output on disk
has its size and SHA-256, which are computed while it passes. An output file is named after its task and belongs to
the user (0600); a later attempt of the task replaces it.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from cfn.errors import BadAgentId, BadMessage
from cfn.message import check_agent_id, dump_json, load_json
from cfn.swarm.job import TAIL_BYTES

if TYPE_CHECKING:
    from hashlib import _Hash

#: JSON writes one byte of text as at most six ("\u0000"): below a sixth of the limit nothing needs to be measured.
_SWELL: Final = 6
_FOLDS_CASE: Final = sys.platform in ("win32", "darwin")


def output_name(task_id: str) -> str:
    """File name for a task's output. Ids that are no safe name (or would collide by case) get part of their SHA-256."""
    try:
        check_agent_id(task_id)
        if not (_FOLDS_CASE and task_id != task_id.lower()):
            return task_id + ".out"
    except BadAgentId:
        pass
    import hashlib

    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"t-{re.sub('[^A-Za-z0-9_-]', '_', task_id)[:40]}-{digest}.out"


class Output:
    """The standard output of one attempt."""

    def __init__(self, limit_bytes: int, spill_dir: str | os.PathLike[str], task_id: str) -> None:
        self._limit = limit_bytes
        self._folder = spill_dir
        self._task_id = task_id
        self._held = bytearray()
        self._file: int | None = None
        self._hash: _Hash | None = None
        self.size = 0
        self.path: str | None = None
        self.error: str | None = None  # why the output could not be kept

    def write(self, data: bytes) -> None:
        """Take more of it. Never raises: what the disk refuses is dropped, and `error` says so."""
        self.size += len(data)
        if self.path is None and self.error is None:
            self._held += data
            if self.size > self._limit:
                self._spill()
        elif self.error is None:
            self._append(data)

    def value(self, parse: bool) -> Any:
        """The output as a result: parsed when the whole is one JSON value, else text; None when it is on disk.

        `parse` False: the text exactly; bytes that are not UTF-8 become lone surrogates (`surrogateescape`), so that
        the original can be written again.
        """
        if self.path is not None or self.error is not None:
            return None
        raw = bytes(self._held)
        value = _parsed(raw) if parse else raw.decode("utf-8", "surrogateescape")
        if len(raw) * _SWELL > self._limit and len(dump_json(value)) > self._limit:
            self._spill()
            return None
        return value

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def sha256(self) -> str | None:
        """Of an output on disk."""
        return self._hash.hexdigest() if self._hash is not None and self.error is None else None

    def _spill(self) -> None:
        import hashlib

        path = os.path.abspath(os.path.join(self._folder, output_name(self._task_id)))
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            self._refuse(path, error)
            return
        self.path, self._hash = path, hashlib.sha256()
        held, self._held = bytes(self._held), bytearray()
        self._append(held)

    def _append(self, data: bytes) -> None:
        assert self._file is not None and self._hash is not None and self.path is not None
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._refuse(self.path, error)
            return
        self._hash.update(data)

    def _refuse(self, path: str, error: OSError) -> None:
        self.close()
        self._held = bytearray()
        self.path = None
        self.error = f"its output could not be written to {path}: {error.strerror}"


def _parsed(raw: bytes) -> Any:
    try:
        value = load_json(raw)
        dump_json(value)  # 1e999 can be read, and would be an infinity that cannot be said again
        return value
    except BadMessage:
        text = raw.decode("utf-8", "replace")
        return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text


class Tail:
    """The last 4 KiB of a stream, whatever its length."""

    def __init__(self, keep_bytes: int = TAIL_BYTES) -> None:
        self._keep = keep_bytes
        self._held = b""
        self._cut = False

    def write(self, data: bytes) -> None:
        held = self._held + data[-self._keep :]
        self._cut = self._cut or len(self._held) + len(data) > self._keep
        self._held = held[-self._keep :]

    def text(self) -> str:
        """As UTF-8; a character that the cut went through is dropped."""
        raw = self._held
        if self._cut:
            start = 0
            while start < 3 and start < len(raw) and raw[start] & 0xC0 == 0x80:
                start += 1
            raw = raw[start:]
        return raw.decode("utf-8", "replace")

    def last_line(self) -> str:
        """The last line with something in it, shortened to 200 characters."""
        lines = [line.strip() for line in self.text().splitlines()]
        line = next((line for line in reversed(lines) if line), "")
        return line if len(line) <= 200 else line[:197] + "..."
