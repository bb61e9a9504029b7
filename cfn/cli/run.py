"""Run a command once per task, in hundreds of agent processes, and stream the results.

  cfn run --topology hybrid --agents 300 --tasks tasks.jsonl -- wc -l {path}
  cfn run --each 'src/**/*.py' --plain --tag -- wc -l {}

A task is a line of JSON (--tasks, or standard input) or a file (--each). The command gets it as JSON on stdin and in
CFN_TASK, and its values in place of {} (the task), {#} (its number) and {key}; other braces stay as they are, and no shell
is involved unless --shell asks for one. What it prints, JSON or text, is the result; a non-zero exit is a failed task.

Results are JSON lines on stdout, in the order of completion. Progress and a summary go to stderr (with --json the summary
is the report as one JSON line). Exit code: 0 all ok, 1 some failed, 4 partial (deadline, a halt, a lost part), 130
interrupted or cancelled; a reader that leaves (| head) ends the run and is no error. No tasks: nothing is started, exit code 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cfn.cli.output import emit, note, say
from cfn.cli.run_options import Order, configure, read

if TYPE_CHECKING:
    from cfn.cli.joblog import JobLog
    from cfn.cli.outlet import Outlet
    from cfn.cli.progress import Meter
    from cfn.cli.stopping import Stopping
    from cfn.swarm.run import Run, Swarm
    from cfn.swarm.task import Report, Result

__all__ = ["TAKES_COMMAND", "configure", "run"]

TAKES_COMMAND: Final = True
#: How often the loop looks at signals and at a reader that left while no results come.
_LOOK_S: Final = 0.1
_FIRST_COMMANDS: Final = 10


def run(args: argparse.Namespace) -> int:
    """Raises: UsageError, TaskError, UnfitHost, and what starting a swarm raises; nothing was started then."""
    order = read(args)
    if not order.tasks:
        return _nothing_to_do(order)
    swarm = order.swarm()
    if args.dry_run:
        return _dry_run(order, swarm)
    from cfn.cli.stopping import Stopping

    order.make_results()
    with order.joblog() as log, Stopping() as stopping, swarm.run(order.tasks) as going:
        if not args.quiet and not args.json:
            note(_announcement(order, going))
        report = _follow(order, going, stopping, log)
    if args.report:
        order.write_report(report)
    if stopping.reader_gone:
        return 0
    _summarize(order, report)
    return report.exit_code


# ---------------------------------------------------------------- while it runs


def _follow(order: Order, going: Run, stopping: Stopping, log: JobLog | None) -> Report:
    """Take results as they come until the run has ended; its report."""
    from cfn.cli.progress import meter

    outlet = order.outlet()
    show = meter(False if order.args.quiet else order.args.progress, len(order.tasks))
    aside = order.args.plain or sys.stdout.isatty()  # both write to the bar's terminal
    told = False
    try:
        while True:
            results = going.poll(_LOOK_S)
            report = going.report
            if log is not None:
                log.write(results)
            _put(outlet, show if aside else None, results, stopping, end=report is not None)
            show.show(going.progress)
            if report is not None:
                return report
            if stopping.wanted and not told:
                told = True
                going.cancel()
    finally:
        show.close()


def _put(outlet: Outlet, show: Meter | None, results: Sequence[Result], stopping: Stopping, *, end: bool) -> None:
    if stopping.look_at_reader():
        return
    try:
        if results or end:
            if show is not None:
                show.step_aside()
            outlet.put(results)
        if end:
            outlet.end()
    except BrokenPipeError:
        stopping.reader_left()


def _announcement(order: Order, going: Run) -> str:
    from cfn.cli.summary import many, plain

    plan = going.plan
    args = order.args
    fewer = ""
    if args.coordinators is not None and plan.coordinators < args.coordinators:
        fewer = f" ({args.coordinators} asked for: there is one for every agent)"
    computed = "" if args.deadline else " (--deadline sets it)"
    before = f" ({order.done_before} are done in {args.joblog})" if order.done_before else ""
    return (
        f"run {going.run_id}: {many(len(order.tasks), 'task')}{before}, {plan.topology}: {many(plan.agents, 'agent')}, "
        f"{many(plan.coordinators, 'coordinator')}{fewer}, deadline {plain(going.deadline_s)} s{computed}"
    )


# ---------------------------------------------------------------- without a run


def _nothing_to_do(order: Order) -> int:
    """No tasks: that is no error (an empty directory, a resume of a finished run), and nothing is started."""
    from cfn.swarm.task import Report

    args = order.args
    if args.each:
        why = f"no file matches {', '.join(repr(pattern) for pattern in args.each)}"
    elif order.done_before:
        why = f"all {order.done_before} tasks are done in {args.joblog}"
    else:
        why = f"{args.tasks or 'stdin'} has no tasks" + (f", {order.skipped} lines were skipped" * bool(order.skipped))
    report = Report(run=args.run_id or "-", topology=order.settings.topology, agents=0, coordinators=0, planned=0)
    report.delivery_rate = 1.0
    if args.report and not args.dry_run:
        order.write_report(report)
    if args.json:
        _emit_summary(report)
    elif not args.quiet:
        note(f"0 tasks: {why}; nothing was started")
    return report.exit_code


def _dry_run(order: Order, swarm: Swarm) -> int:
    plan = swarm.plan(order.tasks)
    first = [{"task_id": task.task_id, "command": order.command_line(task)} for task in order.tasks[:_FIRST_COMMANDS]]
    if order.args.json:
        teams = [{"team": node.team, "coordinator": node.name, "agents": node.agents} for node in plan.root.children]
        emit({
            "topology": plan.topology,
            "agents": plan.agents,
            "coordinators": plan.coordinators,
            "planned": plan.planned,
            "depth": plan.depth,
            "teams": teams,
            "tasks": len(order.tasks),
            "commands": first,
        })  # fmt: skip
        return 0
    from cfn.cli.summary import many

    say(
        f"{plan.topology}: {many(plan.agents, 'agent')}, {many(plan.coordinators, 'coordinator')}, 1 master: "
        f"{many(plan.planned, 'process', 'processes')} in {many(plan.depth, 'level')}"
    )
    for node in plan.root.children:
        below = f" below {many(len(node.children), 'coordinator')}" if node.children else ""
        say(f"team {node.team}: {node.name} with {many(node.agents, 'agent')}{below}")
    say(f"{many(len(order.tasks), 'task')}, the first commands:")
    for entry in first:
        say(f"  {entry['command']}")
    if len(order.tasks) > len(first):
        say(f"  ... and {len(order.tasks) - len(first)} more")
    return 0


# ---------------------------------------------------------------- afterwards


def _summarize(order: Order, report: Report) -> None:
    if order.args.json:
        _emit_summary(report)
    elif not order.args.quiet:
        from cfn.cli.summary import lines

        for line in lines(report):
            note(line)


def _emit_summary(report: Any) -> None:
    """The report as one JSON line, on stderr: stdout is for results."""
    from cfn.message import dump_json

    sys.stdout.flush()
    sys.stderr.write(dump_json(report.to_dict()).decode() + "\n")
