"""Every setting: its value, where that came from, and what it means. First wins: flag, CFN_* variable, cfn.toml, user file, default."""

from __future__ import annotations

import argparse
from typing import Any

from cfn.cli.options import settings_of
from cfn.cli.output import emit, table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")


def run(args: argparse.Namespace) -> int:
    from cfn.errors import UsageError

    settings = settings_of(args)
    rows = [(setting, value.value, value.source) for setting, value in settings.explain()]
    wanted = [name.lower().removeprefix("cfn_") for name in args.names]
    for name in wanted:
        if name not in [setting.name for setting, _, _ in rows]:
            raise UsageError(f"{name!r} is not a setting; `cfn config show` lists all")
    shown: list[tuple[str, ...]] = []
    for setting, given, source in rows:
        if wanted and setting.name not in wanted:
            continue
        value = _resolved(setting.name, settings) if given is None else given
        if args.json:
            emit(
                {
                    "name": setting.name,
                    "variable": setting.variable,
                    "value": value,
                    "source": source,
                    "default": setting.default,
                    "unit": setting.unit,
                    "meaning": setting.meaning,
                }
            )
        else:
            shown.append((setting.variable, _text(value, setting.unit), source, setting.meaning))
    if not args.json:
        table(("VARIABLE", "VALUE", "SOURCE", "MEANING"), shown)
    return 0


def _resolved(name: str, settings: Any) -> Any:
    """What a default that depends on the host comes out as here."""
    if name == "message_base_dir":
        from cfn.bus import place

        return place.find(settings)
    if name == "state_dir":
        import platformdirs

        return platformdirs.user_state_dir("cfn", appauthor=False)
    return None


def _text(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "-"
    return f"{value:g} {unit}".strip() if isinstance(value, (int, float)) and value < 1e6 else f"{value} {unit}".strip()
