"""Results and reports cross a process boundary as JSON and come back as they were."""

from __future__ import annotations

import json

import pytest

from cfn.errors import UsageError
from cfn.swarm.task import Report, Result, TeamReport


def test_a_result_line_becomes_the_result_that_it_was() -> None:
    result = Result(
        task_id="t1", status="failed", result={"n": 1}, exit_code=3, attempt=2, agent="a1", team="a", duration_s=0.5,
        started_at=1.5, stderr_tail="no", reason="exit 3", output_path="/x", output_sha256="00", output_bytes=9,
    )  # fmt: skip
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_report_comes_back_with_its_teams_as_records() -> None:
    report = Report(run="r1", topology="hybrid", agents=4, coordinators=2, planned=7, counts={"ok": 4}, tasks=4)
    report.teams["a"] = TeamReport(team="a", coordinator="r1.coord-a", agents=2, tasks=2, ok=2, median_s=0.1)
    report.failures.append({"task_id": "t9", "status": "lost", "reason": "gone"})
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_what_a_newer_version_added_is_left_out() -> None:
    assert Result.from_dict({"task_id": "t1", "status": "ok", "mood": "fine"}) == Result(task_id="t1", status="ok")


@pytest.mark.parametrize(
    ("kind", "data", "named"),
    [
        (Result, {"status": "ok"}, "'task_id'"),
        (Result, {"task_id": "t1"}, "'status'"),
        (Result, {"task_id": "t1", "status": "fine"}, "'fine'"),
        (TeamReport, {"team": "a"}, "'coordinator'"),
        (Report, {"run": "r1"}, "'topology'"),
    ],
)
def test_what_is_missing_or_wrong_is_named(kind: type[Result], data: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        kind.from_dict(data)
