"""What an agent printed: in memory while it is small, on disk when it is not.

Guarantees: nothing is cut off; memory stays within the limit plus one read, whatever is written; an output on disk
has its size and SHA-256, which are computed while it passes. An output file is named after its task and belongs to
the user (0600); a later attempt of the task replaces it.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final

from cfn.errors import BadAgentId, BadMessage
from cfn.message import check_agent_id, dump_json, load_json
from cfn.swarm.job import TAIL_BYTES

#: JSON writes one byte of text as at most six ("\u0000"): below a sixth of the limit nothing needs to be measured.
_SWELL: Final = 6
_NAME_LENGTH: Final = 200  # a file name has 255 bytes nearly everywhere
_FOLDS_CASE: Final = sys.platform in ("win32", "darwin")


def file_name(task_id: str) -> str:
    """A name for a task's files that is legal everywhere and never leaves its folder: the id, percent-encoded (RFC 3986).

    Ids that are too long, name a Windows device, or could collide where case is folded, get part of their SHA-256.
    """
    from urllib.parse import quote

    name = quote(task_id, safe="~", errors="surrogatepass")
    name = "%2E" + name[1:] if name.startswith(".") else name
    if name and len(name) <= _NAME_LENGTH and not (_FOLDS_CASE and name != name.lower()):
        try:
            check_agent_id("x" if "%" in name or "~" in name else name[:64])
            return name
        except BadAgentId:
            pass
    import hashlib

    digest = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"t-{re.sub('[^A-Za-z0-9_-]', '_', task_id)[:40]}-{digest}"


class Kept:
    """A file that takes what comes, with its size and SHA-256. Nothing raises: what the disk refuses is said in `error`."""

    def __init__(self, path: str) -> None:
        import hashlib

        self.path = os.path.abspath(path)
        self.error: str | None = None
        self._hash = hashlib.sha256()
        self._fd: int | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            self._refuse(error)

    def write(self, data: bytes) -> None:
        if self._fd is None:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._refuse(error)
            return
        self._hash.update(data)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _refuse(self, error: OSError) -> None:
        self.close()
        self.error = f"its output could not be written to {self.path}: {error.strerror}"


class Output:
    """The standard output of one attempt: in memory up to the limit, beyond it as a whole on disk.

    `keep`: a file that gets all of it in any case (``--results``), and then serves as the file on disk too.
    """

    def __init__(
        self, limit_bytes: int, spill_dir: str | os.PathLike[str], task_id: str, keep: str | None = None
    ) -> None:
        self._limit = limit_bytes
        self._spill = os.path.join(spill_dir, file_name(task_id) + ".out")
        self._held = bytearray()
        self._kept = Kept(keep) if keep is not None else None
        self._large = False
        self.size = 0

    def write(self, data: bytes) -> None:
        """Take more of it. Never raises: what the disk refuses is dropped, and `error` says so."""
        self.size += len(data)
        if self._kept is not None:
            self._kept.write(data)
        if not self._large:
            self._held += data
            if self.size > self._limit:
                self._to_disk()

    def value(self, parse: bool) -> Any:
        """The output as a result: parsed when the whole is one JSON value, else text; None when it is on disk.

        `parse` False: the text exactly; bytes that are not UTF-8 become lone surrogates (`surrogateescape`), so that
        the original can be written again.
        """
        if self._large:
            return None
        raw = bytes(self._held)
        value = _parsed(raw) if parse else raw.decode("utf-8", "surrogateescape")
        if len(raw) * _SWELL > self._limit and len(dump_json(value)) > self._limit:
            self._to_disk()
            return None
        return value

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    @property
    def path(self) -> str | None:
        """Of an output on disk."""
        return self._kept.path if self._kept is not None and self._large and self._kept.error is None else None

    @property
    def sha256(self) -> str | None:
        """Of an output on disk."""
        return self._kept.sha256 if self._kept is not None and self.path is not None else None

    @property
    def error(self) -> str | None:
        """Why the output could not be kept on disk."""
        return self._kept.error if self._kept is not None else None

    def _to_disk(self) -> None:
        self._large = True
        if self._kept is None:
            self._kept = Kept(self._spill)
            self._kept.write(bytes(self._held))
        self._held = bytearray()


def _parsed(raw: bytes) -> Any:
    try:
        value = load_json(raw)
        dump_json(value)  # 1e999 can be read, and would be an infinity that cannot be said again
        return value
    except BadMessage:
        text = raw.decode("utf-8", "replace")
        return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text


class Tail:
    """The last 4 KiB of a stream, whatever its length; `keep`: a file that gets all of it."""

    def __init__(self, keep_bytes: int = TAIL_BYTES, keep: str | None = None) -> None:
        self._keep = keep_bytes
        self._kept = Kept(keep) if keep is not None else None
        self._held = b""
        self._cut = False

    def write(self, data: bytes) -> None:
        if self._kept is not None:
            self._kept.write(data)
        held = self._held + data[-self._keep :]
        self._cut = self._cut or len(self._held) + len(data) > self._keep
        self._held = held[-self._keep :]

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

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
