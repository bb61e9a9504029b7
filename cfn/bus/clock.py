"""Bus time: one clock for all processes of a bus, in µs.

CLOCK_MONOTONIC of the host plus an offset fixed when the bus was made (so that it reads like Unix time): it never jumps with
the wall clock. A time namespace shifts CLOCK_MONOTONIC; the shift is read from /proc/self/timens_offsets
(time_namespaces(7)) and taken out again. Another boot id than the bus's means that every lease is over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Clock = Callable[[], int]


def monotonic_us() -> int:
    """The host's monotonic clock in µs, whatever time namespace this process lives in."""
    return time.monotonic_ns() // 1000 - _namespace_shift_us()


def bus_clock(offset_us: int) -> Clock:
    """The clock of a bus with this offset. 0.1 µs a call."""
    shift_ns = (offset_us - _namespace_shift_us()) * 1000
    monotonic_ns = time.monotonic_ns

    def now() -> int:
        return (monotonic_ns() + shift_ns) // 1000

    return now


def new_offset_us() -> int:
    return time.time_ns() // 1000 - monotonic_us()


def boot_id() -> str:
    """What tells one boot from the next; empty where the system does not say."""
    if sys.platform == "linux":
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""
    if sys.platform == "darwin":
        import subprocess

        out = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False
        )
        return out.stdout.strip()
    return ""


def _namespace_shift_us() -> int:
    try:
        with open("/proc/self/timens_offsets", encoding="ascii") as file:
            for line in file:
                kind, seconds, nanoseconds = line.split()
                if kind in ("monotonic", "1"):
                    return int(seconds) * 1_000_000 + int(nanoseconds) // 1000
    except (OSError, ValueError):
        pass
    return 0
