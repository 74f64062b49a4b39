"""Taking events: what many requests hand in becomes one job, and is acknowledged once Valkey has that on disk."""

import asyncio
import time
from collections.abc import Sequence

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.event import TrackedEvent
from workers.ledger import count_judged, store_unqueued
from workers.metrics import COMMIT_EVENTS, COMMIT_SECONDS, timed
from workers.queue import QueueFullError, cut, enqueue
from workers.waiting import tell

GATHERING_SECONDS = 0.001
SECONDS_FOR_VALKEY = 2
SECONDS_FOR_POSTGRESQL = 10
SECONDS_BETWEEN_TRIES = 1
SECONDS_BETWEEN_MEASUREMENTS = 0.25


class Intake:
    """The buffer that all requests of a process share.

    Where Valkey does not take a batch, or holds `most_bytes` of memory already, the batch is stored in the database
    right away, by the intake's login.
    """

    def __init__(
        self, queue: ArqRedis, database: AsyncEngine, *, anonymize_after_days: int, most_bytes: int = 2**30
    ) -> None:
        self.queue = queue
        self._database = database
        self._anonymize_after_days = anonymize_after_days
        self._most_bytes = most_bytes
        self._is_full = False
        self._measured_at = self._failed_at = float("-inf")
        self._waiting: list[tuple[Sequence[TrackedEvent], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._closing = False
        self._committing = asyncio.create_task(self._commit_forever(), name="intake")

    async def keep(self, events: Sequence[TrackedEvent]) -> None:
        """Return once the events are on disk; raises what the database raised where neither server took them."""
        if self._closing:
            raise ConnectionError("this process is going down")
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((events, kept))
        self._arrived.set()
        await kept

    async def close(self) -> None:
        """Commit what is waiting, then take no more."""
        self._closing = True
        self._arrived.set()
        await self._committing

    async def _commit_forever(self) -> None:
        while not self._closing or self._waiting:
            await self._arrived.wait()
            if not self._closing:
                await asyncio.sleep(GATHERING_SECONDS)
            self._arrived.clear()
            waiting, self._waiting = self._waiting, []
            if waiting:
                await self._commit(waiting)

    async def _commit(self, waiting: Sequence[tuple[Sequence[TrackedEvent], asyncio.Future[None]]]) -> None:
        events = [event for handed_in, _ in waiting for event in handed_in]
        COMMIT_EVENTS.observe(len(events))
        try:
            with timed(COMMIT_SECONDS):
                await self._keep_all(events)
        except Exception as error:  # noqa: BLE001 - whatever it is, each of those who wait must hear of it
            tell([kept for _, kept in waiting], error)
        else:
            tell([kept for _, kept in waiting])

    async def _keep_all(self, events: Sequence[TrackedEvent]) -> None:
        try:
            if time.monotonic() < self._failed_at + SECONDS_BETWEEN_TRIES:
                raise ConnectionError("Valkey was away a moment ago")
            async with asyncio.timeout(SECONDS_FOR_VALKEY):
                await self._check_size()
                await enqueue(self.queue, list(cut(events)))
        except QueueFullError:
            await self._store(events)
        except (RedisError, OSError):
            if time.monotonic() >= self._failed_at + SECONDS_BETWEEN_TRIES:
                self._failed_at = time.monotonic()
            await self._store(events)

    async def _check_size(self) -> None:
        if time.monotonic() >= self._measured_at + SECONDS_BETWEEN_MEASUREMENTS:
            memory = await self.queue.info("memory")
            self._is_full = memory["used_memory"] >= self._most_bytes
            self._measured_at = time.monotonic()
        if self._is_full:
            raise QueueFullError("the queue holds as much as it may")

    async def _store(self, events: Sequence[TrackedEvent]) -> None:
        """All events in one transaction: those of a request are kept together or not at all."""
        async with asyncio.timeout(SECONDS_FOR_POSTGRESQL), self._database.begin() as connection:
            judged = await store_unqueued(connection, events, anonymize_after_days=self._anonymize_after_days)
        count_judged(judged)
