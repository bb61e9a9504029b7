"""The master: the coordinator at the root. It owns the tasks, the ledger and the policy of a run.

Policy: order (priority, then input), teams, rate, halt, deadline. The ledger takes the first result of an id and counts the
others. When the last result is in, or the deadline passes, or the run is cancelled or halted, it says so once to everybody,
waits for the house to empty, and writes the report: what was delivered, and what is missing and why.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cfn.message import Message, dump_json
from cfn.swarm.body import Body
from cfn.swarm.branches import Branch
from cfn.swarm.census import living_agents, memory_bytes
from cfn.swarm.coordinator import Coordinator
from cfn.swarm.crew import Work
from cfn.swarm.runs import RunFolder
from cfn.swarm.task import Report, Task, TeamReport
from cfn.swarm.topology import Plan

if TYPE_CHECKING:
    from cfn.bus.filebus import FileBus

_RANK: Final = {"high": 0, "normal": 1, "low": 2}
_MOST_LISTED: Final = 1000  # failures and missing ids that a report spells out


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a run may do. `halt`: (now or soon, number of failures)."""

    deadline_s: float
    rate: float | None = None  # tasks a second
    halt: tuple[str, int] | None = None
    join: bool = False
    measure: bool = True  # memory at the barrier


class Master(Coordinator):
    """See the module. `began`: time.monotonic() just before the first fork; `wake_fd`: a byte for whoever reads the ledger."""

    role = "master"

    def __init__(
        self, bus: FileBus, plan: Plan, run: str, body: Body, policy: Policy, tasks: list[Task], folder: RunFolder, *,
        began: float, lifeline: int | None, wake_fd: int | None, fork: bool,
    ) -> None:  # fmt: skip
        super().__init__(bus, plan.root, run, None, body, lifeline, fork=fork, join=policy.join)
        self.plan = plan
        self.policy = policy
        self.folder = folder
        self._began = began
        self._wall_offset = time.time() - time.monotonic()
        self._wake_fd = wake_fd
        self._tasks = {task.task_id: task for task in tasks}
        self._queues: dict[str | None, list[tuple[int, int, Task]]] = {}
        teams = set(plan.teams)
        for task in tasks:
            key = task.team if task.team in teams else None
            self._queues.setdefault(key, []).append((_RANK[task.priority], task.number, task))
        for queue in self._queues.values():
            heapq.heapify(queue)
        self._given: dict[str, str] = {}  # task id -> where it went
        self._results: dict[
            str, tuple[str, float, str | None, float]
        ] = {}  # id -> status, duration, team, seconds of its entry
        self._first_start: dict[str | None, float] = {}
        self._failures: list[dict[str, Any]] = []
        self._bad = 0
        self._why_ended = "finished"
        self._done = False
        self._allowance = 0.0
        self._filled_at = time.monotonic()
        self._ledger = os.open(
            folder.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600
        )
        self.report_ = Report(
            run=run,
            topology=plan.topology,
            agents=plan.agents,
            coordinators=plan.coordinators,
            planned=plan.planned,
            tasks=len(tasks),
            deadline_s=policy.deadline_s,
        )

    # ------------------------------------------------------------ start

    def on_all_up(self) -> None:
        if self.policy.join:
            for branch in self.branches.living:
                self.branches.say(branch, "assign", {"node": branch.node.to_dict(), "body": self.body.to_dict()})
        super().on_all_up()

    def on_ready(self) -> None:
        """Everybody below is ready: count the living, then let the barrier fall."""
        report = self.report_
        report.spawned_s = round(time.monotonic() - self._began, 6)
        living = living_agents(self.bus, self.run)
        report.peak_living = len(living)
        counted = self.census()
        report.mesh_pings, report.mesh_answered = counted["mesh_pings"], counted["mesh_answered"]
        if self.policy.measure:
            report.peak_memory_bytes = memory_bytes(self.bus, living)
        self._write(
            [{"event": "alive", "living": report.peak_living, "planned": report.planned, "spawned_s": report.spawned_s}]
        )
        self.open()

    # ------------------------------------------------------------ tasks

    def distribute(self) -> None:
        if not self.opened or self._done:
            return
        self._check_end()
        free = self._allowed()
        if self.node.workers:
            self._to_crew(free)
        else:
            self._to_branches(free)

    def _to_crew(self, free: int) -> None:
        room = min(free, self.crew.workers - self.crew.outstanding) if self.crew.workers else free
        if room > 0:
            works = [Work(task) for task in self._pick(None, room)]
            for made in works:
                self._given[made.task.task_id] = self.agent
            self._allowance -= len(works)
            self.crew.take(works)

    def _to_branches(self, free: int) -> None:
        for prefetch in (False, True):  # first one task a worker everywhere, only then some in advance
            branches = self.branches.living
            rooms = {
                b.agent: min(self.branches.room(b), b.workers - len(b.works)) if not prefetch else self.branches.room(b)
                for b in branches
            }
            for branch in branches:
                free -= self._hand(branch, branch.node.team, min(free, rooms[branch.agent]), rooms)
            total = sum(max(0, room) for room in rooms.values())
            waiting = min(free, len(self._queues.get(None, ())))
            for branch in branches:
                room = rooms[branch.agent]
                if room > 0 and waiting > 0:
                    share = min(room, -(-waiting * room // total))
                    total -= room
                    given = self._hand(branch, None, share, rooms)
                    waiting -= given
                    free -= given

    def _hand(self, branch: Branch, queue: str | None, count: int, rooms: dict[str, int]) -> int:
        """Give up to `count` tasks of a queue to a branch; how many went."""
        if count <= 0 or not self._queues.get(queue):
            return 0
        works = [Work(task) for task in self._pick(queue, count)]
        refused = self.branches.give(branch, works)
        for made in refused:
            self._put_back(queue, made.task)
        sent = works[: len(works) - len(refused)]
        for made in sent:
            self._given[made.task.task_id] = branch.agent
        rooms[branch.agent] -= len(sent)
        self._allowance -= len(sent)
        return len(sent)

    def _pick(self, key: str | None, count: int) -> list[Task]:
        queue = self._queues.get(key, [])
        return [heapq.heappop(queue)[2] for _ in range(min(count, len(queue)))]

    def _put_back(self, key: str | None, task: Task) -> None:
        heapq.heappush(self._queues.setdefault(key, []), (_RANK[task.priority], task.number, task))

    def _allowed(self) -> int:
        """How many tasks may start now under --rate: a token bucket that holds a tenth of a second, at least one task."""
        if self.policy.rate is None:
            return len(self._tasks)
        now = time.monotonic()
        self._allowance = min(
            max(1.0, self.policy.rate / 10), self._allowance + (now - self._filled_at) * self.policy.rate
        )
        self._filled_at = now
        return int(self._allowance)

    def _pause_s(self) -> float:
        pause = min(super()._pause_s(), max(0.0, self._began + self.policy.deadline_s - time.monotonic()) or 0.05)
        return (
            min(pause, 0.5 / self.policy.rate) if self.policy.rate is not None and any(self._queues.values()) else pause
        )

    # ------------------------------------------------------------ results

    def deliver(self) -> None:
        """Into the ledger: the first result of an id counts."""
        fresh: list[dict[str, Any]] = []
        at = time.monotonic() - self._began
        for result in self._up:
            if result.task_id in self._results or result.task_id not in self._tasks:
                self.report_.duplicates += 1
                continue
            self._results[result.task_id] = (result.status, result.duration_s, result.team, at)
            if result.started_at is not None:
                begun = result.started_at - self._wall_offset - self._began
                self._first_start[result.team] = min(begun, self._first_start.get(result.team, begun))
            if result.status != "ok":
                self._bad += 1
                if len(self._failures) < _MOST_LISTED:
                    self._failures.append({"task_id": result.task_id, "status": result.status, "reason": result.reason})
            fresh.append({**result.to_dict(), "number": result.number})
        self._up.clear()
        if fresh:
            self._write(fresh)
            self.report_.coordination_s = round(time.monotonic() - self._began, 6)
        self._check_end()

    def _write(self, lines: list[dict[str, Any]]) -> None:
        data = b"".join(dump_json(line) + b"\n" for line in lines)
        while data:
            data = data[os.write(self._ledger, data) :]
        self._wake()

    def _wake(self) -> None:
        if self._wake_fd is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._wake_fd, b"\n")

    # ------------------------------------------------------------ the end

    def _check_end(self) -> None:
        if self._done:
            if time.monotonic() - self._began >= self.policy.deadline_s:
                self.cancel()  # what a halt let run, or who does not leave: the deadline holds for them too
            return
        halt = self.policy.halt
        if len(self._results) >= len(self._tasks):
            self._finish("finished")
            self.stop()
        elif halt is not None and self._bad >= halt[1]:
            self._finish("halted")
            self._queues.clear()
            self.cancel() if halt[0] == "now" else self.drain()
        elif time.monotonic() - self._began >= self.policy.deadline_s:
            self._finish("deadline")
            self.cancel()
        elif self._nobody_left():
            self._finish("coordinator-lost")
            self.cancel()

    def _nobody_left(self) -> bool:
        """Coordinators died and what is not in the ledger can reach nobody any more."""
        if not self.report_.coordinators_lost:
            return False
        if any(branch.works for branch in self.branches.living):
            return False
        teams = {branch.node.team for branch in self.branches.living}
        open_queue = self._queues.get(None) and teams
        return not open_queue and not any(queue for key, queue in self._queues.items() if key in teams)

    def _finish(self, why: str) -> None:
        self._done = True
        self._why_ended = why

    def turn(self) -> None:
        super().turn()
        self._check_end()

    def _on_cancel(self, message: Message) -> None:
        if not self._done:
            self._finish("cancelled")
        self.cancel()

    def _on_shutdown(self, message: Message) -> None:
        self._on_cancel(message)

    def _branch_lost(self, branch: Branch, works: list[Work]) -> None:
        """Its tasks are not in the ledger: the report lists them as missing, with this as the reason."""
        self.report_.coordinators_lost.append(branch.agent)
        for made in works:
            self._given[made.task.task_id] = f"{branch.agent}, which died"
        self._write([{"event": "coordinator-lost", "agent": branch.agent, "tasks": len(works)}])

    def _on_lost(self, message: Message) -> None:
        if self.branches.of(message.sender) is not None:
            self.report_.coordinators_lost.append(str(message.payload["agent"]))

    def end(self) -> None:
        self.deliver()

    def orphaned(self) -> None:
        if not self._done:
            self._finish("cancelled")
        super().orphaned()

    def finish_report(self) -> Report:
        """After the loop: the numbers."""
        report, losses = self.report_, self.losses()
        report.ended = self._why_ended
        report.counts = dict(Counter(status for status, _, _, _ in self._results.values()))
        report.delivered = len(self._results)
        report.delivery_rate = report.delivered / report.tasks if report.tasks else 1.0
        report.failures = self._failures
        report.workers_lost = losses["workers_lost"]
        report.gaps = losses["gaps"]
        report.missing = [
            {"task_id": task_id, "reason": self._why_missing(task_id)}
            for task_id in self._tasks
            if task_id not in self._results
        ][:_MOST_LISTED]
        if report.coordinators_lost and (report.missing or report.counts.get("lost")) and report.ended == "finished":
            report.ended = "coordinator-lost"
        if report.coordination_s:
            report.results_per_s = round(report.delivered / report.coordination_s, 3)
        report.teams = self._teams()
        report.wall_s = round(time.monotonic() - self._began, 6)
        self.folder.write_report(report.to_dict())
        return report

    def _why_missing(self, task_id: str) -> str:
        why = {
            "deadline": "the deadline passed",
            "cancelled": "the run was cancelled",
            "halted": "the run was halted",
        }.get(self._why_ended, "no coordinator was left for it")
        where = self._given.get(task_id)
        if where is None:
            return f"{why} before it was given to a team"
        return f"it was with {where}" if where.endswith("died") else f"{why} while it was with {where}"

    def _teams(self) -> dict[str, TeamReport]:
        out: dict[str, TeamReport] = {}
        nodes = self.node.children or (self.node,)
        for node in nodes:
            mine = [entry for entry in self._results.values() if entry[2] == node.team]
            out[node.team or "all"] = TeamReport(
                team=node.team or "all",
                coordinator=f"{self.run}.{node.name}",
                agents=node.agents,
                tasks=len(mine),
                ok=sum(1 for entry in mine if entry[0] == "ok"),
                failed=sum(1 for entry in mine if entry[0] != "ok"),
                median_s=statistics.median(entry[1] for entry in mine) if mine else None,
                first_at=round(self._first_start[node.team], 6) if node.team in self._first_start else None,
                last_at=round(max(entry[3] for entry in mine), 6) if mine else None,
            )
        return out
