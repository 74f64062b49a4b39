"""The arq worker: its functions, its timetable, and what keeps a job from being dropped."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
from arq import Retry, cron, func
from arq.constants import default_queue_name
from arq.worker import Worker
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.base import connect
from models.partition import make_partitions, rebuild_index
from models.permission import USUAL, ConsentRule
from models.retention import Policy
from workers.analytics import refresh
from workers.batch import SECONDS_OF_OURS, TRANSACTIONS_AT_ONCE, GroupCommit
from workers.erasure import erase, try_failed_again, unfinished
from workers.export import forget_expired, make_next
from workers.ledger import sweep
from workers.metrics import ROLL_UP_SECONDS, SUBJECTS_DERIVED, timed
from workers.queue import LAST_ERROR, WORKERS, queue_at
from workers.retention import is_due, is_kept, retain
from workers.risk import PEOPLE_AT_ONCE, assess_due, put_off
from workers.rollup import SUBJECTS_AT_ONCE, postpone, roll_up

logger = logging.getLogger(__name__)

# After a kill, arq gives a job to another worker once its time-out and ten seconds are over.
SECONDS_OF_ARQ = 20
SECONDS_A_ROUND = 5
SECONDS_A_TRANSACTION = 0.25
SECONDS_BETWEEN_ASSESSMENTS = 5
SECONDS_ASSESSING = 2
HOUR_OF_INDEXES = 3  # UTC
SECONDS_TO_FINISH = 7
LONGEST_PAUSE = 15
NO_LAST_TRY = 2**31
JOBS_AT_ONCE = 24
BATCHES_BEHIND = 200  # as many waiting mean that storing needs the time that figures would take

Work = Callable[[], Coroutine[Any, Any, None]]


def create_worker(
    database_url: str,
    redis_url: str,
    *,
    anonymize_after_days: int,
    delete_after_days: int = 730,
    consent_rule: ConsentRule = USUAL,
    erasure_key: bytes,
    handle_signals: bool = True,
) -> Worker:
    """A worker that stores and derives by the worker's login until it gets SIGTERM or SIGINT, and then finishes what
    it has begun. To be made where the event loop runs."""
    # arq names each job's arguments at INFO, and ours are what people did.
    logging.getLogger("arq").setLevel(logging.WARNING)
    return Worker(
        functions=[
            func(store_batch, timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            func(leave_to_others, timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
        ],
        cron_jobs=[
            cron(roll_up_all, second=set(range(60)), timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(
                assess_all,
                second=set(range(0, 60, SECONDS_BETWEEN_ASSESSMENTS)),
                timeout=SECONDS_OF_ARQ,
                max_tries=NO_LAST_TRY,
                keep_result=0,
            ),
            cron(refresh_all, second={0, 30}, timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(
                rebuild_indexes,
                hour=HOUR_OF_INDEXES,
                minute=set(range(60)),
                second=45,
                timeout=SECONDS_OF_ARQ,
                max_tries=NO_LAST_TRY,
                keep_result=0,
            ),
            cron(retain_daily, second=10, timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(watch_retention, minute=5, timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(sweep_batches, second=0, timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(erase_all, second=set(range(60)), timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(make_exports, second=set(range(60)), timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(tidy, minute=set(range(0, 60, 10)), timeout=SECONDS_OF_ARQ, max_tries=NO_LAST_TRY, keep_result=0),
            cron(
                make_partitions_ahead,
                minute=30,
                run_at_startup=True,
                timeout=SECONDS_OF_ARQ,
                max_tries=NO_LAST_TRY,
                keep_result=0,
            ),
        ],
        redis_pool=queue_at(redis_url),
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=_read_job,
        poll_delay=0.02,
        max_jobs=JOBS_AT_ONCE,
        handle_signals=handle_signals,
        job_completion_wait=SECONDS_TO_FINISH,
        keep_result=0,
        timezone=UTC,
        ctx={
            "engine": connect(
                database_url, pool_size=TRANSACTIONS_AT_ONCE + 7, name="questlog worker", secret=erasure_key
            ),
            "anonymize_after_days": anonymize_after_days,
            "policy": Policy(anonymize_after_days, delete_after_days),
            "consent_rule": consent_rule,
            "rounds": Rounds(),
            "assessing": Rounds(subjects_at_once=PEOPLE_AT_ONCE),
            "beside": {},
        },
        on_startup=_begin,
        on_shutdown=_disconnect,
    )


async def run(worker: Worker) -> None:
    """Work until a signal. Raises RedisError or OSError once Valkey is away, and leaves nothing running."""
    worker.on_stop = lambda _: _insist(worker)
    try:
        if worker.allow_pick_jobs:  # else the signal came already
            with contextlib.suppress(asyncio.CancelledError):
                await worker.async_run()
        if "life" in worker.ctx:  # else it came before anything was begun
            await _let_go(worker)
            await worker.close()
    finally:
        worker.ctx["is_ending"] = True
        life = filter(None, [worker.ctx.get("life")])
        left = [*worker.tasks.values(), *worker.job_tasks.values(), *life, *worker.ctx["beside"].values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if commits := worker.ctx.get("commits"):
            await commits.close()


def _insist(worker: Worker) -> None:
    """Cancel again until it ends: Python 3.11's wait_for, by which redis-py sends, may swallow a cancellation."""
    if worker.main_task and not worker.main_task.done():
        worker.main_task.cancel()
        worker.loop.call_later(0.1, _insist, worker)


async def _let_go(worker: Worker) -> None:
    """Pass over what arq cancelled because it was not done in time: closing, arq would take that for its own."""
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    worker.tasks = {job_id: task for job_id, task in worker.tasks.items() if not task.cancelled()}


async def store_batch(ctx: dict[str, Any], batch: bytes) -> None:
    """Store a batch of tracked events; whatever goes wrong, arq keeps it and it is tried again."""
    try:
        commits: GroupCommit = ctx["commits"]
        async with asyncio.timeout(SECONDS_OF_OURS):
            await commits.store(ctx["job_id"], batch)
    # After a standstill arq's time-out comes together with ours, as a cancellation: it must not pass for an error.
    except (Exception, asyncio.CancelledError) as error:
        pause = min(2 ** min(ctx["job_try"], 10), LONGEST_PAUSE)
        logger.warning("a batch could not be stored, and is tried again in %d s: %s", pause, _kind(error))
        await _tell(ctx, "a batch could not be stored", error)
        raise Retry(defer=pause) from error


async def leave_to_others(ctx: dict[str, Any]) -> None:
    """Keep a job of which this worker knows nothing for one that does, most likely of a newer version."""
    logger.warning("job %s is of no kind that this worker knows: left to others for %d s", ctx["job_id"], LONGEST_PAUSE)
    raise Retry(defer=LONGEST_PAUSE)


def _read_job(job: bytes) -> dict[str, Any]:
    """A job as arq wants it. One that cannot be read, or names another function, arq would drop.

    What a timetable of another version put into the queue it may: the next turn brings another.
    """
    try:
        read = msgspec.msgpack.decode(job, type=_Job)
    except msgspec.MsgspecError:
        read = _Job("")
    match read:
        case _Job(f=store_batch.__name__, a=(bytes(),)) if not read.k:
            pass
        case _ if not read.f.startswith("cron:"):
            read = _Job(leave_to_others.__name__)
    return msgspec.structs.asdict(read)


class _Job(msgspec.Struct):
    """What arq keeps of a job: function, arguments, number of tries, and when it was put into the queue."""

    f: str
    a: tuple[Any, ...] = ()
    k: dict[str, Any] = {}
    t: int | None = None
    et: int = 0


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
            while (began := clock.time()) < until and await _roll_up_some(ctx, rounds.subjects_at_once):
                # Where days are crowded, fewer at once: their events are all in memory together.
                is_long = clock.time() - began > SECONDS_A_TRANSACTION
                wanted = rounds.subjects_at_once // 2 if is_long else 2 * rounds.subjects_at_once
                rounds.subjects_at_once = min(max(wanted, 1), SUBJECTS_AT_ONCE)
                if await ctx["redis"].zcard(default_queue_name) > BATCHES_BEHIND:
                    break
        except Exception as error:  # noqa: BLE001 - the next round tries again, whatever it was
            logger.warning("figures could not be derived, and are with the next round: %s", _kind(error))
            await _tell(ctx, "figures could not be derived", error)
            if rounds.subjects_at_once == 1:
                await _leave_first(ctx, postpone)
            rounds.subjects_at_once = 1


@dataclass
class Rounds:
    """What one round leaves to the next."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    subjects_at_once: int = SUBJECTS_AT_ONCE


async def _roll_up_some(ctx: dict[str, Any], subjects: int) -> int:
    with timed(ROLL_UP_SECONDS):
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            derived = await roll_up(
                connection, datetime.now(UTC), anonymize_after_days=ctx["anonymize_after_days"], subjects=subjects
            )
    SUBJECTS_DERIVED.inc(derived)
    return derived


async def _leave_first(ctx: dict[str, Any], leave: Callable[[AsyncConnection], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            await leave(connection)
    except Exception as error:  # noqa: BLE001 - where not even this is possible, the next round finds it as it was
        logger.warning("nor could the first be put behind the others: %s", _kind(error))


async def assess_all(ctx: dict[str, Any]) -> None:
    """Assess whoever is due, for as long as there is somebody, or for some seconds; nobody twice.

    Where that fails, people are taken one at a time, and one who fails alone waits for an hour.
    """
    rounds: Rounds = ctx["assessing"]
    clock = asyncio.get_running_loop()
    until = clock.time() + SECONDS_ASSESSING
    due_by = datetime.now(UTC)
    try:
        while clock.time() < until and await _assess_some(ctx, due_by, rounds.subjects_at_once):
            rounds.subjects_at_once = min(2 * rounds.subjects_at_once, PEOPLE_AT_ONCE)
            if await ctx["redis"].zcard(default_queue_name) > BATCHES_BEHIND:
                break
    except Exception as error:  # noqa: BLE001 - the next round tries again, whatever it was
        logger.warning("learners could not be assessed, and are with the next round: %s", _kind(error))
        await _tell(ctx, "learners could not be assessed", error)
        if rounds.subjects_at_once == 1:
            await _leave_first(ctx, put_off)
        rounds.subjects_at_once = 1


async def _assess_some(ctx: dict[str, Any], due_by: datetime, people: int) -> int:
    async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
        return await assess_due(connection, datetime.now(UTC), due_by=due_by, people=people)


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


async def erase_all(ctx: dict[str, Any]) -> None:
    """See that somebody goes on with the erasures that are not done, each from where it was broken off."""

    async def erase_one(erasure_id: UUID) -> None:
        async for _ in erase(_engine(ctx), ctx["redis"], erasure_id, anonymize_after_days=ctx["anonymize_after_days"]):
            pass

    async def go_on() -> None:
        async with _engine(ctx).connect() as connection:
            left = await unfinished(connection)
        for erasure_id in left:
            await _or_again(ctx, "somebody could not be erased", partial(erase_one, erasure_id))

    _beside(ctx, "somebody could not be erased", go_on)


async def make_exports(ctx: dict[str, Any]) -> None:
    """See that somebody makes the archives that are asked for."""

    async def make_all() -> None:
        while await make_next(_engine(ctx), datetime.now(UTC)):
            pass

    _beside(ctx, "an export could not be made", make_all)


def _beside(ctx: dict[str, Any], failure: str, work: Work) -> None:
    """Do the work in a task of its own, unless it is being done: it may take minutes, and for as long as arq gives any
    job, a dead worker's batches would wait."""
    task: asyncio.Task[None] | None = ctx["beside"].get(failure)
    if task is None or task.done():
        ctx["beside"][failure] = asyncio.create_task(_or_again(ctx, failure, work))


async def _or_again(ctx: dict[str, Any], failure: str, work: Work) -> None:
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - the next time tries again, whatever it was
        logger.warning("%s, and is tried again: %s", failure, _kind(error))
        await _tell(ctx, failure, error)


async def tidy(ctx: dict[str, Any]) -> None:
    """Delete archives that are offered no more, and let erasures that failed begin again."""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            await forget_expired(connection, datetime.now(UTC))
            await try_failed_again(connection)
    except Exception as error:  # noqa: BLE001 - the next time tries again, whatever it was
        logger.warning("archives could not be deleted, and are with the next time: %s", _kind(error))


async def sweep_batches(ctx: dict[str, Any]) -> None:
    """Forget which batches are stored, once the queue cannot hand them out again."""
    last: str | None = ""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS):
            while last is not None:
                async with _engine(ctx).begin() as connection:
                    last = await sweep(connection, ctx["redis"], after=last)
    except Exception as error:  # noqa: BLE001 - the next minute tries again, whatever it was
        logger.warning("stored batches could not be forgotten, and are with the next minute: %s", _kind(error))


async def make_partitions_ahead(ctx: dict[str, Any]) -> None:
    """Make the weekly partitions that are missing."""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            await make_partitions(connection, datetime.now(UTC), ctx["anonymize_after_days"])
    except Exception as error:
        logger.warning("partitions could not be made, and are tried again in %d s: %s", LONGEST_PAUSE, _kind(error))
        raise Retry(defer=LONGEST_PAUSE) from error


async def rebuild_indexes(ctx: dict[str, Any]) -> None:
    """Write anew one index that a week that is over has left half empty."""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).begin() as connection:
            await rebuild_index(connection, datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - the next minute tries again, whatever it was
        logger.warning("an index could not be written anew, and is with the next minute: %s", _kind(error))


async def retain_daily(ctx: dict[str, Any]) -> None:
    """See that somebody does the run that is due since 02:00 UTC, where it is. Broken off, the next minute goes on."""

    async def retain_all() -> None:
        async with _engine(ctx).connect() as connection:
            if not await is_due(connection, datetime.now(UTC)):
                return
        run = retain(_engine(ctx), ctx["redis"], datetime.now(UTC), ctx["policy"], wait=False)
        async with contextlib.aclosing(run):
            async for done in run:
                logger.info("too old: %s of %s", done.step, done.part or done.table, extra={"rows": done.rows})

    _beside(ctx, "what has grown too old is still there", retain_all)


async def watch_retention(ctx: dict[str, Any]) -> None:
    """Say in the log where something names somebody for more than a day longer than promised."""
    try:
        async with asyncio.timeout(SECONDS_OF_OURS), _engine(ctx).connect() as connection:
            if not await is_kept(connection, datetime.now(UTC), ctx["policy"]):
                logger.warning("rows that name somebody are kept for longer than promised: see `questlog retention`")
    except Exception as error:  # noqa: BLE001 - the next hour looks again, whatever it was
        logger.warning("how long rows name somebody is not known, and looked at next hour: %s", _kind(error))


async def _begin(ctx: dict[str, Any]) -> None:
    """Be ready for jobs, and tell others every second that this worker is alive."""
    ctx["commits"] = GroupCommit(
        _engine(ctx),
        ctx["redis"],
        anonymize_after_days=ctx["anonymize_after_days"],
        consent_rule=ctx["consent_rule"],
    )
    name = ctx["name"] = uuid4().hex

    ctx["is_ending"] = False

    async def show_forever() -> None:
        while not ctx["is_ending"]:  # a cancellation may be swallowed
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
    ctx["is_ending"] = True
    lasting = [ctx["life"], *ctx["beside"].values()]
    for task in lasting:
        task.cancel()
    await asyncio.gather(*lasting, return_exceptions=True)
    await ctx["commits"].close()
    with contextlib.suppress(RedisError, OSError):
        await ctx["redis"].zrem(WORKERS, ctx["name"])
    await _engine(ctx).dispose()
