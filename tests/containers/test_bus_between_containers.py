"""One tmpfs volume is one bus: locks, doorbells and renames reach from container to container."""

from __future__ import annotations

import concurrent.futures
import json
import time
from typing import Any

import pytest

from cfn.rollout import engine, fleet

#: Registers `sitter` and holds its lock until its container ends.
HOLD = """
import time
from cfn.bus.filebus import FileBus
bus = FileBus()
box = bus.register("sitter")
open("/bus/held", "w").close()
time.sleep(600)
"""

#: Waits for `sitter`'s lock to be free, and takes its identity: before that in vain.
WATCH = """
import json, os, time
from cfn.bus.filebus import FileBus
from cfn.errors import AgentExists
bus = FileBus()
until = time.monotonic() + 30
while not os.path.exists("/bus/held") and time.monotonic() < until:
    time.sleep(0.01)
alive = bus.is_alive("sitter")
try:
    bus.register("sitter")
    excluded = False
except AgentExists:
    excluded = True
open("/bus/seen", "w").close()
while bus.is_alive("sitter") and time.monotonic() < until:
    time.sleep(0.005)
freed_at = time.time()
epoch = bus.register("sitter").epoch if not bus.is_alive("sitter") else None
print(json.dumps({"alive": alive, "excluded": excluded, "freed_at": freed_at, "epoch": epoch}))
"""

#: Sleeps in the kernel until the bell of its mailbox rings: no polling of the folder.
LISTEN = """
import json, select, time
from cfn.bus.filebus import FileBus
bus = FileBus()
box = bus.register("listener")
bell = box.fileno()
box.drain_bell()
open("/bus/listening", "w").close()
rung = bool(select.select([bell], [], [], 30)[0])
rung_at = time.time()
delivery, = box.receive(5.0)
delivery.ack()
print(json.dumps({"rung": rung, "rung_at": rung_at, "payload": dict(delivery.message.payload), "left": bus.count("listener")}))
"""

RING = """
import json, os, time
from cfn.bus.filebus import FileBus
until = time.monotonic() + 30
while not os.path.exists("/bus/listening") and time.monotonic() < until:
    time.sleep(0.01)
bus = FileBus()
box = bus.register("ringer")
sent_at = time.time()
box.send("listener", "request", {"n": 42})
print(json.dumps({"sent_at": sent_at}))
"""

SERVE = """
import json, os, sys, time
from cfn.bus.filebus import FileBus
bus = FileBus()
box = bus.register(sys.argv[1])
peer, count = sys.argv[2], int(sys.argv[3])
open("/bus/up-" + sys.argv[1], "w").close()
until = time.monotonic() + 60
while not os.path.exists("/bus/up-" + peer) and time.monotonic() < until:
    time.sleep(0.01)
seen = []
for n in range(count):
    box.send(peer, "request", {"n": n})
while len(seen) < count and time.monotonic() < until:
    for delivery in box.receive(1.0, limit=50):
        seen.append(delivery.message.payload["n"])
        delivery.ack()
print(json.dumps({"seen": seen, "gaps": box.gaps}))
"""


def python(crew: fleet.Fleet, where: str, script: str, *arguments: str) -> Any:
    ran = crew.execute(where, ["python", "-c", script, *arguments])
    assert ran.exit_code == 0, ran
    return json.loads(ran.stdout)


def test_a_lock_excludes_across_containers_and_is_free_at_once_when_its_container_is_killed(crew: fleet.Fleet) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        held = pool.submit(crew.execute, "left", ["python", "-c", HOLD])
        watched = pool.submit(python, crew, "right", WATCH)
        seen = crew.execute("right", ["sh", "-c", "until test -e /bus/seen; do sleep 0.02; done"])
        killed_at = time.time()
        crew.kill("left")
        killed_by = time.time()
        found = watched.result(60)
        assert held.result(60).exit_code != 0
    assert seen.exit_code == 0
    assert found["alive"], "the other container's agent is seen to live"
    assert found["excluded"], "and nobody else can be it"
    assert found["epoch"] == 2, "its identity can be taken as a new incarnation"
    # the kill is somewhere between these two, and the lock is free with it; the rest is a watcher on two busy cores
    assert killed_at <= found["freed_at"] <= killed_by + 0.5


def test_a_bell_that_is_rung_in_one_container_wakes_a_sleeper_in_another(crew: fleet.Fleet) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        listening = pool.submit(python, crew, "left", LISTEN)
        rang = python(crew, "right", RING)
        heard = listening.result(60)
    assert heard["rung"]
    assert heard["payload"] == {"n": 42}
    assert heard["left"] == 0, "and the acknowledged message is gone"
    assert -0.001 <= heard["rung_at"] - rang["sent_at"] < 1.0


def test_two_containers_exchange_messages_in_order_and_lose_none(crew: fleet.Fleet) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        left = pool.submit(python, crew, "left", SERVE, "one", "two", "500")
        right = pool.submit(python, crew, "right", SERVE, "two", "one", "500")
        for served in (left.result(120), right.result(120)):
            assert served == {"seen": list(range(500)), "gaps": 0}


def test_a_claim_of_a_killed_container_comes_back_to_the_other(crew: fleet.Fleet) -> None:
    claim = (
        "import time; from cfn.bus.filebus import FileBus; bus = FileBus(); box = bus.register('worker');"
        "box.send('worker', 'task', {'n': 1}); claimed = box.receive(5.0, lease_s=600);"
        "assert len(claimed) == 1; open('/bus/claimed', 'w').close(); time.sleep(600)"
    )
    take = (
        "import json; from cfn.bus.filebus import FileBus; bus = FileBus(); before = bus.count('worker', 'claimed');"
        "box = bus.register('worker'); again = box.receive(5.0);"
        "print(json.dumps([before, [d.attempt for d in again], bus.count('worker', 'claimed')])); again[0].ack()"
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
        held = pool.submit(crew.execute, "left", ["python", "-c", claim])
        assert crew.execute("right", ["sh", "-c", "until test -e /bus/claimed; do sleep 0.02; done"]).exit_code == 0
        crew.kill("left")
        held.result(60)
    assert python(crew, "right", take) == [1, [2], 1]


def test_the_bus_is_private_and_larger_than_the_shared_memory_of_a_container(crew: fleet.Fleet) -> None:
    look = (
        "import json, os; from cfn.bus import place; from cfn.settings import load\n"
        "root = place.find(load()); place.make(root)\n"
        "size = lambda path: os.statvfs(path).f_blocks * os.statvfs(path).f_frsize\n"
        "mode = oct(os.stat('/bus').st_mode & 0o777)\n"
        "print(json.dumps([root, place.filesystem(root), size(root), size('/dev/shm'), mode]))"
    )
    root, kind, bus_bytes, shm_bytes, mode = python(crew, "left", look)
    assert (root, kind, mode) == (fleet.BUS_DIR, "tmpfs", "0o700")
    assert bus_bytes == 512 << 20 > shm_bytes


def test_no_container_is_privileged_or_has_limits_or_a_network_of_its_own(crew: fleet.Fleet) -> None:
    for name in ("left", "right"):
        facts = json.loads(engine.docker("container", "inspect", f"cfn-{crew.run}-{name}"))[0]
        host = facts["HostConfig"]
        assert not host["Privileged"]
        assert not host["CapAdd"]
        assert not host["Ulimits"]
        assert host["NetworkMode"] == "none"
        assert facts["Config"]["Labels"].items() >= crew.labels.items()


def test_nothing_is_left_when_a_fleet_ends_also_after_an_error(agent_image: str, run_id: str) -> None:
    with pytest.raises(ZeroDivisionError), fleet.Fleet(run_id, agent_image) as made:
        made.start("left")
        assert engine.docker("volume", "ls", "--quiet", "--filter", f"name={made.volume}").split() == [made.volume]
        raise ZeroDivisionError
    for kind in ("container", "volume"):
        every = ["--all"] if kind == "container" else []
        label = f"label={engine.RUN_LABEL}={run_id}"
        assert engine.docker(kind, "ls", *every, "--quiet", "--filter", label) == ""


def test_a_sweep_of_one_run_leaves_its_neighbours_alone(agent_image: str, run_id: str) -> None:
    with fleet.Fleet(run_id, agent_image) as one, fleet.Fleet(f"{run_id}x", agent_image) as other:
        one.start("left")
        other.start("left")
        assert engine.sweep(run=run_id) == {"container": 1, "network": 0, "volume": 1}
        assert other.execute("left", ["true"]).exit_code == 0


def test_a_name_that_is_taken_is_one_line_and_leaves_nothing(agent_image: str, run_id: str) -> None:
    with fleet.Fleet(run_id, agent_image) as one:
        one.start("left")
        with pytest.raises(engine.EngineError, match=r"starting a container failed: .*already in use") as caught:
            one.start("left")
        assert "\n" not in str(caught.value)
