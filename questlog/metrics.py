"""Prometheus' /metrics, on a port of its own: what every process counted, and how the installation stands just now."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psutil
import uvicorn
from arq.connections import ArqRedis
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from models.base import connect
from models.horizon import horizon
from models.retention import oldest_identifiable
from models.rollup import number_dirty
from questlog.database import logins
from questlog.port import listen
from questlog.settings import Settings
from workers.ledger import ledger
from workers.queue import open_queue

logger = logging.getLogger(__name__)

SECONDS_TO_ANSWER = 7  # Prometheus gives up after ten
AWAY = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, RedisError, OSError)


@contextlib.asynccontextmanager
async def metrics_served(
    settings: Settings, processes: Callable[[], Mapping[str, int]], counted_in: Path | None = None
) -> AsyncIterator[None]:
    """Serve /metrics for as long as the block runs, where the settings name a port; raises SettingsError where that
    is taken.

    `processes` tells the ids of the processes whose memory is shown, by name. `counted_in` is the folder in which
    other processes count; None: this one counts for itself.
    """
    if settings.metrics_port is None:
        yield
        return
    metrics = Metrics(settings, processes, counted_in)
    with listen(settings.metrics_host, settings.metrics_port, "QUESTLOG_METRICS_PORT") as listener:
        app = Starlette(routes=[Route("/metrics", metrics)])
        server = _Server(
            uvicorn.Config(app, ws="none", lifespan="off", log_config=None, log_level="warning", access_log=False)
        )
        serving = asyncio.create_task(server.serve([listener]), name="metrics")
        logger.info("metrics are served", extra={"host": settings.metrics_host, "port": listener.getsockname()[1]})
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """Leaves signals to whoever it runs beside."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class Metrics:
    """The ASGI app. PostgreSQL and Valkey are asked while it answers, and what one that is away would tell is left
    out; nothing is held open between two requests."""

    settings: Settings
    processes: Callable[[], Mapping[str, int]]
    counted_in: Path | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        registry = CollectorRegistry()
        registry.register(MultiProcessCollector(None, str(self.counted_in)) if self.counted_in else REGISTRY)
        self._tell_memory(registry)
        await asyncio.gather(
            *(
                _unless_away(tell(registry))
                for tell in (self._tell_ledger, self._tell_dirty, self._tell_retention, self._tell_queue)
            )
        )
        await make_asgi_app(registry)(scope, receive, send)

    def _tell_memory(self, registry: CollectorRegistry) -> None:
        memory = Gauge("questlog_process_resident_bytes", "Memory of each process.", ["process"], registry=registry)
        for name, process_id in self.processes().items():
            with contextlib.suppress(psutil.Error):
                memory.labels(name).set(psutil.Process(process_id).memory_info().rss)

    async def _tell_ledger(self, registry: CollectorRegistry) -> None:
        async with self._database() as connection, self._queue() as queue:
            current = await ledger(connection, queue)
        events = Gauge("questlog_ledger_events", "What became of all accepted events.", ["state"], registry=registry)
        for state in ("accepted", "stored", "duplicate", "withdrawn", "waiting", "set_aside"):
            events.labels(state).set(getattr(current, state))
        age = Gauge("questlog_oldest_waiting_seconds", "Age of the oldest waiting event.", registry=registry)
        age.set(current.oldest_waiting or 0)
        Gauge("questlog_workers", "Workers alive.", registry=registry).set(current.workers)

    async def _tell_dirty(self, registry: CollectorRegistry) -> None:
        async with self._database() as connection:
            number = await number_dirty(connection)
        Gauge("questlog_dirty_spans", "Spans of events that wait for a roll-up.", registry=registry).set(number)

    async def _tell_retention(self, registry: CollectorRegistry) -> None:
        now, days = datetime.now(UTC), self.settings.anonymize_after_days
        async with self._database() as connection:
            oldest = await oldest_identifiable(connection, horizon(now, days))
        age = Gauge(
            "questlog_oldest_identifiable_seconds", "Age of the oldest row that names somebody.", registry=registry
        )
        age.set((now - oldest).total_seconds() if oldest else 0)
        most = Gauge("questlog_identifiable_seconds_most", "Age by which rows name nobody any more.", registry=registry)
        most.set(timedelta(days=days).total_seconds())

    async def _tell_queue(self, registry: CollectorRegistry) -> None:
        async with self._queue() as queue:
            memory = await queue.info("memory")
        Gauge("questlog_queue_bytes", "Memory that Valkey uses.", registry=registry).set(memory["used_memory"])
        most = Gauge("questlog_queue_bytes_most", "Memory beyond which the queue takes no more.", registry=registry)
        most.set(self.settings.queue_bytes)

    @contextlib.asynccontextmanager
    async def _database(self) -> AsyncIterator[AsyncConnection]:
        engine = connect(logins(self.settings).worker, pool_size=1, name="questlog metrics")
        try:
            async with engine.connect() as connection:
                yield connection
        finally:
            await engine.dispose()

    @contextlib.asynccontextmanager
    async def _queue(self) -> AsyncIterator[ArqRedis]:
        queue = await open_queue(self.settings.redis_url or "")
        try:
            yield queue
        finally:
            await queue.aclose(close_connection_pool=True)


async def _unless_away(telling: Awaitable[None]) -> None:
    with contextlib.suppress(*AWAY):
        async with asyncio.timeout(SECONDS_TO_ANSWER):
            await telling
