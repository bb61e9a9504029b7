"""What cfn costs, each figure beside its floor, both measured in this run: floor, cfn, floor, cfn ...

    nox -s bench                              everything; a few minutes
    nox -s bench -- --quick                   small sizes: is everything measured?
    nox -s bench -- --only send,wake --json   some of it, as JSON
    nox -s bench -- --markdown docs/performance.md

stdout: the table, or JSON; stderr: what is being done. Exit code 1 when a section could not be measured; the others are
printed all the same. How to read the figures stands in docs/performance.md. Nothing is left behind: see scene.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import messages
import rounds
import table
from machine import Watch
from pairs import Figure
from scene import Scene, Sizes, base, full, quick, scene

from cfn.errors import CfnError, Exit, RunError, UsageError

#: What measures which sections, in the order of the report.
MEASURES: Final[tuple[tuple[tuple[str, ...], Callable[[Scene], list[Figure]]], ...]] = (
    (("send", "claim"), messages.letters),
    (("batch",), messages.batches),
    (("wake",), messages.wake),
    (("hybrid",), rounds.hybrid),
    (("commands",), rounds.commands),
    (("tree",), rounds.tree),
)
SECTIONS: Final = tuple(name for names, _ in MEASURES for name in names)


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    try:
        asked = _parser().parse_args(argv)
        return _bench(asked, _sections(asked.only), _sizes(asked))
    except CfnError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return Exit.INTERRUPTED


def _bench(asked: argparse.Namespace, wanted: Sequence[str], sizes: Sizes) -> int:
    document = table.Document(Path(asked.markdown)) if asked.markdown else None
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    with scene(Path(asked.dir) if asked.dir else base(), sizes, _say) as here:
        watch = Watch(here.folder.parent)
        for names, measure in MEASURES:
            mine = [name for name in names if name in wanted]
            if not mine:
                continue
            _say(f"measuring {', '.join(mine)}")
            try:
                figures += [figure for figure in measure(here) if figure.section in mine]
            except (CfnError, OSError, subprocess.SubprocessError) as error:
                failed.update(dict.fromkeys(mine, str(error)))
                _say(f"{', '.join(mine)} could not be measured: {error}")
        machine = watch.finish()
    if asked.json:
        found = {"machine": machine.to_dict(), "figures": [figure.to_dict() for figure in figures], "failed": failed}
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print(table.text(machine, figures))
    if document is not None and not failed:
        document.write(table.markdown(machine, figures))
    elif document is not None:
        raise RunError(f"{asked.markdown} is as it was: not everything could be measured")
    return Exit.ERROR if failed else Exit.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, well under a minute; for a look, not for figures"
    )
    parser.add_argument("--only", metavar="A,B", help=f"only these sections: {', '.join(SECTIONS)}")
    parser.add_argument(
        "--rounds", metavar="N", help="pairs of each measurement (default: 11, of swarms 5, of the tree 3)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, every single value in it")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table into FILE, between its two marks")
    parser.add_argument("--dir", metavar="DIR", help="where to measure (default: beside your bus, on tmpfs as a rule)")
    return parser


def _sections(only: str | None) -> Sequence[str]:
    if only is None:
        return SECTIONS
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise UsageError(f"--only {only!r}: there is no section {name!r}; there are {', '.join(SECTIONS)}")
    return names


def _sizes(asked: argparse.Namespace) -> Sizes:
    sizes = quick() if asked.quick else full()
    if asked.rounds is None:
        return sizes
    if not asked.rounds.isdecimal() or int(asked.rounds) < 1:
        raise UsageError(f"--rounds {asked.rounds!r} does not fit: use a whole number from 1")
    return dataclasses.replace(
        sizes, pairs=int(asked.rounds), hybrid_pairs=int(asked.rounds), tree_pairs=int(asked.rounds)
    )


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
