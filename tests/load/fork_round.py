"""The floor below a swarm: forks of one warm process, all alive at once, one byte each way, all ended.

stdin: ``{"processes": N}``. stdout: seconds after the first fork until all were alive, had answered, were reaped; and the mean
proportional set size of a sample of them while all were alive (weighing them is outside of the times). Children end by
themselves when this process does: the pipe that they read from closes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
from typing import Any, Final

import cfn.swarm.run
import cfn.swarm.worker
from cfn.errors import Exit

#: What a warm coordinator and its workers have in memory, and so the forks that they are compared with.
WARM: Final = (cfn.swarm.run, cfn.swarm.worker)

_SAMPLE: Final = 40  # processes that are weighed


def measure(processes: int) -> dict[str, Any]:
    ready, say_ready = os.pipe()
    wait, go = os.pipe()
    children: list[int] = []
    gc.collect()
    gc.freeze()
    try:
        began = time.perf_counter()
        for _ in range(processes):
            child = os.fork()
            if child == 0:
                _be_one(say_ready, wait, go)
            children.append(child)
        _read_exactly(ready, processes)
        alive_s = time.perf_counter() - began
        memory_bytes = _mean_pss(children[:: max(1, processes // _SAMPLE)])
        resumed = time.perf_counter() - alive_s
        os.write(go, b"x" * processes)
        _read_exactly(ready, processes)
        answered_s = time.perf_counter() - resumed
        _reap(children)
        ended_s = time.perf_counter() - resumed
    finally:
        os.close(go)
        _reap(children)
    return {"alive": alive_s, "results": answered_s, "ended": ended_s, "memory": memory_bytes}


def _be_one(say_ready: int, wait: int, go: int) -> None:
    with contextlib.suppress(BaseException):  # the parent's end, or a signal
        os.close(go)
        os.write(say_ready, b".")
        if os.read(wait, 1):
            os.write(say_ready, b".")
    os._exit(0)


def _read_exactly(fd: int, size: int) -> None:
    while size:
        size -= len(os.read(fd, size))


def _reap(children: list[int]) -> None:
    while children:
        os.waitpid(children.pop(), 0)


def _mean_pss(pids: list[int]) -> float | None:
    import psutil

    sizes = [getattr(psutil.Process(pid).memory_full_info(), "pss", None) for pid in pids]
    known = [size for size in sizes if size is not None]
    return sum(known) / len(known) if known else None


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _terminated)  # so that the forks are reaped before this process goes
    try:
        json.dump(measure(json.load(sys.stdin)["processes"]), sys.stdout)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
