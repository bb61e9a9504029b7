"""Where a bus lives, and whether that place is fit.

Order: ``CFN_MESSAGE_BASE_DIR``; else a private folder on tmpfs (``/dev/shm/cfn-<uid>``); else platformdirs' user runtime
folder. The root must be a real directory that belongs to this user, mode 0700, without an access control list; otherwise cfn
refuses to use it (exit 5) and says the mend.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

from cfn.errors import UnfitPlace
from cfn.settings import Settings

SHM: Final = "/dev/shm"
_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")


def find(settings: Settings) -> str:
    """The root's path; nothing is made yet."""
    given: str | None = settings.message_base_dir
    if given:
        return os.path.abspath(given)
    if "shm" not in settings.without and _usable_shm():
        return f"{SHM}/cfn-{os.geteuid()}"
    import platformdirs

    return os.path.join(platformdirs.user_runtime_dir("cfn", appauthor=False), "bus")


def _usable_shm() -> bool:
    return sys.platform == "linux" and os.path.isdir(SHM) and os.access(SHM, os.W_OK | os.X_OK)


def make(root: str) -> None:
    """Create the root (and its parents) privately if it is missing, then :func:`check` it."""
    try:
        os.makedirs(os.path.dirname(root), mode=0o700, exist_ok=True)
        os.mkdir(root, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UnfitPlace(
            f"cannot make the bus folder {root}: {error.strerror}; set CFN_MESSAGE_BASE_DIR to a folder of yours",
            path=root,
        ) from None
    check(root)


def check(root: str) -> None:
    """Raise :class:`~cfn.errors.UnfitPlace` unless the root is private to this user (promise 8)."""
    try:
        found = os.lstat(root)
    except NotADirectoryError:
        raise UnfitPlace(
            f"no bus can be at {root}: something above it is not a folder; set CFN_MESSAGE_BASE_DIR to a folder of yours",
            path=root,
        ) from None
    except OSError as error:
        raise UnfitPlace(f"no bus at {root}: {error.strerror}; `cfn bus init` makes one", path=root) from None
    if stat.S_ISLNK(found.st_mode):
        raise UnfitPlace(
            f"the bus folder {root} is a symlink; set CFN_MESSAGE_BASE_DIR to the folder itself", path=root
        )
    if not stat.S_ISDIR(found.st_mode):
        raise UnfitPlace(f"the bus folder {root} is not a folder; move it away or set CFN_MESSAGE_BASE_DIR", path=root)
    if sys.platform == "win32":
        return  # the user's profile is private by its own access control
    if found.st_uid != os.geteuid():
        raise UnfitPlace(
            f"the bus folder {root} belongs to user {found.st_uid}, not to you ({os.geteuid()}); "
            "set CFN_MESSAGE_BASE_DIR to a folder of yours",
            path=root,
        )
    if found.st_mode & 0o077:
        raise UnfitPlace(
            f"the bus folder {root} is open to others (mode {found.st_mode & 0o777:04o}); run: chmod 700 {root}",
            path=root,
        )
    if hasattr(os, "listxattr"):
        try:
            names = os.listxattr(root, follow_symlinks=False)
        except OSError:
            names = []  # this file system keeps none
        if any(acl in names for acl in _ACLS):
            raise UnfitPlace(
                f"the bus folder {root} carries an access control list; run: setfacl -b -k {root}", path=root
            )
    if not os.access(root, os.W_OK | os.X_OK):
        raise UnfitPlace(f"the bus folder {root} is not writable (read-only file system?)", path=root)


def filesystem(path: str) -> str:
    """The type of the file system that `path` lies on (``tmpfs``, ``ext4`` …); ``unknown`` where the system does not say."""
    best, kind = "", "unknown"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                left, _, right = line.partition(" - ")
                point = left.split(" ")[4].encode().decode("unicode_escape")
                real = os.path.realpath(path)
                if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                    best, kind = point, right.split(" ")[0]
    except OSError:
        pass
    return kind
