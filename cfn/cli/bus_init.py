"""Make the bus where it is missing, and check that the place is fit. Prints its folder. Safe to do twice."""

from __future__ import annotations

import argparse

from cfn.cli import bus_where
from cfn.cli.options import open_bus


def configure(parser: argparse.ArgumentParser) -> None:
    del parser  # only what every command has


def run(args: argparse.Namespace) -> int:
    with open_bus(args, create=True):
        pass
    return bus_where.run(args)
