"""The arq worker: its functions, its timetable, and what keeps a job from being dropped."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from arq import Retry, cron, func
from arq.connections import RedisSettings
from arq.worker import Worker
from sqlalchemy import func as sql
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import connect
from models.horizon import horizon
from workers.event import store
from workers.intake import decode_batch
from workers.rollup import roll_up

logger = logging.getLogger(__name__)

# After a kill, arq gives a job to another worker once its time-out and ten seconds are over.
SECONDS_OF_ARQ = 20
SECONDS_OF_OURS = 12
SECONDS_A_ROUND = 5
SECONDS_TO_FINISH = 8
LONGEST_PAUSE = 30
WEEKS_AHEAD = timedelta(weeks=4)
BATCHES_AT_ONCE = 2


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
            cron(make_partitions, hour=0, minute=30, run_at_startup=True, timeout=SECONDS_OF_ARQ, keep_result=0),
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
            "rolling_up": asyncio.Lock(),
        },
        on_shutdown=_disconnect,
    )


async def store_batch(ctx: dict[str, Any], batch: bytes) -> None:
    """Store a batch of tracked events; whatever goes wrong, arq keeps it and it is tried again."""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            await store(connection, decode_batch(batch), anonymize_after_days=ctx["anonymize_after_days"])
    except Exception as error:
        pause = min(2 ** min(ctx["job_try"], 10), LONGEST_PAUSE)
        logger.warning("a batch could not be stored, and is tried again in %d s: %s", pause, _kind(error))
        raise Retry(defer=pause) from error


async def roll_up_all(ctx: dict[str, Any]) -> None:
    """Derive what is dirty, for as long as there is something, or until the timetable's next turn but a few."""
    if ctx["rolling_up"].locked():
        return
    async with ctx["rolling_up"]:
        clock = asyncio.get_running_loop()
        until = clock.time() + SECONDS_A_ROUND
        try:
            while clock.time() < until and await _roll_up_some(ctx):
                pass
        except Exception as error:  # noqa: BLE001 - the next round tries again, whatever it was
            logger.warning("figures could not be derived, and are with the next round: %s", _kind(error))


async def _roll_up_some(ctx: dict[str, Any]) -> int:
    async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
        return await roll_up(connection, datetime.now(UTC), anonymize_after_days=ctx["anonymize_after_days"])


def _kind(error: Exception) -> str:
    """What kind of error it was: its text may hold what people did."""
    cause = getattr(error, "orig", None) or error.__cause__
    return " by ".join(type(each).__name__ for each in (error, cause) if each)


async def make_partitions(ctx: dict[str, Any]) -> None:
    """Make the weekly partitions from the horizon to four weeks ahead."""
    now = datetime.now(UTC)
    async with _engine(ctx).begin() as connection:
        since = horizon(now, ctx["anonymize_after_days"])
        await connection.execute(select(sql.make_partitions(since, now + WEEKS_AHEAD)))


def _engine(ctx: dict[str, Any]) -> AsyncEngine:
    engine: AsyncEngine = ctx["engine"]
    return engine


async def _disconnect(ctx: dict[str, Any]) -> None:
    await _engine(ctx).dispose()
