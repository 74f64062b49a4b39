"""Taking events: what many requests hand in becomes one job, and is acknowledged once Valkey has that on disk."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.event import TrackedEvent
from models.permission import USUAL, ConsentRule
from workers.ledger import count_judged, store_unqueued
from workers.metrics import COMMIT_EVENTS, COMMIT_SECONDS, timed
from workers.queue import LARGEST_BATCH, cut, enqueue
from workers.waiting import tell

GATHERING_SECONDS = 0.001
SECONDS_APART = 0.005  # from one commit to the next: each is a job, and costs the worker as much as many events
SECONDS_FOR_VALKEY = 2
SECONDS_FOR_POSTGRESQL = 10
SECONDS_BETWEEN_TRIES = 1
SECONDS_BETWEEN_MEASUREMENTS = 0.25

Waiting = tuple[Sequence[TrackedEvent], asyncio.Future[None]]
"""What a request handed in, and what it waits for."""


class Intake:
    """The buffer that all requests of a process share.

    Where Valkey does not take a batch, or holds `most_bytes` of memory already, its requests are stored in the database
    right away, some of them a transaction, by the intake's login.
    """

    def __init__(
        self,
        queue: ArqRedis,
        database: AsyncEngine,
        *,
        anonymize_after_days: int,
        consent_rule: ConsentRule = USUAL,
        most_bytes: int = 2**30,
    ) -> None:
        self.queue = queue
        self._database = database
        self._anonymize_after_days = anonymize_after_days
        self._consent_rule = consent_rule
        self._most_bytes = most_bytes
        self._was_full = False
        self._measured_at = self._failed_at = float("-inf")
        self._waiting: list[Waiting] = []
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
        began = float("-inf")
        while not self._closing or self._waiting:
            await self._arrived.wait()
            if not self._closing:
                await asyncio.sleep(max(GATHERING_SECONDS, began + SECONDS_APART - time.monotonic()))
            began = time.monotonic()
            self._arrived.clear()
            waiting, self._waiting = self._waiting, []
            if waiting:
                await self._commit(waiting)

    async def _commit(self, waiting: Sequence[Waiting]) -> None:
        events = _events(waiting)
        COMMIT_EVENTS.observe(len(events))
        error = None
        try:
            with timed(COMMIT_SECONDS):
                if not await self._enqueue(events):
                    await self._store_in_groups(waiting)
        except Exception as raised:  # noqa: BLE001 - whatever it is, each of those who wait must hear of it
            error = raised
        tell([kept for _, kept in waiting], error)

    async def _enqueue(self, events: Sequence[TrackedEvent]) -> bool:
        """Put all of them into the queue, or none; gives whether it took them."""
        if time.monotonic() < self._failed_at + SECONDS_BETWEEN_TRIES:
            return False
        try:
            async with asyncio.timeout(SECONDS_FOR_VALKEY):
                if await self._is_full():
                    return False
                await enqueue(self.queue, list(cut(events)))
        except (RedisError, OSError):
            self._failed_at = time.monotonic()
            return False
        return True

    async def _is_full(self) -> bool:
        if time.monotonic() >= self._measured_at + SECONDS_BETWEEN_MEASUREMENTS:
            memory = await self.queue.info("memory")
            self._was_full = memory["used_memory"] >= self._most_bytes
            self._measured_at = time.monotonic()
        return self._was_full

    async def _store_in_groups(self, waiting: Sequence[Waiting]) -> None:
        """Each group in a transaction of its own, and acknowledged once that is committed; all within ten seconds."""
        until = asyncio.get_running_loop().time() + SECONDS_FOR_POSTGRESQL
        for group in _groups(waiting):
            try:
                async with asyncio.timeout_at(until), self._database.begin() as connection:
                    judged = await store_unqueued(
                        connection,
                        _events(group),
                        anonymize_after_days=self._anonymize_after_days,
                        consent_rule=self._consent_rule,
                    )
            except Exception as error:  # noqa: BLE001 - whatever it is, each of this group must hear of it
                tell([kept for _, kept in group], error)
            else:
                count_judged(judged)
                tell([kept for _, kept in group])


def _events(waiting: Iterable[Waiting]) -> list[TrackedEvent]:
    return [event for handed_in, _ in waiting for event in handed_in]


def _groups(waiting: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    """Whole requests, as many as make a good transaction: those of one are kept together or not at all."""
    group: list[Waiting] = []
    size = 0
    for each in waiting:
        size += len(each[0])
        if group and size > LARGEST_BATCH:
            yield group
            group, size = [], len(each[0])
        group.append(each)
    if group:
        yield group
