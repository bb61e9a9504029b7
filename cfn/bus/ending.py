"""The end of a mailbox: taken out of sight, then emptied until the kernel lets its folders go.

Steps: rename ``<agent>`` to ``.cfn/gone/<agent>~<hex>`` (from now on no new sender finds it); for each folder: remove it; where
it is not empty, set the closed flag (senders that hold it open refuse), move what is there to ``.cfn/dead/<agent>/`` with the
reason, and try again until rmdir succeeds (from now on a rename into it fails, in the kernel). A crash in between leaves a
folder in ``.cfn/gone`` that the next sweep finishes: every step may be repeated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING

from cfn.bus import names
from cfn.bus.files import CLOSED
from cfn.bus.transitions import FOLDERS

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_TRIES = 1000  # at a folder into which somebody keeps writing: each try may find one more file


def end_mailbox(bus: FileBus, agent: str, reason: str) -> bool:
    """Remove the mailbox of `agent`; what was in it is in the dead letters. False when there was none."""
    gone = os.path.join(bus.gone_dir, f"{agent}~{os.urandom(5).hex()}")
    try:
        os.rename(bus.agent_path(agent), gone)
    except FileNotFoundError:
        return False
    finish(bus, gone, agent, reason)
    return True


def finish_all(bus: FileBus) -> None:
    """Complete what a crash interrupted."""
    for entry in os.listdir(bus.gone_dir):
        agent = entry.partition(names.SEP)[0]
        with contextlib.suppress(FileNotFoundError):  # another one finishes it
            finish(bus, os.path.join(bus.gone_dir, entry), agent, "agent-gone")


def finish(bus: FileBus, gone: str, agent: str, reason: str) -> None:
    for folder in FOLDERS:
        path = os.path.join(gone, folder)
        if folder == "tmp":
            for epoch in _names(path):
                discard(os.path.join(path, epoch))
            discard(path)
        else:
            _empty(bus, path, folder, agent, reason)
    for name in _names(gone):
        path = os.path.join(gone, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)  # not ours, and in the way
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(gone)


def discard(path: str) -> None:
    """Remove a folder below tmp/: unfinished writes, whose sends never returned.

    The closed flag comes first: a sender whose file vanishes must not take that for a rename that got through.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)  # a stray: neither followed nor opened
            return
        os.chmod(path, stat.S_IRWXU | CLOSED)
    except FileNotFoundError:
        return
    for _ in range(_TRIES):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass  # it, or a file in it that moved on
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
        if not os.path.lexists(path):
            return


def _names(path: str) -> list[str]:
    """What is in a folder that another one may be removing too."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _empty(bus: FileBus, path: str, folder: str, agent: str, reason: str) -> None:
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
        with contextlib.suppress(FileNotFoundError):
            os.chmod(path, stat.S_IRWXU | CLOSED)
        graves = os.path.join(bus.dead_dir, agent)
        os.makedirs(graves, mode=0o700, exist_ok=True)
        for text in _names(path):
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(path, text), os.path.join(graves, _grave(bus, folder, text, reason)))


def _grave(bus: FileBus, folder: str, text: str, reason: str) -> str:
    if folder == "dead":
        return text
    name = names.parse_in(folder, text)
    return names.malformed(text, bus.now()) if name is None else names.dead(name, reason)
