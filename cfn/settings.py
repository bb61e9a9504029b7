"""Every setting in one table: its variable, unit, default and meaning; and where a value came from.

Order, first wins: command-line flag, ``CFN_*`` variable, project file (``cfn.toml`` in the working folder or above it, the
nearest), user file (``config.toml`` in platformdirs' user config folder), default. A file that cannot be read or a value
that does not fit is an error with its mend, never ignored. In a file, keys are the names below (``max_inbox = 2000``).

``MESSAGE_BASE_DIR`` (the name in the reference) is read as ``CFN_MESSAGE_BASE_DIR`` where that one is unset.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cfn.errors import UsageError

FILE_NAME: Final = "cfn.toml"
#: What this program can do without, each with the same promises.
CAPABILITIES: Final = ("doorbell", "dir_fd", "flock", "ofd", "fast_depth", "fork", "shm")
TOPOLOGIES: Final = ("flat", "hybrid", "tree", "auto")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    kind: Callable[[Any], Any]
    default: Any
    unit: str
    meaning: str

    @property
    def variable(self) -> str:
        return "CFN_" + self.name.upper()


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("use true or false")


def _positive_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("use a whole number >= 1")
    number = int(value)
    if number < 1:
        raise ValueError("use a whole number >= 1")
    return number


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 < number < 1e9:
        raise ValueError("use a number of seconds above 0")
    return number


def _topology(value: Any) -> str:
    text = {"extended": "tree"}.get(str(value), str(value))
    if text not in TOPOLOGIES:
        raise ValueError(f"use one of {', '.join(TOPOLOGIES)} (extended is another word for tree)")
    return text


def _path(value: Any) -> str:
    text = os.path.expanduser(str(value))
    if not text or "\0" in text:
        raise ValueError("use the path of a folder")
    return text


def _capabilities(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, (list, tuple)) else str(value).replace(",", " ").split()
    for part in parts:
        if part not in CAPABILITIES:
            raise ValueError(f"{part!r} is no capability: use {', '.join(CAPABILITIES)}")
    return tuple(parts)


TABLE: Final[tuple[Setting, ...]] = (
    Setting("topology", _topology, "hybrid", "", "shape of a swarm: flat, hybrid, tree or auto"),
    Setting("max_agents", _positive_int, 708, "agents", "most agents that one run may have"),
    Setting("coordinators", _positive_int, 7, "coordinators", "coordinators of a hybrid swarm"),
    Setting("workers_per_coordinator", _positive_int, 100, "workers", "most workers of one team"),
    Setting(
        "message_base_dir",
        _path,
        None,
        "",
        "root of the bus; default: a private folder on tmpfs, else the user's runtime folder",
    ),
    Setting(
        "metrics_enabled",
        _bool,
        True,
        "",
        "measure what a run costs (memory of its processes at the barrier) for its report",
    ),
    Setting("health_check_interval", _seconds, 30.0, "s", "how often a coordinator reports its health to its parent"),
    Setting("max_coordination_time", _seconds, 60.0, "s", "time for coordination inside a run's default deadline"),
    Setting("max_inbox", _positive_int, 1000, "files", "most files in one inbox before senders wait"),
    Setting("max_message_bytes", _positive_int, 1 << 20, "bytes", "largest message, encoded"),
    Setting("max_batch", _positive_int, 1000, "messages", "most messages in one batch"),
    Setting("max_attempts", _positive_int, 5, "deliveries", "deliveries of one message before it goes to dead letters"),
    Setting("lease", _seconds, 30.0, "s", "how long a claim is held before others may have it"),
    Setting("send_timeout", _seconds, 30.0, "s", "how long a sender waits at a full inbox"),
    Setting("heartbeat", _seconds, 1.0, "s", "interval of an attended agent's heartbeat; three missed mean hung"),
    Setting("batch", _positive_int, 50, "agents", "agents started at a time by one coordinator"),
    Setting("state_dir", _path, None, "", "where runs keep their ledgers; default: platformdirs' user state folder"),
    Setting("without", _capabilities, (), "", f"capabilities to do without: {', '.join(CAPABILITIES)}"),
)
_BY_NAME: Final = {setting.name: setting for setting in TABLE}
_ALIASES: Final = {"message_base_dir": ("MESSAGE_BASE_DIR",)}


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's value and its source (``flag``, ``CFN_X``, a file's path, ``default``)."""

    value: Any
    source: str


class Settings:
    """The values in force: ``settings.max_inbox``; ``settings.explain()`` for all of them with their sources."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name].value
        except KeyError:
            raise AttributeError(name) from None

    def __getstate__(self) -> dict[str, Value]:
        return self._values

    def __setstate__(self, state: dict[str, Value]) -> None:
        self._values = state

    def explain(self) -> list[tuple[Setting, Value]]:
        return [(setting, self._values[setting.name]) for setting in TABLE]

    def replace(self, **flags: Any) -> Settings:
        """A copy in which these (not None) win. Raises: :class:`~cfn.errors.UsageError`."""
        values = dict(self._values)
        for name, value in flags.items():
            if name not in _BY_NAME:
                raise UsageError(f"unknown setting {name!r}; `cfn config show` lists all", setting=name)
            if value is not None:
                values[name] = Value(_fit(_BY_NAME[name], value, "flag"), "flag")
        return Settings(values)


def load(
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user_file: Path | None = None,
) -> Settings:
    """Read all sources. `flags` are values from the command line (None = not given).

    Raises: :class:`~cfn.errors.UsageError` for a value that does not fit, an unknown key, or an unreadable file.
    """
    env = os.environ if env is None else env
    files = [(path, _read(path)) for path in (_project_file(cwd or Path.cwd()), user_file or _user_file()) if path]
    values: dict[str, Value] = {}
    for setting in TABLE:
        values[setting.name] = _find(setting, flags or {}, env, files)
    return Settings(values)


def _find(
    setting: Setting, flags: Mapping[str, Any], env: Mapping[str, str], files: list[tuple[Path, dict[str, Any]]]
) -> Value:
    given = flags.get(setting.name)
    if given is not None:
        return Value(_fit(setting, given, "flag"), "flag")
    for variable in (setting.variable, *_ALIASES.get(setting.name, ())):
        if env.get(variable):
            return Value(_fit(setting, env[variable], variable), variable)
    for path, content in files:
        if setting.name in content:
            return Value(_fit(setting, content[setting.name], str(path)), str(path))
    return Value(setting.default, "default")


def _fit(setting: Setting, value: Any, source: str) -> Any:
    try:
        return setting.kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        given = str(error)
        python = isinstance(error, TypeError) or given.startswith(("invalid literal", "could not", "cannot"))
        reason = "not a number" if python else given
        if source == "flag":
            where = f"--{setting.name.replace('_', '-')}"
        else:
            where = source if source.isupper() else f"{source}: {setting.name}"
        raise UsageError(f"{where}={value!r} does not fit: {reason}", setting=setting.name, value=value) from None


def _project_file(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def _user_file() -> Path | None:
    """`config.toml` in the user's config folder. platformdirs costs 19 ms to import: on Linux the rule is XDG's, plain."""
    if os.name == "posix" and os.uname().sysname == "Linux":
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
        path = Path(home, "cfn", "config.toml")
    else:
        import platformdirs

        path = Path(platformdirs.user_config_dir("cfn", appauthor=False), "config.toml")
    return path if os.path.lexists(path) else None


def state_dir(settings: Settings) -> Path:
    """The user's state folder (not made yet). On Linux XDG's rule, plain: importing platformdirs costs 19 ms."""
    if settings.state_dir:
        return Path(settings.state_dir)
    if sys.platform == "linux":
        home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        return Path(home, "cfn")
    import platformdirs

    return Path(platformdirs.user_state_dir("cfn", appauthor=False))


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}", path=str(path)) from None
    for name in content:
        if name not in _BY_NAME:
            raise UsageError(
                f"{path}: unknown setting {name!r}; `cfn config show` lists all", path=str(path), setting=name
            )
    return content
