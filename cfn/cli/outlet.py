"""Results on stdout: one JSON object a line, or with ``--plain`` what the agents printed, byte for byte.

Guarantees: a result is written whole and at once (flushed), in completion order, or with `keep_order` in input order: then one
is held back until all before it are out, and what remains at the end of a cut-off run still comes in order. With `tag` every
line starts with the task's id and a tab, stderr's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Final

from cfn.message import dump_json
from cfn.swarm.task import Result, Task

_COPY_BYTES: Final = 1 << 18


class Outlet:
    """See the module. `out` and `err` are binary; `commands`: results are the text of commands (else values of a callable)."""

    def __init__(
        self,
        out: BinaryIO,
        err: BinaryIO,
        tasks: Sequence[Task],
        *,
        plain: bool = False,
        tag: bool = False,
        keep_order: bool = False,
        commands: bool = True,
    ) -> None:
        self._out, self._err = out, err
        self._write: Callable[[Result], None] = self._write_plain if plain else self._write_json
        self._tag, self._commands = tag, commands
        self._order = [task.number for task in tasks] if keep_order else []
        self._place = 0
        self._held: dict[int, Result] = {}
        self._keep_order = keep_order

    def put(self, results: Sequence[Result]) -> None:
        """Raises: BrokenPipeError when the reader has gone."""
        wrote = False
        for result in self._in_order(results):
            self._write(result)
            wrote = True
        if wrote:
            self._out.flush()

    def end(self) -> None:
        """No more results will come: what was held back for a missing one goes out."""
        for number in sorted(self._held):
            self._write(self._held[number])
        self._held.clear()
        self._out.flush()

    def _in_order(self, results: Sequence[Result]) -> Iterator[Result]:
        if not self._keep_order:
            yield from results
            return
        for result in results:
            self._held[result.number] = result
        while self._place < len(self._order) and self._order[self._place] in self._held:
            yield self._held.pop(self._order[self._place])
            self._place += 1

    # ------------------------------------------------------------ one result

    def _write_json(self, result: Result) -> None:
        self._out.write(dump_json(result.to_dict()) + b"\n")

    def _write_plain(self, result: Result) -> None:
        mark = _raw(result.task_id) + b"\t" if self._tag else b""
        for chunk in _tagged(self._said(result), mark):
            self._out.write(chunk)
        if result.stderr_tail:
            self._out.flush()
            for chunk in _tagged([_raw(result.stderr_tail)], mark):
                self._err.write(chunk)
            self._err.flush()

    def _said(self, result: Result) -> Iterator[bytes]:
        if result.output_path is not None:
            with open(result.output_path, "rb") as file:
                while chunk := file.read(_COPY_BYTES):
                    yield chunk
        elif isinstance(result.result, str):
            yield _raw(result.result) + (b"" if self._commands else b"\n")
        elif result.result is not None:
            yield dump_json(result.result) + b"\n"


def _tagged(chunks: Iterator[bytes] | list[bytes], mark: bytes) -> Iterator[bytes]:
    """The same bytes, with `mark` in front of every line; a last line without newline gets one."""
    if not mark:
        yield from chunks
        return
    fresh = True
    for chunk in chunks:
        for line in _lines(chunk):
            yield mark + line if fresh else line
            fresh = line.endswith(b"\n")
    if not fresh:
        yield b"\n"


def _lines(chunk: bytes) -> list[bytes]:
    """Split after newlines only: a carriage return is no end of a line (a progress bar's)."""
    parts = chunk.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _raw(text: str) -> bytes:
    """The bytes that the text was read from (see :meth:`cfn.swarm.capture.Output.value`)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
