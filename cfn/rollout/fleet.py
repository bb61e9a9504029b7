"""The containers of one run, which share one bus: start them, run commands in them, look into them, take them away.

Guarantees: whatever a fleet started carries its run's label and is gone when its ``with`` block ends, however it ends;
where this process is killed, ``nox -s sweep`` finds it by the owner's label. No container is privileged, gets limits of
its own or a network.

The bus is a folder in a named volume of type tmpfs that every container has at ``/bus``: one file system of one kernel, so
locks exclude, doorbells ring and a rename is seen at once from one container to the next (Docker's own /dev/shm has 64 MB,
and each container gets another). The volume is empty again when the last container has stopped.

Each container idles under docker-init, which also reaps; commands come by ``exec``. So a command's end does not end its
container, and what it left behind can be seen. Eight containers take 1.1 s to start and 0.5 s to go.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from cfn.errors import UnfitHost
from cfn.rollout import engine

BUS_VOLUME: Final = "/bus"
BUS_DIR: Final = "/bus/cfn"
#: An upper bound: tmpfs takes what is used, which is under 100 MB with 2000 agents.
BUS_SIZE: Final = "512m"
START_TIMEOUT_S: Final = 60
AT_ONCE: Final = 4  # more starts at a time are not faster: dockerd takes a lock for each mount
#: Beyond a command's own deadline, before its connection is taken for dead.
_SLACK_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command in a container did."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The last line that it wrote to stderr."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def check() -> None:
    """Raise :class:`~cfn.errors.UnfitHost` unless testcontainers can be imported and an engine answers."""
    try:
        import testcontainers.core.container  # noqa: F401
    except ImportError as error:
        raise UnfitHost(f"the containers site needs {error.name}: pip install 'cfn-swarm[containers]'") from None
    engine.need()


class Fleet:
    """Containers of `image` that share one bus. A context manager."""

    def __init__(self, run: str, image: str, *, bus_size: str = BUS_SIZE, timeout_s: float = 600.0) -> None:
        """`timeout_s` bounds every single command."""
        self.run = run
        self.labels = {engine.OWNER_LABEL: engine.OWNER, engine.RUN_LABEL: run}
        self._image = image
        self._bus_size = bus_size
        self._timeout_s = timeout_s
        self._containers: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    @property
    def volume(self) -> str:
        return f"cfn-{self.run}-bus"

    def __enter__(self) -> Self:
        check()
        self._stack.callback(engine.sweep, run=self.run)
        options = ("type=tmpfs", "device=tmpfs", f"o=size={self._bus_size},mode=0700")
        labels = [f"--label={name}={value}" for name, value in self.labels.items()]
        try:
            engine.docker("volume", "create", *labels, *(f"--opt={option}" for option in options), self.volume)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, *names: str) -> None:
        """Start a container for each name. Raises: :class:`~cfn.rollout.engine.EngineError`."""
        containers = {name: self._container(name) for name in names}
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._start, containers.values()))
        self._containers |= containers

    def put(self, name: str, path: str, content: bytes) -> None:
        """Write a file in a container."""
        with _told(f"writing {path} in {name}"):
            self._containers[name].copy_into_container(content, path)

    def execute(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ran:
        """Run a command in a container to its end. Raises: :class:`~cfn.rollout.engine.EngineError`."""
        with _told(f"{command[0]} in {name}"):
            container = self._containers[name].get_wrapped_container()
            code, (stdout, stderr) = container.exec_run(list(command), environment=dict(environment or {}), demux=True)
        # the connection ends before the exit code is known only when the container was killed under the command
        return Ran(-1 if code is None else code, _text(stdout), _text(stderr))

    def every(self, command: Sequence[str]) -> dict[str, Ran]:
        """Run a command in every container that still runs, in all at a time."""
        names = [name for name in self._containers if self.runs(name)]
        with concurrent.futures.ThreadPoolExecutor(len(names) or 1) as pool:
            return dict(zip(names, pool.map(lambda name: self.execute(name, command), names), strict=True))

    def runs(self, name: str) -> bool:
        """Whether a container still runs."""
        from docker.errors import NotFound

        with _told(f"looking at {name}"), contextlib.suppress(NotFound):
            container = self._containers[name].get_wrapped_container()
            container.reload()
            return bool(container.status == "running")
        return False

    def kill(self, *names: str) -> None:
        """SIGKILL to everything in these containers (none named: in all); those that are gone are passed over."""
        from docker.errors import APIError

        for name in names or tuple(self._containers):
            with _told(f"killing {name}"), contextlib.suppress(APIError):
                self._containers[name].get_wrapped_container().kill()

    def _container(self, name: str) -> Any:
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.wait_strategies import ContainerStatusWaitStrategy

        testcontainers_config.ryuk_disabled = (
            True  # its image cannot be had everywhere; the label and sweep do its work
        )
        with _told(f"preparing {name}"):
            container = _kind()(self._image, docker_client_kw={"timeout": round(self._timeout_s + _SLACK_S)})
        container.image = self._image  # no prefix of a registry's mirror: this image is made here
        return (
            container.with_name(f"cfn-{self.run}-{name}")
            .with_command(["sleep", "infinity"])
            .with_env("CFN_MESSAGE_BASE_DIR", BUS_DIR)
            .with_volume_mapping(self.volume, BUS_VOLUME, "rw")
            .with_kwargs(labels=self.labels, init=True, network_mode="none", hostname=name)
            .waiting_for(ContainerStatusWaitStrategy().with_startup_timeout(START_TIMEOUT_S).with_poll_interval(0.1))
        )

    def _start(self, container: Any) -> None:
        with _told("starting a container"):
            self._stack.enter_context(container)


@functools.cache
def _kind() -> Any:
    """testcontainers' container, which here may be gone when its block ends: somebody swept."""
    from docker.errors import APIError
    from testcontainers.core.container import DockerContainer

    class Container(DockerContainer):  # type: ignore[misc,unused-ignore]
        def stop(self, force: bool = True, delete_volume: bool = True) -> None:
            try:
                super().stop(force, delete_volume)
            except APIError as error:
                self.get_docker_client().client.close()
                if error.status_code not in (404, 409):  # 409: its removal is under way
                    raise

    return Container


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """The library's errors as ours."""
    import requests
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, requests.RequestException, TimeoutError, RuntimeError) as error:
        raise engine.EngineError(f"{doing} failed: {' '.join(str(error).split())}") from error


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
