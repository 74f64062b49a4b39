"""Runs everything that an installation consists of, and starts again what dies."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx

from questlog import COUNTS_AS
from questlog.database import POOLS, logins
from questlog.embedded import EmbeddedError, EmbeddedServers
from questlog.migration import migrate
from questlog.port import listen
from questlog.process import end, ended, spawn
from questlog.reach import check_database, check_durability, check_queue
from questlog.settings import PREFIX, Settings, SettingsError, with_erasure_secret, with_secret
from questlog.signin import TokenVerifier

logger = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before something is started again
SECONDS_TO_FORGET = 60  # something that ran this long gets the shortest pause again
SECONDS_TO_START = 60
SECONDS_TO_STOP = 10
CONNECTIONS_BESIDE_APIS = 44  # the worker's, those of commands and metrics, and what PostgreSQL keeps for itself


class StartError(RuntimeError):
    """The installation cannot run; the message is one line that says why and what to do."""


class Part(Protocol):
    """Something that runs as one process and can be started again."""

    name: str
    process: subprocess.Popen[bytes] | None

    async def start(self) -> None:
        """Start it; raises EmbeddedError where it does not."""


@dataclass
class Child:
    """A process of our own: `python -m` something, with the settings in its environment."""

    name: str
    arguments: Sequence[str]
    environ: dict[str, str]
    keep: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Start the process."""
        environ = self.environ | {COUNTS_AS: self.name}
        self.process = spawn([sys.executable, "-P", "-m", *self.arguments], env=environ, keep=self.keep)

    async def stop(self) -> None:
        """Let the process finish what it is doing, and end it."""
        if self.process and self.process.poll() is None:
            await end(self.process, signal.SIGTERM, SECONDS_TO_STOP)


class Supervisor:
    """A whole installation: `async with Supervisor(settings) as running`, and then `await running.wait()`.

    Entering returns once the API answers, and raises SettingsError, EmbeddedError or StartError where it never will.
    Leaving ends the API and the worker, who have ten seconds to finish what they have begun, then the embedded servers.
    """

    def __init__(
        self, settings: Settings, *, host: str = "127.0.0.1", port: int = 8000, workers: int = 1, worker: bool = True
    ) -> None:
        self.settings = settings
        self.host, self.port = host, port
        self.apis: list[Child] = []
        self.worker: Child | None = None
        self.servers: EmbeddedServers | None = None
        self._api_processes, self._with_worker = workers, worker
        self._watches: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The address of the GraphQL API."""
        return f"{self._origin}/graphql"

    async def wait(self) -> None:
        """Go on until cancelled."""
        await asyncio.gather(*self._watches)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        _check_exposure(self.settings, self.host)
        listener = self._stack.enter_context(listen(self.host, self.port, "--port"))
        self.port = listener.getsockname()[1]
        settings = with_erasure_secret(with_secret(self.settings, make=True), make=True)
        await TokenVerifier(settings).check()
        if settings.documents:
            from questlog.documents import trusted_documents

            trusted_documents(settings)
        self.settings = await self._with_servers(settings)
        await prepare_database(self.settings)
        counted_in = await self._with_metrics()
        self._start_children(listener, counted_in)
        await self._start_all()
        await self._answering()
        self._stack.push_async_callback(self._stop_watching)
        watches = [keep_running(part) for part in self._parts()]
        if self.servers:
            watches.append(self.servers.postgres.keep_giving_way())
        self._watches = [asyncio.create_task(watch) for watch in watches]

    async def _with_servers(self, settings: Settings) -> Settings:
        if settings.names_database != (settings.redis_url is not None):
            raise SettingsError("set both QUESTLOG_DATABASE_URL and QUESTLOG_REDIS_URL, or neither of them")
        if settings.redis_url is not None:
            await check_queue(settings.redis_url)
            await check_durability(settings.redis_url, settings.environment)
            return settings
        connections = CONNECTIONS_BESIDE_APIS + self._api_processes * sum(POOLS.values())
        self.servers = await self._stack.enter_async_context(EmbeddedServers(settings.home, connections))
        return with_servers(settings, self.servers)

    async def _with_metrics(self) -> Path | None:
        """Serve /metrics where a port is named; the folder in which the children are to count, and none otherwise."""
        if self.settings.metrics_port is None:
            return None
        from questlog.metrics import metrics_served

        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="questlog-metrics-")))
        await self._stack.enter_async_context(metrics_served(self.settings, self._process_ids, folder))
        return folder

    def _process_ids(self) -> dict[str, int]:
        """Of Questlog's own processes and Valkey: memory that PostgreSQL's processes share cannot be summed."""
        parts: list[Part] = [*([self.servers.valkey] if self.servers else []), *self._children()]
        ids = {part.name.lower(): part.process.pid for part in parts if part.process}
        return {"supervisor": os.getpid(), **ids}

    def _start_children(self, listener: socket.socket, counted_in: Path | None) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environ |= self.settings.model_copy(update={"metrics_port": None}).environ()
        if counted_in:
            environ["PROMETHEUS_MULTIPROC_DIR"] = str(counted_in)
        if self._with_worker:
            self.worker = Child("worker", ["questlog", "work"], environ)
        self.apis = [
            Child(f"api-{number}", ["questlog.asgi", str(listener.fileno())], environ, [listener.fileno()])
            for number in range(1, self._api_processes + 1)
        ]

    async def _start_all(self) -> None:
        self._stack.push_async_callback(self._stop_all)
        for child in self._children():
            await child.start()

    async def _stop_all(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children()))

    def _children(self) -> list[Child]:
        return [*([self.worker] if self.worker else []), *self.apis]

    async def _answering(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for _ in range(SECONDS_TO_START * 20):
                try:
                    if (await client.get(f"{self._origin}/readyz")).is_success:
                        return
                except httpx.TransportError:
                    pass
                for child in self.apis:
                    if child.process and child.process.poll() is not None:
                        raise StartError("the API ended while starting: what it printed above says why")
                await asyncio.sleep(0.05)
        raise StartError(f"the API does not answer at {self._origin}/readyz: what it printed above may say why")

    @property
    def _origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def _parts(self) -> list[Part]:
        servers: list[Part] = [self.servers.valkey, self.servers.postgres] if self.servers else []
        return [*servers, *self._children()]

    async def _stop_watching(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)


def with_servers(settings: Settings, servers: EmbeddedServers) -> Settings:
    """The settings with the embedded servers' URLs."""
    return settings.model_copy(update={"database_url": servers.database_url, "redis_url": servers.redis_url})


async def prepare_database(settings: Settings, revision: str = "head") -> None:
    """Migrate as the owner, or where only the other logins are known, see that they can be used."""
    known = logins(settings)
    if known.owner is None:
        for name in ("viewer", "admin", "worker", "intake"):
            await check_database(getattr(known, name), f"{name}_database_url")
    else:
        await check_database(known.owner, "database_url")
        await migrate(known, revision, anonymize_after_days=settings.anonymize_after_days)


async def keep_running(part: Part) -> None:
    """Start the part again whenever it ends, after growing pauses; goes on until cancelled."""
    pause = SHORTEST_PAUSE
    while True:
        began = time.monotonic()
        if part.process:
            status = await ended(part.process)
            logger.warning("%s ended with status %d and is started again", part.name, status)
        if time.monotonic() - began > SECONDS_TO_FORGET:
            pause = SHORTEST_PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        try:
            await part.start()
        except (EmbeddedError, OSError) as error:
            logger.warning("%s does not start, and is tried again: %s", part.name, error)


def _check_exposure(settings: Settings, host: str) -> None:
    if settings.environment == "development" and not _is_loopback(host):
        raise SettingsError(
            f"development does not listen on {host}: leave --host at 127.0.0.1, or set QUESTLOG_ENVIRONMENT=production"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
