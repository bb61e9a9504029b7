"""The work of the rollout's agents: measure one module of the standard library.

Every task names one source file of the interpreter's standard library, relative to its root (``json/decoder.py``); the
agent that gets it resolves the name against *its own* interpreter and answers with line count, byte count, number of
function definitions and SHA-256. :func:`expected` computes the same directly, without a bus, so that a run's answers can be
checked one by one. Both have to come from one interpreter: where agents run elsewhere (containers), ``python -m
cfn.rollout.work`` there prints the module names (``modules``) and the direct computation (``expected``, tasks on stdin).

Cost: 0.2-42 ms of CPU a module, nearly all of it parsing (the median of 633 is 1.3 ms, all of them 1.9 s), and a pause of
`PAUSE_S` in which an agent holds its task without using a core, as an agent that waits for an answer does. ``slow`` stretches
both by sleeping, not by computing: a slowed team must not take the cores from the others, or the kernel's scheduler is
what would be measured.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from cfn.errors import UnfitHost, UsageError
from cfn.swarm.task import Task

#: Part of a normal task's time: long enough to be seen over a clock's and a scheduler's jitter (about 1 ms).
PAUSE_S: Final = 0.01
#: Folders of the root that are no modules of the library, or modules that are not meant to parse.
_NOT_MODULES: Final = frozenset({"__pycache__", "test", "tests", "idle_test"})

Digest = dict[str, Any]


def root() -> str:
    """The folder of this interpreter's standard library."""
    return sysconfig.get_path("stdlib")


@functools.cache
def modules() -> tuple[str, ...]:
    """Source files of the standard library, relative, with ``/``, sorted: no test packages, nothing installed beside it.

    Raises: :class:`~cfn.errors.UnfitHost` where the library has no source files (a zipped one).
    """
    top = root()
    found: list[str] = []
    for folder, names, files in os.walk(top):
        # a folder that is no identifier cannot be a package: site-packages, lib-dynload, config-3.11-x86_64-linux-gnu
        names[:] = [name for name in names if name.isidentifier() and name not in _NOT_MODULES]
        inside = os.path.relpath(folder, top).replace(os.sep, "/")
        for name in files:
            stem, suffix = os.path.splitext(name)
            if suffix == ".py" and stem.isidentifier():
                found.append(name if inside == "." else f"{inside}/{name}")
    if not found:
        raise UnfitHost(f"the standard library in {top} has no source files: run with an interpreter that brings them")
    return tuple(sorted(found))


def tasks(count: int, names: Sequence[str] | None = None, *, pause_s: float = PAUSE_S) -> list[Task]:
    """`count` tasks, one module each, beginning again where there are more tasks than modules (`names`: default, ours)."""
    names = modules() if names is None else names
    width = len(str(count))
    return [
        Task(
            task_id=f"module-{number:0{width}}",
            payload={"module": names[(number - 1) % len(names)], "pause_s": pause_s},
            number=number,
        )
        for number in range(1, count + 1)
    ]


def measure(module: str) -> Digest:
    """Lines, bytes, functions and SHA-256 of one module. Raises: UsageError (not a module of the library), OSError."""
    parts = module.split("/")
    if not module.endswith(".py") or not all(part.removesuffix(".py").isidentifier() for part in parts):
        raise UsageError(
            f"{module!r} is not a module of the standard library: use a relative path such as json/decoder.py"
        )
    with open(os.path.join(root(), *parts), "rb") as file:
        source = file.read()
    return {
        "module": module,
        "lines": len(source.splitlines()),
        "bytes": len(source),
        "functions": sum(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(ast.parse(source))
        ),
        "sha256": hashlib.sha256(source).hexdigest(),
    }


def digest(
    task: Task, *, cpu: Callable[[], float] = time.process_time, sleep: Callable[[float], None] = time.sleep
) -> Digest:
    """What an agent does with its task. Payload: ``module``, optional ``pause_s`` and ``slow`` (a factor >= 1).

    A normal task costs the measuring and lasts `pause_s` beyond it; ``slow`` makes both last that many times longer. Waiting
    for a core is not multiplied: on a busy host that would be chance, and the longest of many such tasks without bound.
    """
    began = cpu()
    answer = measure(str(task.payload["module"]))
    worked_s = cpu() - began
    pause_s = float(task.payload.get("pause_s", PAUSE_S))
    more = max(1.0, float(task.payload.get("slow", 1.0))) - 1.0
    sleep(pause_s + more * (worked_s + pause_s))
    return answer


def expected(tasks: Iterable[Task]) -> dict[str, Digest]:
    """The direct computation, without bus, agents or pauses: task id -> answer."""
    known = functools.cache(measure)
    return {task.task_id: known(str(task.payload["module"])) for task in tasks}


def totals(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The sums of a run's answers by task id, and one SHA-256 over all of them in the order of their ids."""
    seal = hashlib.sha256()
    sums = {"tasks": 0, "lines": 0, "bytes": 0, "functions": 0}
    for task_id in sorted(answers):
        answer = answers[task_id]
        if not isinstance(answer, dict):
            continue
        sums["tasks"] += 1
        for name in ("lines", "bytes", "functions"):
            sums[name] += answer.get(name, 0)
        seal.update(f"{task_id} {answer.get('sha256')}\n".encode())
    return {**sums, "sha256": seal.hexdigest()}


def main(arguments: Sequence[str]) -> int:
    """``python -m cfn.rollout.work modules | expected``: for a site whose agents have another interpreter than ours."""
    if list(arguments) == ["modules"]:
        json.dump(modules(), sys.stdout)
    elif list(arguments) == ["expected"]:
        json.dump(expected(Task(**json.loads(line)) for line in sys.stdin if line.strip()), sys.stdout)
    else:
        print("usage: python -m cfn.rollout.work modules | expected < TASKS (one JSON object a line)", file=sys.stderr)
        return 2
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
