"""Storing what was accepted, and counting it: each batch once, whoever has it in hand and however often."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.event import TrackedEvent
from models.ledger import (
    Counts,
    add_counts,
    claim_batches,
    counts,
    forget_batches,
    number_set_aside,
    set_aside,
    stored_among,
    stored_batches,
    take_set_aside,
)
from models.permission import USUAL, ConsentRule
from workers.event import Stored, store
from workers.metrics import EVENTS_JUDGED
from workers.queue import (
    ACCEPTED,
    LARGEST_BATCH,
    LAST_ERROR,
    WAITING,
    WORKERS,
    decode_event,
    encode_event,
    still_waiting,
)

SECONDS_ALIVE = 10
BATCHES_AT_ONCE = 5000  # of which the queue and the database are asked together
# Of SQLSTATE's classes those that tell of a value: data exception, integrity violation, program limit.
OF_THE_EVENT = ("22", "23", "54")
Store = Callable[[AsyncConnection, Sequence[TrackedEvent]], Awaitable[Stored]]
"""`store` by the rules of this installation."""


class Ledger(NamedTuple):
    """Numbers of events since the installation began, and how its queue fares. Ages are in seconds."""

    accepted: int
    stored: int
    duplicate: int
    withdrawn: int
    waiting: int
    set_aside: int
    oldest_waiting: float | None
    workers: int
    last_error: str | None

    @property
    def missing(self) -> int:
        """Of how many accepted events nobody knows what became; below zero while others are just coming in."""
        return self.accepted - self.stored - self.duplicate - self.withdrawn - self.waiting - self.set_aside

    @property
    def adds_up(self) -> bool:
        """Whether nothing is lost and nothing counted twice; for certain only while nothing is under way."""
        return not self.missing


class Judged(NamedTuple):
    """What became of a batch: numbers of events."""

    stored: int
    duplicate: int
    withdrawn: int
    set_aside: int


async def store_batches(
    connection: AsyncConnection,
    queue: ArqRedis,
    batches: Mapping[str, Sequence[TrackedEvent]],
    *,
    anonymize_after_days: int,
    consent_rule: ConsentRule = USUAL,
) -> Judged:
    """Store the queue's batches, by id, and count them, in the connection's transaction; one that the queue hands out
    twice is counted once. Of a batch that comes alone, an event that cannot be stored is set aside.

    Raises what the database raises where no event is at fault, and where one is among those of several batches.
    """
    claimed = await claim_batches(connection, batches.keys())
    # What is claimed and waits no more was stored so long ago that the claim is forgotten.
    waiting = await still_waiting(queue, sorted(claimed))
    events = [event for batch_id in batches if batch_id in waiting for event in batches[batch_id]]
    keep = partial(store, anonymize_after_days=anonymize_after_days, consent_rule=consent_rule)
    return await _store_counted(connection, events, 0, keep, alone=len(batches) == 1)


async def store_unqueued(
    connection: AsyncConnection,
    events: Sequence[TrackedEvent],
    *,
    anonymize_after_days: int,
    consent_rule: ConsentRule = USUAL,
) -> Judged:
    """Store events that never were in the queue, and count them; one that cannot be stored is set aside."""
    keep = partial(store, anonymize_after_days=anonymize_after_days, consent_rule=consent_rule)
    return await _store_counted(connection, events, len(events), keep, alone=True)


async def _store_counted(
    connection: AsyncConnection,
    events: Sequence[TrackedEvent],
    accepted: int,
    keep: Store,
    *,
    alone: bool,
) -> Judged:
    if not events:
        return Judged(0, 0, 0, 0)
    if alone:
        stored = await _store_or_set_aside(connection, events, keep)
    else:
        stored = await keep(connection, events)
    await add_counts(connection, Counts(accepted, *stored))
    return Judged(*stored, set_aside=len(events) - sum(stored))


def count_judged(judged: Judged) -> None:
    """Tell the metrics, once the transaction is committed."""
    for outcome, events in judged._asdict().items():
        EVENTS_JUDGED.labels(outcome).inc(events)


async def retry_set_aside(
    engine: AsyncEngine, ids: Sequence[int], *, anonymize_after_days: int, consent_rule: ConsentRule = USUAL
) -> AsyncGenerator[tuple[int, Stored], None]:
    """Store these of the events that are set aside, some a transaction; gives of how many of the ids, and what became
    of them. What still cannot be stored is set aside again, by another id. To break off and begin again is safe."""
    keep = partial(store, anonymize_after_days=anonymize_after_days, consent_rule=consent_rule)
    for some in _parts(ids):
        async with engine.begin() as connection:
            batch = [decode_event(event) for event in await take_set_aside(connection, some)]
            stored = await _store_or_set_aside(connection, batch, keep)
            await add_counts(connection, Counts(0, *stored))
        yield len(some), stored


async def drop_set_aside(engine: AsyncEngine, ids: Sequence[int]) -> AsyncGenerator[tuple[int, int], None]:
    """Withdraw these of the events that are set aside, some a transaction; gives of how many of the ids, and how many
    events there were."""
    for some in _parts(ids):
        async with engine.begin() as connection:
            dropped = len(await take_set_aside(connection, some))
            await add_counts(connection, Counts(withdrawn=dropped))
        yield len(some), dropped


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + LARGEST_BATCH] for start in range(0, len(ids), LARGEST_BATCH))


async def _store_or_set_aside(connection: AsyncConnection, batch: Sequence[TrackedEvent], keep: Store) -> Stored:
    try:
        async with connection.begin_nested():
            return await keep(connection, batch)
    except DBAPIError as error:
        sqlstate = getattr(error.orig, "sqlstate", None) or ""
        if not sqlstate.startswith(OF_THE_EVENT):
            raise
        if len(batch) == 1:
            # Without the database's text, which may hold what people did.
            reason = f"{type(error.orig.__cause__ or error.orig).__name__} ({sqlstate})" if error.orig else sqlstate
            await set_aside(connection, [(reason, encode_event(batch[0]))])
            return Stored(0, 0, 0)
    halves = batch[: len(batch) // 2], batch[len(batch) // 2 :]
    parts = [await _store_or_set_aside(connection, half, keep) for half in halves]
    return Stored(*map(sum, zip(*parts, strict=True)))


async def ledger(connection: AsyncConnection, queue: ArqRedis) -> Ledger:
    """The ledger as it stands. Raises what PostgreSQL or Valkey raises where it is away."""
    now = time.time()
    async with queue.pipeline(transaction=True) as reading:
        reading.get(ACCEPTED)
        reading.zcount(WORKERS, now - SECONDS_ALIVE, "+inf")
        reading.get(LAST_ERROR)
        accepted, workers, last_error = await reading.execute()
    events, oldest = await _waiting(connection, queue)
    # Last, so that what was stored meanwhile is missing in neither.
    counted = await counts(connection)
    aside = await number_set_aside(connection)
    return Ledger(
        counted.accepted + int(accepted or 0),
        counted.stored,
        counted.duplicate,
        counted.withdrawn,
        events,
        aside,
        now - oldest if oldest else None,
        workers,
        last_error.decode() if last_error else None,
    )


async def _waiting(connection: AsyncConnection, queue: ArqRedis) -> tuple[int, float | None]:
    """How many events wait, and since when the oldest, read in parts: millions of batches may."""
    events, oldest, cursor = 0, None, -1
    while cursor:
        cursor, batches = await queue.hscan(WAITING, max(cursor, 0), count=BATCHES_AT_ONCE)
        stored = {each.encode() for each in await stored_among(connection, [each.decode() for each in batches])}
        for batch_id, told in batches.items():
            if batch_id not in stored:
                number, since = told.split()
                events += int(number)
                oldest = min(oldest or float("inf"), float(since))
    return events, oldest


async def sweep(connection: AsyncConnection, queue: ArqRedis, after: str = "") -> str | None:
    """Forget which of some stored batches the queue cannot hand out any more: of those that come next after this id.

    Gives the last of their ids, and None where there were none left.
    """
    batch_ids = await stored_batches(connection, after, BATCHES_AT_ONCE)
    async with queue.pipeline(transaction=False) as reading:
        for batch_id in batch_ids:
            reading.exists(job_key_prefix + batch_id)
        there = await reading.execute()
    gone = [batch_id for batch_id, exists in zip(batch_ids, there, strict=True) if not exists]
    if gone:
        async with queue.pipeline() as forgetting:
            forgetting.hdel(WAITING, *gone)
            await forgetting.execute()
        await forget_batches(connection, gone)
    return batch_ids[-1] if batch_ids else None
