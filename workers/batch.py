"""Storing batches: what many jobs of a worker bring is stored in one transaction."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from arq.connections import ArqRedis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.permission import USUAL, ConsentRule
from workers.ledger import count_judged, store_batches
from workers.metrics import TRANSACTION_SECONDS, timed
from workers.queue import LARGEST_BATCH_BYTES, decode_batch, forget_waiting
from workers.waiting import tell

TRANSACTIONS_AT_ONCE = 2
SECONDS_OF_OURS = 12
GATHERING_SECONDS = 0.05


@dataclass
class Batch:
    """A batch as its job brought it, and what the job waits for."""

    batch_id: str
    encoded: bytes
    stored: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class GroupCommit:
    """What all jobs of a worker hand their batches to. To be made where the event loop runs."""

    def __init__(
        self,
        engine: AsyncEngine,
        queue: ArqRedis,
        *,
        anonymize_after_days: int,
        consent_rule: ConsentRule = USUAL,
    ) -> None:
        self._engine, self._queue, self._anonymize_after_days = engine, queue, anonymize_after_days
        self._consent_rule = consent_rule
        self._brought: deque[Batch] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._committing = [asyncio.create_task(self._commit_forever()) for _ in range(TRANSACTIONS_AT_ONCE)]

    async def store(self, batch_id: str, encoded: bytes) -> None:
        """Return once the batch is stored and counted; raises what PostgreSQL or Valkey raised, or MsgspecError where
        nobody can read it, or ConnectionError once closed."""
        if self._closing:
            raise ConnectionError("this worker is going down")
        batch = Batch(batch_id, encoded)
        self._brought.append(batch)
        self._arrived.set()
        await batch.stored

    async def close(self) -> None:
        """Break off what is under way; whoever waits is cancelled."""
        # Python 3.11's wait_for, by which redis-py reads, may swallow a cancellation.
        self._closing = True
        for task in self._committing:
            task.cancel()
        await asyncio.gather(*self._committing, return_exceptions=True)
        for batch in self._brought:
            batch.stored.cancel()

    async def _commit_forever(self) -> None:
        while not self._closing:
            await self._arrived.wait()
            # A transaction of two events costs as much as one of a hundred; nobody looks for them so soon.
            if sum(len(batch.encoded) for batch in self._brought) < LARGEST_BATCH_BYTES:
                await asyncio.sleep(GATHERING_SECONDS)
            if group := self._next_group():
                await self._commit(group)
            else:
                self._arrived.clear()

    def _next_group(self) -> list[Batch]:
        """The next batches that somebody still waits for, as many as make a good transaction."""
        group: list[Batch] = []
        while self._brought and sum(len(batch.encoded) for batch in group) < LARGEST_BATCH_BYTES:
            batch = self._brought.popleft()
            if not batch.stored.done():
                group.append(batch)
        return group

    async def _commit(self, group: Sequence[Batch]) -> None:
        """Where one batch makes the transaction fail, each is stored in its own."""
        waiting = [batch.stored for batch in group]
        try:
            async with asyncio.timeout(SECONDS_OF_OURS):
                await self._store(group)
        except (DBAPIError, msgspec.MsgspecError) as error:
            if len(group) == 1 or getattr(error, "connection_invalidated", False):
                tell(waiting, error)
            else:
                for batch in group:
                    await self._commit([batch])
        except asyncio.CancelledError:
            for stored in waiting:
                stored.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, each of those who wait must hear of it
            tell(waiting, error)
        else:
            tell(waiting)

    async def _store(self, group: Sequence[Batch]) -> None:
        batches = {batch.batch_id: decode_batch(batch.encoded) for batch in group}
        with timed(TRANSACTION_SECONDS):
            async with self._engine.begin() as connection:
                judged = await store_batches(
                    connection,
                    self._queue,
                    batches,
                    anonymize_after_days=self._anonymize_after_days,
                    consent_rule=self._consent_rule,
                )
        count_judged(judged)
        await forget_waiting(self._queue, batches)
