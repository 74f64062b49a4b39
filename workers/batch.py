"""Storing batches: what many jobs of a worker bring is stored in one transaction."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.event import TrackedEvent
from workers.ledger import count_judged, store_batches
from workers.metrics import BATCH_SECONDS, timed
from workers.queue import WAITING

TRANSACTIONS_AT_ONCE = 2
EVENTS_AT_ONCE = 500
SECONDS = 12


@dataclass
class Waiting:
    """A batch that a job brought, and which it wants to hear of."""

    batch_id: str
    events: Sequence[TrackedEvent]
    stored: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class GroupCommit:
    """What all jobs of a worker hand their batches to. To be made where the event loop runs."""

    def __init__(self, engine: AsyncEngine, queue: ArqRedis, *, anonymize_after_days: int) -> None:
        self._engine, self._queue, self._anonymize_after_days = engine, queue, anonymize_after_days
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._committing = [asyncio.create_task(self._commit_forever()) for _ in range(TRANSACTIONS_AT_ONCE)]

    async def store(self, batch_id: str, events: Sequence[TrackedEvent]) -> None:
        """Return once the batch is stored and counted; raises what PostgreSQL or Valkey raised."""
        waiting = Waiting(batch_id, events)
        self._waiting.append(waiting)
        self._arrived.set()
        await waiting.stored

    async def close(self) -> None:
        """Break off what is under way."""
        for task in self._committing:
            task.cancel()
        await asyncio.gather(*self._committing, return_exceptions=True)

    async def _commit_forever(self) -> None:
        while True:
            await self._arrived.wait()
            if batches := self._taken():
                await self._commit(batches)
            else:
                self._arrived.clear()

    def _taken(self) -> list[Waiting]:
        """The next batches that somebody still waits for, as many as make a good transaction."""
        taken: list[Waiting] = []
        while self._waiting and sum(len(batch.events) for batch in taken) < EVENTS_AT_ONCE:
            batch = self._waiting.popleft()
            if not batch.stored.done():
                taken.append(batch)
        return taken

    async def _commit(self, batches: Sequence[Waiting]) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                await self._store(batches)
        except Exception as error:  # noqa: BLE001 - whatever it is, each of those who wait must hear of it
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_exception(error)
        else:
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_result(None)

    async def _store(self, batches: Sequence[Waiting]) -> None:
        ids = [batch.batch_id for batch in batches]
        # What is not waiting any more was stored by another, so long ago that the ledger may have forgotten it.
        async with self._queue.pipeline(transaction=False) as asking:
            asking.hmget(WAITING, ids)
            (there,) = await asking.execute()
        left = {batch.batch_id: batch.events for batch, waits in zip(batches, there, strict=True) if waits}
        with timed(BATCH_SECONDS):
            async with self._engine.begin() as connection:
                judged = await store_batches(connection, left, anonymize_after_days=self._anonymize_after_days)
        count_judged(judged)
        async with self._queue.pipeline(transaction=False) as forgetting:
            forgetting.hdel(WAITING, *ids)
            await forgetting.execute()
