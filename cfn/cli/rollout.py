"""``cfn rollout phase1|phase2|phase3``: the three phases, on the site of one's choice."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfn.rollout.steps import Phase, Step


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the steps of a phase in order, hold each to its criteria, and stop at the first that fails (exit code 1).\n\n"
        "Every worker measures one module of the standard library; the answers are checked against a direct computation.\n"
        "phase1: flat, to 100 agents. phase2: hybrid, to 300, and whether teams are isolated. phase3: hybrid, to 708, and\n"
        "a tree of 2000."
    )
    parser.add_argument("phase", choices=("phase1", "phase2", "phase3"))
    parser.add_argument(
        "--site",
        choices=("local", "containers"),
        help="where the agents run; default: containers where an engine answers, else local (and says so)",
    )
    parser.add_argument(
        "--steps", "--only", metavar="LIST", help="run only these steps: numbers or names, separated by commas"
    )
    parser.add_argument(
        "--report-dir", type=Path, metavar="DIR", help="folder for report.json and report.html (reports/PHASE-SITE)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON to stdout")
    parser.add_argument("--dry-run", action="store_true", help="print the steps and run nothing")


def run(args: argparse.Namespace) -> int:
    from cfn.rollout import steps

    phase = steps.phase(args.phase)
    chosen = steps.choose(phase.steps, args.steps)
    if args.dry_run:
        _print_steps(phase, chosen, as_json=args.json)
        return 0
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return _roll_out(phase, chosen, args)
    finally:
        signal.signal(signal.SIGTERM, before)


def _roll_out(phase: Phase, chosen: tuple[Step, ...], args: argparse.Namespace) -> int:
    from cfn.cli.options import settings_of
    from cfn.rollout import record, sites
    from cfn.rollout.phases import run_phase

    site = sites.pick_site(args.site, _say, settings_of(args))
    folder = args.report_dir or Path("reports", f"{phase.name}-{site.name}")
    record.make_folder(folder)
    _say(f"{phase.name}: {phase.title}; site {site.name}")
    with site:
        outcome = run_phase(phase, chosen, site, _say)
    written = record.to_dict(outcome)
    _, page = record.write(written, folder)
    if args.json:
        print(json.dumps(written, ensure_ascii=False))
    _say(outcome.verdict)
    _say(f"report: {page}")
    return int(outcome.exit_code)


def _print_steps(phase: Phase, chosen: tuple[Step, ...], *, as_json: bool) -> None:
    from cfn.rollout.phases import describe

    described: dict[str, Any] = describe(phase, chosen)
    if as_json:
        print(json.dumps(described))
        return
    print(f"{phase.name}: {phase.title}")
    for step in described["steps"]:
        print(
            f"  {step['number']}  {step['step']:<14} {step['shape']}; delivery 100 % "
            f"(reference: {step['delivery_reference']:.0%}), coordination < {step['coordination_s']:g} s"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt
