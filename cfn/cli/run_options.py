"""The options of ``cfn run``, and what they come to: tasks, a swarm, and where results go.

Names follow GNU parallel where it has the option (``--jobs``, ``--keep-order``, ``--halt``, ``--joblog``, ``--resume-failed``,
``--tag``, ``--results``, ``--retries``, ``--timeout``, ``--dry-run``, ``-j``, ``-k``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cfn.cli.options import count, settings_of
from cfn.cli.output import note
from cfn.errors import CfnError, Exit, UnfitHost, UsageError

if TYPE_CHECKING:
    from cfn.cli.joblog import JobLog
    from cfn.cli.outlet import Outlet
    from cfn.settings import Settings
    from cfn.swarm.run import Swarm
    from cfn.swarm.task import Report, Task


_MOST_SKIPPED: Final = 10  # lines that are named one by one


class CommandNotFound(CfnError):
    """The command that every agent would run is not there."""

    exit_code = Exit.NOT_FOUND


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "cfn run [options] [--tasks FILE | --each GLOB] (-- COMMAND [ARG ...] | --call MODULE:FUNCTION)"
    add = parser.add_argument_group("tasks").add_argument
    add("--tasks", "-a", metavar="FILE", help="JSON lines; `-` is stdin, which is also read when it is no terminal")
    add(
        "--each", metavar="GLOB", action="append", help="one task a file that matches ({} is its path); may be repeated"
    )
    add("--skip-bad", action="store_true", help="go on without lines that are no tasks (each is named)")

    add = parser.add_argument_group("what runs").add_argument
    add("--call", metavar="MODULE:FUNCTION", help="a Python callable of one Task instead of a command")
    add("--shell", action="store_true", help="give the command to `sh -c` as one line; values are quoted")
    add(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable for commands; may be repeated",
    )
    add("--cwd", metavar="DIR", help="folder in which commands run (default: this one)")

    add = parser.add_argument_group("shape").add_argument
    add(
        "--topology",
        metavar="SHAPE",
        help="flat, hybrid, tree or auto (default: CFN_TOPOLOGY, hybrid; extended = tree)",
    )
    add(
        "--agents", "--jobs", "-j", type=count, metavar="N",
        help="workers (default: the smallest of the number of tasks, 8 a core, what the host carries, CFN_MAX_AGENTS)",
    )  # fmt: skip
    add("--coordinators", type=count, metavar="N", help="teams (default: CFN_COORDINATORS, 7, raised when needed)")
    add(
        "--workers-per-coordinator",
        type=count,
        metavar="N",
        help="most workers of a team (CFN_WORKERS_PER_COORDINATOR)",
    )
    add(
        "--teams",
        type=names,
        metavar="A,B,...",
        help="the teams by name (default: those that tasks name, else a, b, ...)",
    )
    add("--depth", type=count, metavar="N", help="levels of a tree's coordinators, the master's included (default: 3)")
    add("--batch", type=count, metavar="N", help="agents that a coordinator starts at a time (default: CFN_BATCH, 50)")
    add("--pool", action="store_true", help="warm workers that take many tasks each, instead of one agent a task")

    add = parser.add_argument_group("limits").add_argument
    add("--deadline", type=positive, metavar="S", help="end with partial results after that long (default: printed)")
    add("--timeout", type=positive, metavar="S", help="of one task; then SIGTERM, a second later SIGKILL")
    add("--retries", type=natural, default=0, metavar="N", help="run a task that failed up to N times again")
    add("--halt", type=halt, metavar="WHEN", help="never; now,fail=N or soon,fail=N: stop at the N-th failure (N: 1)")
    add("--rate", type=positive, metavar="N", help="start at most N tasks a second")

    add = parser.add_argument_group("results").add_argument
    add("--keep-order", "-k", action="store_true", help="in the order of the tasks")
    add("--plain", action="store_true", help="print what the agents printed instead of JSON lines")
    add("--tag", action="store_true", help="with --plain: the task's id and a tab in front of every line")
    add("--results", metavar="DIR", help="keep stdout and stderr of every task in DIR/<task id>/")
    add("--joblog", metavar="FILE", help="a line a finished task, in GNU parallel's columns")
    add("--resume-failed", action="store_true", help="only tasks that failed in or are missing from --joblog")
    add("--report", metavar="FILE", help="the run in numbers, as JSON")

    add = parser.add_argument_group("this command").add_argument
    add("--dry-run", action="store_true", help="print the plan and the first commands, start nothing")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a bar on a terminal (default); lines elsewhere; or none",
    )
    add("--quiet", "-q", action="store_true", help="no progress, no summary")
    add("--run-id", metavar="ID", help="name of the run, 1-12 characters (default: made up)")
    add("--join", action="store_true", help="coordinators of the first level join from outside (`cfn coordinate`)")


# ---------------------------------------------------------------- types


def positive(text: str) -> float:
    """A number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < 1e9:
            return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")


def natural(text: str) -> int:
    """A number of times."""
    if text.isascii() and text.isdigit() and len(text) <= 6:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number >= 0")


def names(text: str) -> list[str]:
    """Names separated by commas or spaces."""
    return text.replace(",", " ").split()


def halt(text: str) -> tuple[str, int] | None:
    """When to stop, in GNU parallel's words: ``never``, ``now``, ``soon``, ``now,fail=N``, ``soon,fail=N``."""
    when, _, rest = text.partition(",")
    if when == "never" and not rest:
        return None
    number = rest.removeprefix("fail=") if rest else "1"
    fits = when in ("now", "soon") and (not rest or rest.startswith("fail="))
    if not fits or not number.isascii() or not number.isdigit() or len(number) > 9 or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} does not fit: use never, now,fail=N or soon,fail=N")
    return when, int(number)


# ---------------------------------------------------------------- what they come to


@dataclass(frozen=True, slots=True)
class Order:
    """A command line that was read and checked, with its tasks."""

    args: argparse.Namespace
    settings: Settings
    tasks: list[Task]
    skipped: int  # lines that were no tasks
    done_before: int  # tasks that a resume leaves out
    env: dict[str, str]
    cwd: str | None

    def swarm(self) -> Swarm:
        """Raises: UsageError, UnfitHost."""
        from cfn.swarm.run import Swarm

        args = self.args
        if args.agents is not None and not args.join:
            _check_room(args.agents, self.settings)
        swarm = Swarm(
            command=None if args.call else args.command,
            function=args.call,
            shell=args.shell,
            topology=self.settings.topology,
            agents=args.agents,
            coordinators=args.coordinators,
            workers_per_coordinator=args.workers_per_coordinator,
            teams=args.teams,
            depth=args.depth,
            pool=args.pool,
            batch=args.batch,
            timeout_s=args.timeout,
            retries=args.retries,
            halt=args.halt,
            rate=args.rate,
            deadline_s=args.deadline,
            env=self.env,
            cwd=self.cwd,
            results_dir=None if args.results is None else os.path.abspath(args.results),
            plain=args.plain,
            settings=self.settings,
            run_id=args.run_id,
            join=args.join,
        )
        if not args.join:
            plan = swarm.plan(self.tasks)
            if args.agents is None:
                _check_room(1, self.settings)
            _check_descriptors(max(node.workers + len(node.children) for node in plan.root.walk()))
        return swarm

    def command_line(self, task: Task) -> str:
        """What runs for that task, as one line. Raises: TaskError."""
        if self.args.call:
            import shlex

            return f"{self.args.call} {shlex.quote(task.task_id)}"
        from cfn.swarm.template import command_line

        return command_line(self.args.command, task, shell=self.args.shell)

    def joblog(self) -> contextlib.AbstractContextManager[JobLog | None]:
        """Raises: UsageError."""
        if self.args.joblog is None:
            return contextlib.nullcontext()
        from cfn.cli.joblog import JobLog
        from cfn.swarm.agent import task_json

        return JobLog(
            self.args.joblog,
            self.tasks,
            self.command_line,
            lambda task: len(task_json(task)),
            append=self.args.resume_failed,
        )

    def outlet(self) -> Outlet:
        from cfn.cli.outlet import Outlet

        return Outlet(
            sys.stdout.buffer,
            sys.stderr.buffer,
            self.tasks,
            plain=self.args.plain,
            tag=self.args.tag,
            keep_order=self.args.keep_order,
            commands=not self.args.call,
        )

    def make_results(self) -> None:
        """The folder of --results, now: it would fail every task later. Raises: UsageError."""
        if self.args.results is None:
            return
        try:
            os.makedirs(self.args.results, exist_ok=True)
            if not os.access(self.args.results, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise UsageError(
                f"--results {self.args.results!r} cannot be written: {error.strerror}; name another folder"
            ) from None

    def write_report(self, report: Report) -> None:
        """Whole or not at all. Raises: OSError."""
        import json

        path = Path(self.args.report)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        part.replace(path)


def read(args: argparse.Namespace) -> Order:
    """Check the options against each other, and read the tasks. Raises: UsageError, TaskError, CommandNotFound."""
    _check(args)
    settings = settings_of(args, topology=args.topology)
    env = _environment(args.env)
    if not args.call and not args.join:
        _check_command(args.command, env, args.cwd, args.shell)
    if args.call and not args.join:
        from cfn.swarm.agent import find_function

        find_function(args.call)
    tasks, skipped = _tasks(args, settings)
    order = Order(args, settings, tasks, skipped, 0, env, None if args.cwd is None else os.path.abspath(args.cwd))
    if args.resume_failed:
        import dataclasses

        from cfn.cli.joblog import to_do

        left = to_do(tasks, args.joblog, order.command_line)
        order = dataclasses.replace(order, tasks=left, done_before=len(tasks) - len(left))
    return order


def _check(args: argparse.Namespace) -> None:
    if args.call and args.command:
        raise UsageError(f"--call {args.call} and the command {args.command[0]!r} both say what runs: give one of them")
    if not args.call and not args.command:
        raise UsageError("no command: write it after `--`, as in `cfn run --each '*.txt' -- wc -l {}`, or give --call")
    if args.call and args.shell:
        raise UsageError("--shell does not fit --call: a Python callable has no shell")
    if args.tasks is not None and args.each:
        raise UsageError(f"--tasks {args.tasks} and --each {args.each[0]!r} both name the tasks: give one of them")
    if args.tag and not args.plain:
        raise UsageError("--tag needs --plain: a JSON line says its task_id anyway")
    if args.resume_failed and args.joblog is None:
        raise UsageError("--resume-failed needs --joblog FILE: it tells which tasks failed")
    if args.run_id is not None:
        _check_run_id(args.run_id)
    _check_paths(args)


def _check_run_id(run_id: str) -> None:
    from cfn.message import check_agent_id
    from cfn.swarm.topology import RUN_ID_LENGTH

    check_agent_id(run_id)
    if len(run_id) > RUN_ID_LENGTH:
        raise UsageError(f"--run-id {run_id!r} has {len(run_id)} characters: use 1 to {RUN_ID_LENGTH}")


def _check_paths(args: argparse.Namespace) -> None:
    if args.cwd is not None and not args.join and not os.path.isdir(args.cwd):
        raise UsageError(f"--cwd {args.cwd!r} is not a folder")
    for option, path in (("--report", args.report), ("--joblog", args.joblog)):
        if path == "-":
            raise UsageError(f"{option} - is no file: name one (stdout has the results; --json reports on stderr)")
        if path is not None and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise UsageError(f"{option} {path!r}: the folder does not exist; make it first")
    if args.results is not None and os.path.exists(args.results) and not os.path.isdir(args.results):
        raise UsageError(f"--results {args.results!r} is not a folder: name one, or one that does not exist yet")


def _environment(given: list[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not name or "\0" in entry:
            raise UsageError(f"--env {entry!r} does not fit: use NAME or NAME=VALUE")
        if not equals:
            if name not in os.environ:
                raise UsageError(f"--env {name}: it is not set here; set it, or give --env {name}=VALUE")
            value = os.environ[name]
        out[name] = value
    return out


def _check_command(command: list[str], env: dict[str, str], cwd: str | None, shell: bool) -> None:
    """One clear line now instead of the same one from every agent. A name with a placeholder is known only then."""
    program = command[0]
    if shell or "{" in program:
        return
    if os.sep in program:
        path: str | None = os.path.join(cwd or "", program)
    else:
        path = shutil.which(program, path=env.get("PATH", os.environ.get("PATH")))
    if path is None or not os.path.exists(path):
        where = "does not exist" if os.sep in program else "is not on PATH"
        raise CommandNotFound(f"command not found: {program!r} {where}; a line for a shell needs --shell")
    if os.name == "posix" and (os.path.isdir(path) or not os.access(path, os.X_OK)):
        raise UsageError(f"{program!r} is not executable: use chmod +x, or name its interpreter first")


def _tasks(args: argparse.Namespace, settings: Settings) -> tuple[list[Task], int]:
    from cfn.swarm import intake

    if args.each:
        return intake.from_glob(args.each).tasks, 0
    source = args.tasks
    if source is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("no tasks: give --tasks FILE or --each GLOB, or pipe JSON lines in")
        source = "-"
    took = intake.from_file(source, skip_bad=args.skip_bad, limit_bytes=settings.max_message_bytes)
    for error in took.skipped[:_MOST_SKIPPED]:
        note(f"skipped {error}")
    if len(took.skipped) > _MOST_SKIPPED:
        note(f"skipped {len(took.skipped) - _MOST_SKIPPED} more lines")
    return took.tasks, len(took.skipped)


def _check_descriptors(below: int) -> None:
    """Raises: UnfitHost when a coordinator with so many agents below it would run out of open files."""
    from cfn.cli import host
    from cfn.swarm import footprint

    limits = host.open_files()
    need = footprint.OWN_DESCRIPTORS + footprint.COORDINATOR_DESCRIPTORS * below
    if limits is not None and limits[0] < need:
        raise UnfitHost(
            f"a coordinator of {below} agents needs {need} open files, the limit is {limits[0]}: ulimit -n {need}"
            + ("" if limits[1] >= need else f" (the hard limit is {limits[1]}: raise that first)")
            + ", or lower --workers-per-coordinator" * (below > 1),
            need=need,
            limit=limits[0],
        )


def _check_room(agents: int, settings: Settings) -> None:
    """Raises: UnfitHost when the host has no room for so many agents."""
    from cfn.bus import place
    from cfn.cli import host
    from cfn.swarm import capacity, footprint

    limits: dict[str, int] = {"memory and processes together": capacity.capacity()}
    root = place.find(settings)
    room: Any = host.room(root)
    if room is not None:
        limits[f"the file system of {root}"] = room.free_bytes // footprint.TMPFS_BYTES
        if room.inodes is not None:
            limits[f"the inodes of {root}"] = room.inodes // footprint.INODES
    what, most = min(limits.items(), key=lambda item: item[1])
    if agents > most:
        raise UnfitHost(
            f"--agents {agents} is more than this host carries: the limit is now {most}, by {what}; "
            f"lower it, or see `cfn doctor --agents {agents}`"
            if most
            else f"this host has no room for an agent, by {what}: `cfn doctor` shows what is short and what mends it",
            agents=agents,
            capacity=most,
        )
