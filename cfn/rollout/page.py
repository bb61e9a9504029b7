"""``report.html``: one page with everything in it, made of a phase's record (``report.json``) and nothing else.

It opens without a network, runs no script, and follows the reader's light or dark setting. Whatever came from outside is
escaped. The frame and the style sheet are ``page.html`` beside this file. Cost: 5 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

from cfn.rollout.svg import Rows, key

Record = Mapping[str, Any]

#: Lowest delivery that the axis always shows: below the reference's bounds, so that they are in the picture.
_DELIVERY_FROM: Final = 0.85


def render(record: Record) -> str:
    """The page. `record`: what :func:`cfn.rollout.record.to_dict` gives, or a stored ``report.json``."""
    template = Template(files("cfn.rollout").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=escape(f"{record['phase']}: {record['title']}"),
        state="passed" if record["passed"] else "failed",
        sign="✓" if record["passed"] else "✗",
        verdict=escape(record["verdict"]),
        facts=_facts(record),
        delivery=_delivery(record) or _NOTHING,
        coordination=_coordination(record) or _NOTHING,
        timelines="".join(_timelines(record)) or "<p>Flat swarms have no teams.</p>",
        isolation="".join(_isolation(record)),
        criteria=_criteria(record),
    )


_NOTHING: Final = "<p>No step has run.</p>"


def _facts(record: Record) -> str:
    host = record["host"]
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record["started_at"]))
    facts = {
        "site": record["site"],
        "started": when,
        "took": f"{record['wall_s']:.1f} s",
        "steps": f"{len(record['steps'])} of {len(record['asked'])} run: {', '.join(record['asked'])}",
        "host": f"{host['system']} {host['release']}, {host['machine']}, {host['cores']} cores, "
        f"{host['memory_bytes'] / 2**30:.0f} GiB",
        "software": f"cfn {record['cfn']}, Python {host['python']}",
    }
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())


# ---------------------------------------------------------------- steps against their bounds


def _runs(record: Record) -> list[tuple[str, Record]]:
    """Every run with its name; those of an isolation step are told apart: normal and slow in turn."""
    named: list[tuple[str, Record]] = []
    for step in record["steps"]:
        for n, run in enumerate(step["runs"]):
            part = f" {'slow' if n % 2 else 'normal'} {n // 2 + 1}" if len(step["runs"]) > 1 else ""
            named.append((step["step"] + part, run))
    return named


def _delivery(record: Record) -> str:
    runs = _runs(record)
    if not runs:
        return ""
    bound = record["bounds"]["delivery_reference"]
    rates = [run["delivery"] for _, run in runs]
    chart = Rows(len(runs), 100 * min(_DELIVERY_FROM, *rates), 100.0, height=26)
    chart.mark(100 * bound, f"reference ≥ {bound:.0%}")
    for row, ((name, _), rate) in enumerate(zip(runs, rates, strict=True)):
        full = rate >= 1.0
        chart.label(row, name)
        chart.dot(
            row,
            100 * rate,
            "good-dot" if full else "bad-dot",
            f"{name}: {_percent(rate)}",
            shape="circle" if full else "cross",
        )
        chart.value(row, 100 * rate, _percent(rate))
    told = "; ".join(f"{name} {_percent(rate)}" for (name, _), rate in zip(runs, rates, strict=True))
    return chart.render(
        "delivery", "Delivery rate of each run", f"{told}. Reference: at least {bound:.0%}.", "delivered tasks, %"
    )


def _coordination(record: Record) -> str:
    runs = _runs(record)
    bound = record["bounds"]["coordination_s"]
    times = [run["report"]["coordination_s"] or 0.0 for _, run in runs]
    if not runs:
        return ""
    chart = Rows(len(runs), 0.0, max(bound * 1.02, *times))
    chart.mark(bound, f"must be < {bound:g} s")
    for row, ((name, run), total_s) in enumerate(zip(runs, times, strict=True)):
        alive_s = min(run["report"]["spawned_s"] or 0.0, total_s)
        chart.label(row, name)
        if alive_s:
            chart.bar(row, 0.0, alive_s, "spawn", f"{name}: all agents alive after {alive_s:.2f} s")
        chart.bar(row, alive_s, total_s, "work", f"{name}: last result after {total_s:.2f} s")
        chart.value(row, total_s, f"{total_s:.2f} s" + ("" if total_s < bound else " ✗ late"))
    told = "; ".join(f"{name} {total_s:.2f} s" for (name, _), total_s in zip(runs, times, strict=True))
    drawn = chart.render(
        "coordination",
        "Coordination time of each run",
        f"{told}. It must be below {bound:g} s.",
        "seconds after the first fork",
    )
    return drawn + key(
        [("spawn", "until all agents were alive"), ("work", "tasks and results"), ("bound", "the bound")]
    )


# ---------------------------------------------------------------- teams


def _timelines(record: Record) -> Iterator[str]:
    for step in record["steps"]:
        teamed = [(n, run) for n, run in enumerate(step["runs"]) if _timed(run)]
        for n, run in teamed:
            if len(step["runs"]) == 1:
                yield _timeline(step, run, f"{step['step']}: {step['shape']}", f"timeline-{step['step']}", None)
            elif n == 1 and step["isolation"]:
                slow = step["isolation"]["slow_team"]
                yield _timeline(step, run, f"{step['step']}: team {slow} slowed", f"timeline-{step['step']}", slow)


def _timed(run: Record) -> dict[str, Record]:
    teams: Mapping[str, Record] = run["report"]["teams"]
    timed = {name: team for name, team in teams.items() if team["first_at"] is not None and team["last_at"] is not None}
    return timed if len(teams) > 1 else {}


def _timeline(step: Record, run: Record, title: str, name: str, slow: str | None) -> str:
    teams = _timed(run)
    alive_s = run["report"]["spawned_s"]
    chart = Rows(len(teams), 0.0, 1.04 * max(team["last_at"] for team in teams.values()), height=24)
    if alive_s is not None:
        chart.mark(alive_s, f"all alive, {alive_s:.2f} s", "alive")
    told = []
    for row, (team, times) in enumerate(teams.items()):
        words = f"team {team}: {times['tasks']} tasks, {times['first_at']:.2f} s to {times['last_at']:.2f} s"
        told.append(words)
        chart.label(row, f"team {team}" + (" (slowed)" if team == slow else ""))
        chart.bar(row, times["first_at"], times["last_at"], "slow" if team == slow else "work", words)
        chart.value(row, times["last_at"], f"{times['tasks']} tasks")
    drawn = chart.render(name, title, "; ".join(told) + ".", "seconds after the first fork: first task to last result")
    return f"<h3>{escape(title)}</h3>{drawn}"


def _isolation(record: Record) -> Iterator[str]:
    for step in record["steps"]:
        found = step["isolation"]
        if not found:
            continue
        yield (
            f"<h2>Isolation</h2><p>The same tasks on the same teams, {len(step['runs'])} times; in every second run team "
            f"{escape(found['slow_team'])} was slowed {found['factor']:g} times. A team that had to wait for it would move "
            f"to the right, towards it.</p>"
        )
        for kind, what in (
            ("task", "how long a task took"),
            ("finish", "when a task was finished, from the run's first task"),
        ):
            yield _shifts(
                step["step"], found["slow_team"], kind, f"Median {kind} time of each team: {what}", found[kind]
            )
        yield key(
            [
                ("normal", "normal runs"),
                ("beside", "while the team was slow"),
                ("allowed", "allowed, noise included"),
            ]
        )


def _shifts(step: str, slow: str, kind: str, title: str, shifts: Mapping[str, Record]) -> str:
    highest = max(max(*shift["normal"], *shift["beside"]) for shift in shifts.values())
    chart = Rows(len(shifts), 0.0, 1.04 * highest, height=26)
    told = []
    for row, (team, shift) in enumerate(shifts.items()):
        normal_s = shift["normal_s"]
        words = f"team {team}: {_ms(normal_s)} to {_ms(shift['beside_s'])}"
        told.append(words)
        chart.label(row, f"team {team}" + (" (slowed)" if team == slow else ""))
        if team != slow:
            chart.span(row, normal_s, normal_s + shift["allowed_s"], "allowed")
        for run_s in shift["normal"]:
            chart.dot(row, run_s, "normal", f"team {team}, normal: {_ms(run_s)}")
        for run_s in shift["beside"]:
            chart.dot(row, run_s, "beside", f"team {team}, beside the slow team: {_ms(run_s)}", shape="diamond")
        change = f"{shift['shift_s'] * 1000:+.0f} ms"
        chart.value(
            row,
            max(*shift["normal"], *shift["beside"], normal_s + (shift["allowed_s"] if team != slow else 0.0)),
            change,
        )
    drawn = chart.render(f"{kind}-{step}", title, "; ".join(told) + ".", "seconds")
    return f"<h3>{escape(title)}</h3>{drawn}"


# ---------------------------------------------------------------- criteria


def _criteria(record: Record) -> str:
    return "".join(_rows(step["step"], step["criteria"], step["shape"]) for step in record["steps"])


def _rows(step: str, verdicts: Sequence[Record], shape: str) -> str:
    head = f'<tbody><tr class="step"><th colspan="5" scope="rowgroup">{escape(step)} <span>{escape(shape)}</span></th></tr>'
    rows = []
    for verdict in verdicts:
        held = verdict["passed"]
        word = ("✓ holds" if verdict["known"] else "? not visible here") if held else "✗ fails"
        detail = f"<small>{escape(verdict['detail'])}</small>" if verdict["detail"] else ""
        asked = "reference" if verdict["source"] == "reference" else "ours"
        rows.append(
            f'<tr class="{"holds" if held else "fails"}"><th scope="row">{escape(verdict["criterion"])}</th><td>{asked}</td>'
            f"<td>{escape(verdict['wanted'])}</td><td>{escape(verdict['measured'])}{detail}</td><td>{word}</td></tr>"
        )
    return f"{head}{''.join(rows)}</tbody>"


def _percent(rate: float) -> str:
    return f"{int(rate * 100_000 + 1e-6) / 1000:.3f} %"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
