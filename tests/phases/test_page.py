"""The page: well formed, self-contained, told to those who do not see it, and nothing in it is trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from staged_site import StagedSite, report_with

from cfn.rollout import record, steps
from cfn.rollout.page import render
from cfn.rollout.phases import run_phase
from cfn.rollout.sites import StepPlan
from cfn.rollout.svg import Rows, ticks
from cfn.swarm.task import Report, Result

HOST = {
    "system": "Linux",
    "release": "6.1",
    "machine": "x86_64",
    "python": "3.11.2",
    "cores": 2,
    "memory_bytes": 8 << 30,
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


def page(name: str, site: StagedSite | None = None) -> str:
    phase = steps.phase(name)
    outcome = run_phase(phase, phase.steps, site or StagedSite(), lambda line: None)
    stored: dict[str, Any] = json.loads(json.dumps(record.to_dict(outcome, HOST)))
    return render(stored)


class Reader(HTMLParser):
    """Checks that tags nest, and collects what is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.children: list[tuple[str, str]] = []  # parent, child
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.children.append((self.open[-1] if self.open else "", tag))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("name", ["phase1", "phase2", "phase3"])
def test_the_page_is_well_formed_and_asks_no_network_for_anything(name: str) -> None:
    text = page(name)
    reader = read(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}
    assert not any(
        name in ("src", "href", "xlink:href") or name.startswith("on") for _, attrs in reader.tags for name in attrs
    )


@pytest.mark.parametrize("name", ["phase1", "phase2", "phase3"])
def test_every_picture_has_a_title_and_a_description_and_ids_are_unique(name: str) -> None:
    reader = read(page(name))
    pictures = [attrs for tag, attrs in reader.tags if tag == "svg" and attrs.get("role") == "img"]
    hidden = [attrs for tag, attrs in reader.tags if tag == "svg" and attrs.get("aria-hidden") == "true"]
    assert len(pictures) >= 2
    assert len(pictures) + len(hidden) == sum(tag == "svg" for tag, _ in reader.tags)
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        for named in str(picture["aria-labelledby"]).split():
            assert named in ids
    assert reader.children.count(("svg", "title")) == len(pictures) + len(hidden)
    assert reader.children.count(("svg", "desc")) == len(pictures)


def test_each_hybrid_step_has_a_timeline_and_the_isolation_step_marks_its_slow_team() -> None:
    text = page("phase2")
    for name in ("hybrid-150", "hybrid-250", "hybrid-300", "isolation-250"):
        assert f'id="timeline-{name}-title"' in text
    assert "team c (slowed)" in text
    assert 'id="finish-isolation-250-title"' in text


def test_a_failed_criterion_is_told_in_words() -> None:
    text = page("phase1", StagedSite(report_with(peak_living=7)))
    assert "✗ fails" in text
    assert "phase1 failed at step flat-10" in text
    assert "<td>10</td><td>7</td><td>✗ fails</td>" in text


def test_lost_tasks_are_drawn_as_a_cross_and_named() -> None:
    def lossy(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        return results[:-1], report

    text = page("phase1", StagedSite(lossy))
    assert 'class="bad-dot"' in text
    assert "88.888 %" in text
    assert "missing module-9" in text


def test_what_came_from_outside_is_escaped() -> None:
    def evil(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        return results, replace(report, coordinators_lost=["<script>alert(1)</script>", '"><b>'])

    text = page("phase1", StagedSite(evil))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    read(text)


def test_a_phase_whose_first_step_crashed_still_has_a_page() -> None:
    def crash(plan: StepPlan, results: list[Result], report: Report) -> tuple[list[Result], Report]:
        from cfn.errors import RunError

        raise RunError("no")

    assert "No step has run" in read(page("phase1", StagedSite(crash))).text.__str__()


@pytest.mark.parametrize(("low", "high"), [(0, 12.24), (85, 100), (0, 0.003), (0, 2.1), (99.9, 100)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_marks_stay_inside_the_picture_whatever_they_are_given() -> None:
    chart = Rows(1, 0.0, 1.0)
    assert chart.x(-5) == chart.x(0)
    assert chart.x(7) == chart.x(1)
    chart.mark(1.0, "a long text that would leave the picture on its right side")
    assert 'text-anchor="middle"' in chart.render("n", "t", "d", "axis")
