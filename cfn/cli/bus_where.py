"""The folder where the bus lives. Nothing is made: with --json, `exists` says whether it is there."""

from __future__ import annotations

import argparse
import os

from cfn.cli.options import settings_of
from cfn.cli.output import emit, say


def configure(parser: argparse.ArgumentParser) -> None:
    del parser  # only what every command has


def run(args: argparse.Namespace) -> int:
    from cfn.bus import place

    settings = settings_of(args)
    root = place.find(settings)
    if args.json:
        source = {setting.name: value.source for setting, value in settings.explain()}["message_base_dir"]
        exists = os.path.isfile(os.path.join(root, ".cfn", "bus.json"))
        emit({"path": root, "exists": exists, "source": source, "filesystem": place.filesystem(root)})
    else:
        say(root)
    return 0
