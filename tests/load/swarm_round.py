"""One swarm in an interpreter of its own, so that its agents are forks of a small process, as a user's are.

stdin: one JSON object with the arguments of `Swarm`, and `tasks`, how many there are. stdout: the run's report as JSON.
"""

from __future__ import annotations

import json
import signal
import sys

from cfn.errors import CfnError, Exit, RunError
from cfn.swarm.run import Swarm
from cfn.swarm.task import Task


def nothing(task: Task) -> None:
    """What each agent does."""


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _terminated)
    try:
        asked = json.load(sys.stdin)
        tasks = [Task(task_id=f"t{number}") for number in range(asked.pop("tasks"))]
        with Swarm(**asked).run(tasks) as run:
            for _ in run:
                pass
        if run.report is None:
            raise RunError("the run ended without a report")
        json.dump(run.report.to_dict(), sys.stdout)
    except CfnError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
