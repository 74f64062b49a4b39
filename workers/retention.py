"""Runs over everything that has grown too old: anonymised or deleted, a partition a transaction."""

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from arq.connections import ArqRedis
from redis.exceptions import ResponseError
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.access_log import forget_accesses
from models.horizon import horizon, next_run
from models.ledger import Counts, SetAsideEvent, add_counts, take_set_aside
from models.retention import (
    LAST_RUN,
    RUN,
    Policy,
    Step,
    begin_run,
    count_deleted,
    finish_run,
    forget_days_of_devices,
    forget_devices,
    forget_error_groups,
    forget_marks,
    forget_records,
    has_run,
    idle_devices,
    oldest_identifiable,
    oldest_promised,
    take_step,
)
from workers.erasure import write_anew
from workers.queue import decode_event

logger = logging.getLogger(__name__)


class Done(NamedTuple):
    """What a run did to how many rows of a table; `part` is the partition, where it did it to a whole one."""

    step: Step
    table: str
    rows: int
    part: str | None = None


async def is_due(connection: AsyncConnection, now: datetime) -> bool:
    """Whether no run has done all that was due at the last 02:00 UTC, or the one that began last was broken off."""
    since = next_run(now) - timedelta(days=1)
    last = (await connection.execute(LAST_RUN)).one_or_none()
    return last is None or last.finished_at is None or not await has_run(connection, since)


async def is_kept(connection: AsyncConnection, now: datetime, policy: Policy) -> bool:
    """Whether no row that still names somebody is older than promised by more than a day."""
    oldest = await oldest_identifiable(connection, horizon(now, policy.anonymize_after_days))
    return oldest is None or oldest >= oldest_promised(now, policy)


async def retain(
    engine: AsyncEngine, queue: ArqRedis, as_of: datetime, policy: Policy, *, wait: bool
) -> AsyncGenerator[Done, None]:
    """Do everything that is due at that time, or now by the database's clock where the time is still to come, and tell
    of each thing once it is done for good.

    To break off and begin again loses nothing but time. Where another run is at work this waits for its end and does
    what is left, or if it may not `wait` does nothing.
    """
    async with engine.connect() as connection:
        try:
            if await _has_turn(connection, wait=wait):
                now = await _database_time(connection)
                async for done in _run(connection, queue, min(as_of, now), policy):
                    yield done
        finally:
            # The turn ends with the connection, however that comes about.
            await connection.invalidate()


async def _has_turn(connection: AsyncConnection, *, wait: bool) -> bool:
    # Who was killed does not go on working for minutes.
    await connection.execute(text("SET client_connection_check_interval = '2s'"))
    lock = func.pg_advisory_lock if wait else func.pg_try_advisory_lock
    has_turn = await connection.scalar(select(lock(RUN))) is not False
    await connection.commit()
    return has_turn


async def _database_time(connection: AsyncConnection) -> datetime:
    # What is anonymised is so for good: no worker whose clock is ahead may say what is old.
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    await connection.commit()
    return now


async def _run(
    connection: AsyncConnection, queue: ArqRedis, as_of: datetime, policy: Policy
) -> AsyncGenerator[Done, None]:
    started_at = await _database_time(connection)
    # Each step is over with its statement: its locks never wait for this process.
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    await begin_run(connection, started_at, as_of)
    for step in Step:
        while part := await take_step(connection, step, as_of, policy):
            yield Done(step, part.table, part.rows, part.name)
    await connection.commit()
    await connection.execution_options(isolation_level="READ COMMITTED")
    for table, rows in (await _forget(connection, started_at, as_of, policy)).items():
        yield Done(Step.DELETE, table, rows)
    async for table, rows in write_anew(connection):
        yield Done(Step.REWRITE, table, rows)
    await _rewrite_log(queue)
    finished_at = await _database_time(connection)
    async with connection.begin():
        await finish_run(connection, started_at, finished_at)


async def _forget(connection: AsyncConnection, started_at: datetime, as_of: datetime, policy: Policy) -> Counter[str]:
    """Delete what is kept a row at a time and has had its time; how many rows of which table."""
    gone: Counter[str] = Counter()
    sealed_before = horizon(as_of, policy.anonymize_after_days)
    kept_since = as_of - timedelta(days=policy.delete_after_days)
    async with connection.begin():
        gone.update(await forget_records(connection, kept_since))
        gone.update(await forget_days_of_devices(connection, sealed_before))
        gone["access_log"] = await forget_accesses(connection, kept_since)
        gone["error_groups"] = await forget_error_groups(connection, kept_since)
        gone["set_aside_events"] = await _withdraw_sealed(connection, sealed_before)
        await forget_marks(connection, sealed_before)
        await count_deleted(connection, started_at, gone.total())
    after: UUID | None = None
    while True:
        # Looked for beforehand, so that nobody who stores waits for long.
        async with connection.begin():
            idle = await idle_devices(connection, after)
        if not idle:
            return +gone
        async with connection.begin():
            forgotten = await forget_devices(connection, idle)
            await count_deleted(connection, started_at, forgotten)
        gone["devices"] += forgotten
        after = idle[-1]


async def _withdraw_sealed(connection: AsyncConnection, sealed_before: datetime) -> int:
    """Withdraw what is set aside and lies before the horizon; says how many events."""
    rows = await connection.execute(select(SetAsideEvent.set_aside_id, SetAsideEvent.event))
    sealed = [row.set_aside_id for row in rows if decode_event(row.event).occurred_at < sealed_before]
    await take_set_aside(connection, sealed)
    await add_counts(connection, Counts(withdrawn=len(sealed)))
    return len(sealed)


async def _rewrite_log(queue: ArqRedis) -> None:
    """Let Valkey write its append-only file anew, without the events that left the queue."""
    rewrite: Callable[[], Awaitable[object]] = queue.bgrewriteaof
    try:
        if (await queue.info("persistence")).get("aof_last_bgrewrite_status") != "ok":
            logger.warning("Valkey could not write its append-only file anew when it tried last: its log says why")
        await rewrite()
    except ResponseError:
        logger.warning("Valkey does not write its append-only file anew when asked: see that it does so by itself")
