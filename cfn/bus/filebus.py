"""The file bus: a folder, a grammar of names, and renames.

    root/.cfn/bus.json        format version, id, clock offset, boot id, how depth is read
    root/.cfn/w/<writer>      one locked file a living writer
    root/.cfn/dead/<agent>/   dead letters of agents that are gone
    root/.cfn/new, gone, ids  folders being made, being ended; marks of ids with capitals
    root/<agent>/             one agent: see docs/format.md

Assumptions: a local file system whose rename is atomic; all processes are one user's. What a host or file system lacks is
probed (:mod:`cfn.bus.capabilities`), never guessed from its name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cfn.bus import capabilities, clock, ending, names, place, registry
from cfn.bus.compose import check_box, check_reason
from cfn.bus.delivery import FileDelivery, read_messages, redeem
from cfn.bus.events import Event, Observer, Registered, Removed
from cfn.bus.files import DepthRule, full
from cfn.bus.letters import forget_control, list_dead, put_back
from cfn.bus.mailbox import FileMailbox
from cfn.bus.protocol import AgentInfo, Box, DeadLetter, Reason, Swept
from cfn.bus.sending import Stream, gone
from cfn.bus.sweeping import sweep_agent, sweep_bus
from cfn.bus.transitions import AgentFolders
from cfn.bus.writer import Writer
from cfn.errors import BadMessage, Fenced, FormatError, UnfitPlace
from cfn.message import Message, check_agent_id, dump_json, is_agent_id, new_id
from cfn.settings import Settings, load

FORMAT: Final = 1


class FileBus:
    """See :class:`cfn.bus.protocol.Bus`.

    `root`: None = :func:`cfn.bus.place.find`. `create`: make the bus if it is not there, else UnfitPlace. `clock`: bus time in
    µs for tests; None = the bus's own.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        *,
        create: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.settings = load() if settings is None else settings
        self.root = place.find(self.settings) if root is None else os.path.abspath(os.fspath(root))
        if create:
            place.make(self.root)
        else:
            place.check(self.root)
        self._meta = os.path.join(self.root, ".cfn")
        self.w_dir = os.path.join(self._meta, "w")
        self.dead_dir = os.path.join(self._meta, "dead")
        self.new_dir = os.path.join(self._meta, "new")
        self.gone_dir = os.path.join(self._meta, "gone")
        self.ids_dir = os.path.join(self._meta, "ids")
        facts = _open_or_make(self.root, self._meta, create)
        try:
            self.caps = capabilities.probe(self.new_dir, self.settings.without)
        except OSError as error:
            raise full(error, f"cannot open the bus at {self.root}") from error
        self.depth = DepthRule(*facts["depth_rule"]) if self.caps.fast_depth else DepthRule(0, 0)
        self.id: str = facts["id"]
        self.now = clock or _clock(facts)
        self.writer = Writer(self.w_dir, self.caps.lock)
        self.observers: list[Observer] = []
        self.streams: dict[tuple[str, int], Stream] = {}
        self._mailboxes: list[FileMailbox] = []
        self._pid = os.getpid()

    def reborn(self) -> FileBus:
        """This bus for a forked child: what was probed is kept, writer, descriptors and observers are its own. 3 µs."""
        bus = FileBus.__new__(FileBus)
        bus.__dict__.update(self.__dict__)
        bus.writer = Writer(self.w_dir, self.caps.lock)
        bus.observers = []
        bus.streams = {}
        bus._mailboxes = []
        bus._pid = os.getpid()
        return bus

    def prepare(self, agent: str, **who: Any) -> FileMailbox:
        """A mailbox with a bus of its own, registered here for a child that will be forked next.

        Steps: `prepare`, ``mailbox.leave_to_child(parent)``, fork, then ``mailbox.adopt()`` in the child and ``mailbox.hand_over()``
        in the parent. Registering in the warm parent costs 0.1 ms; in the child it would copy a megabyte of pages first.
        """
        bus = self.reborn()
        try:
            return bus.register(agent, **who)
        except BaseException:
            bus.close()
            raise

    def adopt(self) -> None:
        self._pid = os.getpid()
        self.writer.adopt()

    def check_process(self) -> None:
        """Raises Fenced in a forked child: numbers, leases and locks belong to the process that opened the bus."""
        if os.getpid() != self._pid:
            raise Fenced("this bus was opened before a fork, by the parent process; open your own", agent=None)

    def set_pid(self, agent: str, pid: int) -> None:
        """Say in agent.json which process an agent became."""
        registry.set_pid(self, agent, pid)

    # ------------------------------------------------------------ mailboxes

    def register(
        self,
        agent: str,
        *,
        role: str | None = None,
        team: str | None = None,
        run: str | None = None,
        parent: str | None = None,
        capabilities: Sequence[str] = (),
        attended: bool = True,
        shared: bool = False,
        max_inbox: int | None = None,
    ) -> FileMailbox:
        check_agent_id(agent)
        who = {
            "role": role,
            "team": team,
            "run": run,
            "parent": parent,
            "capabilities": list(capabilities) or None,
            "shared": shared or None,
            "max_inbox": self.settings.max_inbox if max_inbox is None else max_inbox,
        }
        epoch, alive, fresh = registry.enter(self, agent, attended, who)
        try:
            mailbox = self._mailbox(
                agent, epoch, alive=alive, attended=attended, fresh=fresh, ordered=attended and not shared
            )
        except BaseException:
            if alive is not None:
                alive.close()  # or nobody could register this agent while this process lives
            raise
        if not fresh:
            try:
                self.sweep_agent(mailbox.folders, of_all=True)  # who was replaced holds nothing any more
            except BaseException:
                mailbox.close()
                raise
        if self.observers:
            self.announce(Registered(agent, self.now(), epoch))
        return mailbox

    def open(self, agent: str) -> FileMailbox:
        found = self.agent(check_agent_id(agent))
        return self._mailbox(agent, found.epoch, alive=None, attended=False, fresh=False, ordered=False)

    def _mailbox(
        self, agent: str, epoch: int, *, alive: Any, attended: bool, fresh: bool, ordered: bool
    ) -> FileMailbox:
        try:
            # an ephemeral holder has no lock file: its claims outlive its process and are judged by their lease
            holder = self.writer.prove() if attended else os.urandom(5).hex()
            mailbox = FileMailbox(
                self, self.folders(agent), epoch, alive=alive, holder=holder, fresh=fresh, ordered=ordered
            )
        except FileNotFoundError:
            raise gone(agent) from None
        except OSError as error:
            raise full(error, f"cannot open the mailbox of {agent!r}") from error
        self._mailboxes.append(mailbox)
        return mailbox

    def redeem(self, receipt: str) -> FileDelivery:
        return redeem(self, receipt)

    # ------------------------------------------------------------ looking

    def agent_path(self, agent: str) -> str:
        """The folder of an agent whose id was checked."""
        return f"{self.root}/{agent}"

    def folders(self, agent: str) -> AgentFolders:
        return AgentFolders(agent, self.agent_path(check_agent_id(agent)), self.caps)

    def agent(self, agent: str) -> AgentInfo:
        return registry.info(self, check_agent_id(agent))

    def agent_ids(self) -> list[str]:
        """Ids of all registered agents, without looking into their folders."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if is_agent_id(entry.name) and entry.is_dir())
        except FileNotFoundError:
            return []  # the bus was removed, and everybody with it
        except OSError as error:
            raise full(error, "cannot list the bus") from error

    def agents(self) -> list[AgentInfo]:
        found = []
        for agent in self.agent_ids():
            with contextlib.suppress(LookupError, ValueError, KeyError):  # left, or not made by this program
                found.append(self.agent(agent))
        return found

    def is_alive(self, agent: str) -> bool:
        return registry.is_alive(self, check_agent_id(agent))

    def beat_age_s(self, agent: str) -> float | None:
        """Bus seconds since the agent's last heartbeat; None when there is no such agent or it is ephemeral."""
        return registry.beat_age_s(self, check_agent_id(agent))

    def count(self, agent: str, box: Box = "inbox") -> int:
        check_box(box)
        folders = self.folders(agent)
        try:
            parts = ("control", "inbox") if box == "inbox" else (box,)
            return sum(self.depth.entries(folders[part], folders[part].stat()) for part in parts)
        except FileNotFoundError:
            raise gone(agent) from None
        finally:
            folders.close()

    def peek(self, agent: str, box: Box = "inbox", limit: int = 100) -> list[Message]:
        check_box(box)
        folders = self.folders(agent)
        out: list[Message] = []
        try:
            for part in ("control", "inbox") if box == "inbox" else (box,):
                for text in sorted(folders[part].names()):
                    if len(out) >= limit:
                        break
                    name = names.parse_in(box, text)
                    if name is not None:
                        with contextlib.suppress(FileNotFoundError, BadMessage):
                            out += read_messages(folders, part, text, name, self.settings.max_message_bytes)
        except FileNotFoundError:
            raise gone(agent) from None
        finally:
            folders.close()
        return out[:limit]

    # ------------------------------------------------------------ dead letters, sweeping, ending

    def dead(self, agent: str | None = None) -> list[DeadLetter]:
        return list_dead(self, agent)

    def put_back(self, letter: str) -> None:
        put_back(self, letter)

    def forget_control(self, run: str) -> None:
        """When a run has ended: see :func:`cfn.bus.letters.forget_control`."""
        forget_control(self, run)

    def remove(self, agent: str, reason: Reason = "agent-gone") -> None:
        check_reason(reason)
        if ending.end_mailbox(self, check_agent_id(agent), reason):
            registry.leave(self, agent)
            if self.observers:
                self.announce(Removed(agent, self.now(), reason))

    def sweep(self, *, dead_agents: bool = False) -> Swept:
        return sweep_bus(self, dead_agents)

    def sweep_agent(self, folders: AgentFolders, *, of_all: bool = False) -> Swept:
        """Return the claims of one mailbox whose lease or holder is gone; `of_all`: every claim. Raises: BusFull."""
        try:
            return sweep_agent(self, folders, of_all=of_all)
        except OSError as error:
            raise full(error, f"cannot sweep the mailbox of {folders.agent!r}") from error

    # ------------------------------------------------------------ observers, end

    def observe(self, observer: Observer) -> None:
        self.observers.append(observer)

    def announce(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: the mailboxes and the lock are its parent's
        for mailbox in list(self._mailboxes):
            mailbox.close()
        self.writer.close()

    def forget(self, mailbox: FileMailbox) -> None:
        """It has ended: a bus that lives for long must not keep all that ever were."""
        with contextlib.suppress(ValueError):
            self._mailboxes.remove(mailbox)

    def __enter__(self) -> FileBus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_or_make(root: str, meta: str, create: bool) -> dict[str, Any]:
    """What bus.json says; made whole in a scratch folder and renamed into place if missing."""
    path = Path(meta, "bus.json")
    while True:
        try:
            facts: dict[str, Any] = json.loads(path.read_bytes())
            break
        except FileNotFoundError:
            if not create:
                raise UnfitPlace(f"no bus at {root}; `cfn bus init` makes one", path=root) from None
            if not _make(root, meta) and not path.exists():
                raise UnfitPlace(f"{path} is missing; `cfn bus clean` removes a broken bus", path=root) from None
        except (ValueError, OSError) as error:
            raise UnfitPlace(
                f"{path} cannot be read ({error}); `cfn bus clean` removes a broken bus", path=root
            ) from None
    if facts.get("format") != FORMAT:
        raise FormatError(
            f"the bus at {root} has format {facts.get('format')!r}, this cfn knows {FORMAT}; upgrade cfn or use another folder",
            found=facts.get("format"),
            known=FORMAT,
        )
    if facts["boot_id"] != clock.boot_id():
        facts = _after_reboot(path, facts)
    return facts


def _make(root: str, meta: str) -> bool:
    """Make it; False when something was there first."""
    part = os.path.join(root, f".cfn-new-{os.urandom(5).hex()}")
    try:
        os.mkdir(part, 0o700)
        for folder in ("w", "dead", "new", "gone", "ids"):
            os.mkdir(os.path.join(part, folder), 0o700)
        rule = DepthRule.learn(os.path.join(part, "new"))
        facts = {
            "format": FORMAT,
            "id": new_id(),
            "clock_offset_us": clock.new_offset_us(),
            "boot_id": clock.boot_id(),
            "depth_rule": [rule.base, rule.step],
        }
        Path(part, "bus.json").write_bytes(dump_json(facts))
        os.rename(part, meta)
    except OSError as error:
        import shutil

        shutil.rmtree(part, ignore_errors=True)
        if not os.path.isdir(meta):  # else another process was first
            raise full(error, f"cannot make a bus at {root}") from error
        return False
    return True


def _after_reboot(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Another boot: the monotonic clock began anew. A new offset keeps bus time rising; every old lease is over."""
    facts = {**facts, "clock_offset_us": clock.new_offset_us(), "boot_id": clock.boot_id()}
    part = path.with_name(f"bus.json~{os.urandom(5).hex()}")
    part.write_bytes(dump_json(facts))
    os.replace(part, path)
    return facts


def _clock(facts: dict[str, Any]) -> Callable[[], int]:
    return clock.bus_clock(int(facts["clock_offset_us"]))
