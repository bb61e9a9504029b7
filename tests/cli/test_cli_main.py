"""The door: the table, the one line, the exit code."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cfn as package
from cfn.bus.filebus import FileBus
from cfn.cli import main as door
from cfn.errors import AgentGone, Exit

Cfn = Callable[..., Any]  # the fixtures of conftest.py: arguments in, what came of it out
HERE = [name for name, (module, _) in door.COMMANDS.items() if importlib.util.find_spec(module)]


def imported_by(*arguments: str) -> set[str]:
    code = f"import sys; from cfn.cli.main import main; main({list(arguments)!r}); print('|', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("|")[2].split())


def test_help_lists_every_command_and_imports_none(cfn: Cfn) -> None:
    shown = cfn("--help")
    assert shown.code == 0
    assert shown.err == ""
    for name, (_, line) in door.COMMANDS.items():
        assert any(row.split(line)[0].strip() == name for row in shown.out.splitlines() if row.endswith(line)), name
    modules = imported_by("--help")
    assert not modules & {module for module, _ in door.COMMANDS.values()}
    assert "argparse" not in modules
    assert "cfn.bus" not in modules


def test_every_exit_code_of_the_table_is_in_the_help(cfn: Cfn) -> None:
    line = cfn("--help").out.splitlines()[-1]
    for code in Exit:
        assert f"{code.value} " in line


@pytest.mark.parametrize("name", HERE)
def test_every_command_explains_itself(cfn: Cfn, name: str) -> None:
    shown = cfn(*name.split(), "--help")
    assert shown.code == 0
    assert shown.err == ""
    assert shown.out.startswith("usage: cfn ")
    assert "--json" in shown.out


def test_a_send_imports_nothing_heavy(cfn: Cfn, send: Any) -> None:
    modules = imported_by("send", "--from", "lead", "--to", "worker-1", "--type", "task")
    heavy = {
        "platformdirs",
        "psutil",
        "tqdm",
        "asyncio",
        "subprocess",
        "logging",
        "multiprocessing",
        "cfn.cli.receive",
        "tomllib",
    }
    assert not modules & heavy
    assert cfn("count", "worker-1").out == "1\n"


def test_version(cfn: Cfn) -> None:
    assert cfn("--version").out == f"cfn {package.__version__}\n"


def test_the_help_of_a_group_lists_its_commands_only(cfn: Cfn) -> None:
    shown = cfn("bus", "--help")
    assert shown.code == 0
    assert "bus sweep" in shown.out
    assert "agent run" not in shown.out


def test_no_command_is_a_usage_error(cfn: Cfn) -> None:
    cfn().refused(2, "no command", "cfn --help")


def test_a_misspelt_command_gets_a_suggestion(cfn: Cfn) -> None:
    cfn("recieve", "a").refused(2, "'recieve'", "did you mean `cfn receive`?")


def test_an_unknown_command_points_to_the_help(cfn: Cfn) -> None:
    cfn("zzz").refused(2, "'zzz'", "cfn --help")


@pytest.mark.parametrize("arguments", [("bus",), ("bus", "burn")])
def test_a_group_names_its_commands(cfn: Cfn, arguments: tuple[str, ...]) -> None:
    cfn(*arguments).refused(2, "where, init, sweep, dead, clean")


def test_an_unknown_option_is_named(cfn: Cfn) -> None:
    cfn("count", "a", "--tomorrow").refused(2, "--tomorrow", "cfn count --help")


def test_a_missing_option_is_named(cfn: Cfn) -> None:
    cfn("send", "--from", "a", "--to", "b").refused(2, "--type", "cfn send --help")


class Raises:
    """A command that ends as told."""

    __doc__ = "A command."

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def configure(self, parser: Any) -> None:
        pass

    def run(self, args: Any) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (AgentGone("no agent 'x'"), 3, "no agent 'x'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/f"), 6, "'/f': make room"),
        (OSError(24, "Too many open files"), 6, "ulimit -n"),
        (PermissionError(13, "Permission denied", "/f"), 5, "'/f': run as the owner"),
        (FileNotFoundError(2, "No such file or directory", "/f"), 1, "'/f'"),
        (AgentGone("two\nlines"), 3, "two lines"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    cfn: Cfn, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "cfn.cli.count", Raises(error))  # type: ignore[arg-type]
    cfn("count").refused(code, words)


def test_a_defect_of_ours_is_one_line_too(cfn: Cfn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cfn.cli.count", Raises(KeyError("x")))  # type: ignore[arg-type]
    ran = cfn("count")
    assert ran.code == 1
    assert ran.err == "cfn: internal error, KeyError: 'x' (--debug shows where)\n"


def test_debug_shows_the_traceback(shell: Cfn) -> None:
    ran = shell("--debug", "count", "nobody")
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert "UnfitPlace" in ran.err


def test_debug_of_the_users_command_is_not_ours(cfn: Cfn) -> None:
    cfn("agent", "run", "../x", "task", "--", "tool", "--debug").refused(2, "'../x'")


def test_a_reader_that_leaves_is_a_clean_end(shell: Cfn, send: Any) -> None:
    for number in range(200):
        send(f'{{"n":{number},"text":"{"x" * 2000}"}}')
    code = (
        f"{sys.executable} -m cfn receive worker-1 --follow --timeout 5 2>err | head -n 1 | cut -c1-20; "
        "echo ${PIPESTATUS[0]}; cat err"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == '{"agent":"worker-1",\n0\n'


def test_what_a_gone_reader_did_not_get_goes_back(shell: Cfn, cfn: Cfn, send: Any) -> None:
    send()
    code = f"{sys.executable} -m cfn receive worker-1 --timeout 5 2>err | true; echo ${{PIPESTATUS[0]}}; cat err"
    for _ in range(3):  # the reader is usually gone before the line is written
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout in ("0\n", "4\n"), done
    assert int(cfn("count", "worker-1").out) + int(cfn("count", "worker-1", "claimed").out) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_an_error(cfn: Cfn, send: Any) -> None:
    send()
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m cfn receive worker-1 > /dev/full"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6, done
    assert done.stderr.startswith("cfn: No space left on device"), done
    assert done.stderr.count("\n") == 1
    assert cfn("count", "worker-1").out == "1\n", "what could not be printed was not kept"


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without a word")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_with_one_line_and_130(bus_dir: Path, signum: int) -> None:
    assert door.main(["register", "w"]) == 0
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom cfn.cli.main import main\n"
    script += "import sys; print('up', flush=True); sys.exit(main(['receive', 'w', '--follow']))"
    going = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert going.stdout is not None
    assert going.stdout.readline() == "up\n"
    with FileBus(bus_dir) as bus:  # it claims what it is sent: then it waits in its loop
        bus.register("lead").send("w", "note", {})
    assert "note" in going.stdout.readline()
    going.send_signal(signum)
    _, said = going.communicate(timeout=20)
    assert (going.returncode, said) == (130, "cfn: interrupted\n")
