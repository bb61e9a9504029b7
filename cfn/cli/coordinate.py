"""Join a run from outside as the coordinator of one team: in another container or shell that shares the bus.

The run is started with `cfn run --join --run-id RUN`; each of its teams is then led by one `cfn coordinate --run RUN --team
NAME`, which starts the team's agents where it runs. It ends with the run.
"""

from __future__ import annotations

import argparse

from cfn.cli.options import open_bus, seconds
from cfn.errors import Exit


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, dest="run_id", metavar="RUN", help="the run's id")
    parser.add_argument(
        "--team", required=True, metavar="NAME", help="the team to lead (a, b, ... unless the run names its teams)"
    )
    parser.add_argument(
        "--wait", type=seconds, default=60.0, metavar="S", help="how long to wait for the master (default 60 s)"
    )


def run(args: argparse.Namespace) -> int:
    from cfn.bus.capabilities import can_fork
    from cfn.message import check_agent_id
    from cfn.swarm.joining import join

    check_agent_id(f"{args.run_id}.coord-{args.team}")
    with open_bus(args, create=True) as bus:
        join(bus, args.run_id, args.team, wait_s=args.wait, fork=can_fork(bus.settings.without))
    return Exit.OK
