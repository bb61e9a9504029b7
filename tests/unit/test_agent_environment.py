"""What a command finds in its environment and on stdin."""

from __future__ import annotations

from cfn.message import load_json
from cfn.swarm.agent import environment, task_json
from cfn.swarm.task import Task

TASK = Task(task_id="job-1", payload={"path": "x"}, team="front", priority="high", timeout_s=2.0, number=4)


def test_the_documented_variables_are_there() -> None:
    made = environment(TASK, "r1.coord-a.w001", "r1.coord-a", "/bus", "r1", {"PATH": "/bin"}, attempt=2)
    assert load_json(made.pop("CFN_TASK").encode()) == {
        "path": "x", "task_id": "job-1", "team": "front", "priority": "high", "timeout_s": 2.0,
    }  # fmt: skip
    assert made == {
        "PATH": "/bin",
        "CFN_TASK_ID": "job-1",
        "CFN_ATTEMPT": "2",
        "CFN_AGENT_ID": "r1.coord-a.w001",
        "CFN_COORDINATOR": "r1.coord-a",
        "CFN_RUN": "r1",
        "CFN_MESSAGE_BASE_DIR": "/bus",
        "MESSAGE_BASE_DIR": "/bus",
    }


def test_an_outer_swarm_does_not_shine_through() -> None:
    outer = {"CFN_TASK": "{}", "CFN_COORDINATOR": "other", "CFN_RUN": "r0", "CFN_ATTEMPT": "9", "CFN_TOPOLOGY": "flat"}
    made = environment(TASK, "w", None, None, None, outer)
    assert "CFN_COORDINATOR" not in made
    assert "CFN_RUN" not in made
    assert (made["CFN_ATTEMPT"], made["CFN_TOPOLOGY"]) == ("1", "flat")


def test_a_large_task_is_left_out_and_says_so() -> None:
    large = Task(task_id="big", payload={"text": "ü" * 100_000})
    made = environment(large, "w", None, None, None, {"CFN_TASK": "old"})
    assert "CFN_TASK" not in made
    assert int(made["CFN_TASK_OMITTED"]) == len(task_json(large)) - 1
    assert load_json(task_json(large))["text"] == "ü" * 100_000


def test_the_tasks_own_keys_win_over_the_payload_s() -> None:
    assert load_json(task_json(Task(task_id="a", payload={"task_id": "b"}))) == {"task_id": "a"}
