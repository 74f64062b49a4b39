"""The arq worker: its functions, its timetable, and what keeps a job from being dropped."""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import msgspec
from arq import Retry, cron, func
from arq.connections import RedisSettings
from arq.constants import default_queue_name
from arq.worker import Worker
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import connect
from models.partition import make_partitions
from workers.analytics import refresh
from workers.ledger import store_counted, sweep
from workers.queue import LAST_ERROR, WAITING, WORKERS, decode_batch
from workers.rollup import SUBJECTS_AT_ONCE, postpone, roll_up

logger = logging.getLogger(__name__)

# After a kill, arq gives a job to another worker once its time-out and ten seconds are over.
SECONDS_OF_ARQ = 20
SECONDS_OF_OURS = 12
SECONDS_A_ROUND = 5
SECONDS_TO_FINISH = 8
LONGEST_PAUSE = 30
BATCHES_AT_ONCE = 2
BATCHES_BEHIND = 8  # as many waiting mean that storing needs the time that figures would take


def create_worker(
    database_url: str, redis_url: str, *, anonymize_after_days: int, handle_signals: bool = True
) -> Worker:
    """A worker that stores and derives by the worker's login until it gets SIGTERM or SIGINT, and then finishes what
    it has begun. To be made where the event loop runs."""
    # arq names each job's arguments at INFO, and ours are what people did.
    logging.getLogger("arq").setLevel(logging.WARNING)
    return Worker(
        functions=[func(store_batch, timeout=SECONDS_OF_ARQ, max_tries=2**31, keep_result=0)],
        cron_jobs=[
            cron(roll_up_all, second=set(range(60)), timeout=SECONDS_OF_ARQ, max_tries=1, keep_result=0),
            cron(refresh_all, second={0, 30}, timeout=SECONDS_OF_ARQ, max_tries=1, keep_result=0),
            cron(sweep_batches, second=0, timeout=SECONDS_OF_ARQ, max_tries=1, keep_result=0),
            cron(make_partitions_ahead, minute=30, run_at_startup=True, timeout=SECONDS_OF_ARQ, keep_result=0),
        ],
        redis_settings=RedisSettings.from_dsn(redis_url),
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=msgspec.msgpack.decode,
        poll_delay=0.05,
        max_jobs=BATCHES_AT_ONCE + 2,
        handle_signals=handle_signals,
        job_completion_wait=SECONDS_TO_FINISH,
        keep_result=0,
        timezone=UTC,
        ctx={
            "engine": connect(database_url, pool_size=BATCHES_AT_ONCE + 2, name="questlog worker"),
            "anonymize_after_days": anonymize_after_days,
            "rounds": Rounds(),
        },
        on_startup=_show_life,
        on_shutdown=_disconnect,
    )


async def store_batch(ctx: dict[str, Any], batch: bytes) -> None:
    """Store a batch of tracked events; whatever goes wrong, arq keeps it and it is tried again."""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS):
            async with _engine(ctx).begin() as connection:
                await store_counted(
                    connection,
                    decode_batch(batch),
                    anonymize_after_days=ctx["anonymize_after_days"],
                    batch_id=ctx["job_id"],
                )
            await ctx["redis"].hdel(WAITING, ctx["job_id"])
    # After a standstill arq's time-out comes together with ours, as a cancellation: it must not pass for an error.
    except (Exception, asyncio.CancelledError) as error:
        pause = min(2 ** min(ctx["job_try"], 10), LONGEST_PAUSE)
        logger.warning("a batch could not be stored, and is tried again in %d s: %s", pause, _kind(error))
        await _tell(ctx, "a batch could not be stored", error)
        raise Retry(defer=pause) from error


async def roll_up_all(ctx: dict[str, Any]) -> None:
    """Derive what is dirty, for as long as there is something, or for some seconds; little while batches pile up.

    Where that fails, subjects are taken one at a time, and one that fails alone goes behind all others.
    """
    rounds: Rounds = ctx["rounds"]
    if rounds.turn.locked():
        return
    async with rounds.turn:
        clock = asyncio.get_running_loop()
        until = clock.time() + SECONDS_A_ROUND
        try:
            while clock.time() < until and await _roll_up_some(ctx, rounds.subjects_at_once):
                rounds.subjects_at_once = min(2 * rounds.subjects_at_once, SUBJECTS_AT_ONCE)
                if await ctx["redis"].zcard(default_queue_name) > BATCHES_BEHIND:
                    break
        except Exception as error:  # noqa: BLE001 - the next round tries again, whatever it was
            logger.warning("figures could not be derived, and are with the next round: %s", _kind(error))
            await _tell(ctx, "figures could not be derived", error)
            if rounds.subjects_at_once == 1:
                await _postpone(ctx)
            rounds.subjects_at_once = 1


@dataclass
class Rounds:
    """What one round of roll-ups leaves to the next."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    subjects_at_once: int = SUBJECTS_AT_ONCE


async def _roll_up_some(ctx: dict[str, Any], subjects: int) -> int:
    async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
        return await roll_up(
            connection, datetime.now(UTC), anonymize_after_days=ctx["anonymize_after_days"], subjects=subjects
        )


async def _postpone(ctx: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            await postpone(connection)
    except Exception as error:  # noqa: BLE001 - where not even this is possible, the next round finds it as it was
        logger.warning("nor could the first be put behind the others: %s", _kind(error))


async def refresh_all(ctx: dict[str, Any]) -> None:
    """Sum the platform's numbers again for the days that changed, each once, for some seconds at most."""
    clock = asyncio.get_running_loop()
    until = clock.time() + SECONDS_A_ROUND
    day: date | None = date.max
    try:
        while day and clock.time() < until:
            async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
                days = ctx["anonymize_after_days"]
                day = await refresh(connection, datetime.now(UTC), anonymize_after_days=days, before=day)
    except Exception as error:  # noqa: BLE001 - the next round tries again, whatever it was
        logger.warning("the platform's numbers could not be summed, and are with the next round: %s", _kind(error))
        await _tell(ctx, "the platform's numbers could not be summed", error)


async def sweep_batches(ctx: dict[str, Any]) -> None:
    """Forget which batches are stored, once the queue cannot hand them out again."""
    async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
        await sweep(connection, ctx["redis"])


async def make_partitions_ahead(ctx: dict[str, Any]) -> None:
    """Make the weekly partitions that are missing."""
    async with _engine(ctx).begin() as connection:
        await make_partitions(connection, datetime.now(UTC), ctx["anonymize_after_days"])


async def _show_life(ctx: dict[str, Any]) -> None:
    """Tell others every second that this worker is alive."""
    name = ctx["name"] = uuid4().hex

    async def show_forever() -> None:
        while True:
            now = time.time()
            try:
                await ctx["redis"].zadd(WORKERS, {name: now})
                await ctx["redis"].zremrangebyscore(WORKERS, "-inf", now - 3600)
            except (RedisError, OSError) as error:
                logger.warning("Valkey is away: %s", _kind(error))
            await asyncio.sleep(1)

    ctx["life"] = asyncio.create_task(show_forever(), name="life")


async def _tell(ctx: dict[str, Any], what: str, error: BaseException) -> None:
    """Keep the last error where the ledger shows it; where Valkey is away, the log has it."""
    with contextlib.suppress(RedisError, OSError, asyncio.CancelledError):
        await ctx["redis"].set(LAST_ERROR, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {what}: {_kind(error)}")


def _kind(error: BaseException) -> str:
    """What kind of error it was: its text may hold what people did."""
    cause = getattr(error, "orig", None) or error.__cause__
    return " by ".join(type(each).__name__ for each in (error, cause) if each)


def _engine(ctx: dict[str, Any]) -> AsyncEngine:
    engine: AsyncEngine = ctx["engine"]
    return engine


async def _disconnect(ctx: dict[str, Any]) -> None:
    ctx["life"].cancel()
    await asyncio.gather(ctx["life"], return_exceptions=True)
    with contextlib.suppress(RedisError, OSError):
        await ctx["redis"].zrem(WORKERS, ctx["name"])
    await _engine(ctx).dispose()
