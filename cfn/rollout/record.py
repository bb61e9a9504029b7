"""A phase's outcome as plain data (``report.json``) and as the two files of a report folder.

The JSON is what everything else is made of: the page (``cfn/rollout/page.py``) reads nothing but this object, so a page can be
made again from a stored ``report.json``. Field names carry their units; times are seconds, `*_at` Unix seconds unless
they stand in a swarm's own report, where they count from its first fork.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cfn import __version__
from cfn.errors import UnfitPlace
from cfn.rollout.phases import Outcome
from cfn.rollout.trial import Judged, Trial, Verdict
from cfn.rollout.work import totals

FORMAT: Final = 1
#: A list that a person reads in a report, not a log: the swarm's own report keeps the first 1000.
_MOST_LISTED: Final = 100


def to_dict(outcome: Outcome, host: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole outcome, JSON-able."""
    failed = outcome.failed
    return {
        "format": FORMAT,
        "cfn": __version__,
        "phase": outcome.phase.name,
        "title": outcome.phase.title,
        "site": outcome.site,
        "passed": outcome.passed,
        "verdict": outcome.verdict,
        "failed": None if failed is None else {"step": failed[0].name, **_verdict(failed[1])},
        "interrupted": outcome.interrupted,
        "started_at": round(outcome.started_at, 3),
        "wall_s": round(outcome.wall_s, 3),
        "host": dict(host if host is not None else describe_host()),
        "bounds": {
            "delivery_reference": outcome.phase.delivery,
            "delivery": 1.0,
            "coordination_s": outcome.phase.coordination_s,
        },
        "asked": [step.name for step in outcome.asked],
        "steps": [_step(judged) for judged in outcome.judged],
    }


def describe_host() -> dict[str, Any]:
    """What a reader must know to weigh the figures."""
    import psutil

    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def make_folder(folder: Path) -> None:
    """Make the report folder, before anything runs. Raises: :class:`~cfn.errors.UnfitPlace`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unfit(folder, error) from None
    if not os.access(folder, os.W_OK):
        raise UnfitPlace(f"cannot write a report into {folder}: choose another --report-dir", path=str(folder))


def write(record: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """``report.json`` and ``report.html``, each replaced whole. Raises: :class:`~cfn.errors.UnfitPlace`."""
    from cfn.rollout.page import render

    files = {
        folder / "report.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
        folder / "report.html": render(record),
    }
    try:
        for path, text in files.items():
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            fresh.write_text(text, "utf-8")
            fresh.replace(path)
    except OSError as error:
        raise _unfit(folder, error) from None
    as_json, as_page = files
    return as_json, as_page


def _unfit(folder: Path, error: OSError) -> UnfitPlace:
    return UnfitPlace(
        f"cannot write a report into {folder}: {error.strerror or error}; choose another --report-dir", path=str(folder)
    )


def _step(judged: Judged) -> dict[str, Any]:
    step = judged.step
    return {
        "step": step.name,
        "topology": step.topology,
        "agents": step.total,
        "shape": step.describe(),
        "passed": judged.passed,
        "wall_s": round(judged.wall_s, 3),
        "criteria": [_verdict(verdict) for verdict in judged.verdicts],
        "isolation": None if judged.isolation is None else judged.isolation.to_dict(),
        "runs": [_trial(trial) for trial in judged.trials],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)


def _trial(trial: Trial) -> dict[str, Any]:
    report = trial.report.to_dict()
    for name in ("failures", "missing"):
        report[name] = report[name][:_MOST_LISTED]
    return {
        "delivery": len(trial.answers) / len(trial.tasks) if trial.tasks else 0.0,
        "expected": totals(trial.expected),
        "measured": totals(trial.answers),
        "wrong": _listed(trial.wrong),
        "orphans": _listed(trial.orphans),
        "available_bytes": trial.available_bytes,
        "open_files": trial.open_files,
        "report": report,
    }


def _listed(names: Sequence[str]) -> list[str]:
    return list(names[:_MOST_LISTED])
