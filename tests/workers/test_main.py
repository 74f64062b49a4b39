"""The worker: whatever becomes of it, of PostgreSQL or of a batch, each event is stored, and once."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.horizon import horizon
from models.partition import AHEAD, rebuild_index
from models.user import UserRole
from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.process import ended
from tests.histories import as_input, as_tracked
from tests.platform import Platform, new_api, until, working
from tests.recomputation import Event
from tests.workers.storing import DAYS, NOW, visit
from workers.batch import GroupCommit
from workers.event import store
from workers.main import BATCHES_BEHIND, Rounds, make_partitions_ahead, rebuild_indexes, roll_up_all, store_batch
from workers.queue import encode_batch, enqueue, open_queue
from workers.rollup import SUBJECTS_AT_ONCE

ADA = (Role.STUDENT, "ada")
MINUTE = timedelta(minutes=1)
PARTITIONED = ("user_activity_events", "error_events", "user_sessions", "daily_contributions")
PARTITIONS = (
    "SELECT parent.relname, part.relname, part.oid::bigint FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid"
    " JOIN pg_class parent ON parent.oid = inhparent WHERE parent.relkind = 'p' ORDER BY 1, 2"
)


@pytest.fixture
async def api(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An API without a worker."""
    async with new_api(servers, tmp_path) as running:
        yield running


@pytest.fixture
async def queue(api: Platform) -> AsyncIterator[ArqRedis]:
    """The queue of the API."""
    queue = await open_queue(api.settings.redis_url or "")
    yield queue
    await queue.aclose(close_connection_pool=True)


@contextlib.contextmanager
def worker_process(api: Platform) -> Iterator[subprocess.Popen[bytes]]:
    """`questlog work` as a process of its own, killed in the end if it still runs."""
    environ = {**os.environ, **api.settings.environ()}
    process = subprocess.Popen([sys.executable, "-m", "questlog", "work"], env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def rows(api: Platform, statement: str) -> list[tuple[object, ...]]:
    async with api.superuser.begin() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def stored(api: Platform) -> int:
    ((number,),) = await rows(api, "SELECT count(*) FROM user_activity_events")
    assert isinstance(number, int)
    return number


async def until_stored(api: Platform, number: int) -> None:
    async def enough() -> bool:
        return await stored(api) >= number

    await until(enough)


async def send(api: Platform, events: Sequence[Event], size: int = 100) -> None:
    """Through the API, in batches that are jobs of their own."""
    for start in range(0, len(events), size):
        batch = [as_input(event, "ada") for event in events[start : start + size]]
        assert (await api.track(batch, ADA))["accepted"] == len(batch)


async def check_all_are_there_once(api: Platform, events: Sequence[Event]) -> None:
    """Both the events and what is derived from them."""
    await api.settle()
    kept = await rows(api, "SELECT event_id FROM user_activity_events ORDER BY 1")
    assert kept == sorted((event.event_id,) for event in events)
    assert await rows(api, "SELECT sum(events) FROM daily_activity") == [(len(events),)]
    journey = "SELECT count(*), count(DISTINCT event_id) FROM learning_journey_events"
    quests = sum(event.type == "quest_started" for event in events)
    assert await rows(api, journey) == [(quests, quests)]


def some(number: int) -> list[Event]:
    return [visit(NOW - index * MINUTE, kind="quest_started", questId=f"q{index % 9}") for index in range(number)]


@contextlib.asynccontextmanager
async def nobody_may_insert(api: Platform) -> AsyncIterator[AsyncConnection]:
    """A lock on the events, for which whoever stores some waits; closing the connection lets them go on."""
    async with api.superuser.connect() as connection:
        await connection.execute(text("LOCK TABLE user_activity_events IN SHARE MODE"))
        yield connection


async def until_a_worker_waits(api: Platform) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'questlog worker' AND wait_event_type = 'Lock'"
    )

    async def somebody_waits() -> bool:
        return await rows(api, waiting) != [(0,)]

    await until(somebody_waits)


@pytest.mark.long
async def test_killing_a_worker_in_the_middle_of_a_load_loses_nothing_and_doubles_nothing(api: Platform) -> None:
    events = some(6000)
    await send(api, events)
    for done in (500, 2000):
        with worker_process(api) as worker:
            await until_stored(api, done)
            worker.send_signal(signal.SIGKILL)
    assert await stored(api) < len(events)
    with worker_process(api):
        await until_stored(api, len(events))
        await check_all_are_there_once(api, events)


@pytest.mark.long
async def test_a_worker_killed_in_the_middle_of_a_transaction_has_stored_nothing_of_it(api: Platform) -> None:
    events = some(50)
    await send(api, events)
    async with nobody_may_insert(api):
        with worker_process(api) as worker:
            await until_a_worker_waits(api)
            worker.send_signal(signal.SIGKILL)
    assert await stored(api) == 0
    with worker_process(api):
        await until_stored(api, len(events))
        await check_all_are_there_once(api, events)


async def test_sigterm_lets_a_worker_finish_what_it_has_begun(api: Platform) -> None:
    events = some(50)
    await send(api, events)
    async with nobody_may_insert(api) as lock:
        with worker_process(api) as worker:
            await until_a_worker_waits(api)
            worker.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert worker.poll() is None
            await lock.rollback()
            assert await ended(worker) == 0
    assert await stored(api) == len(events)
    assert await batches(api, "job") == []


async def test_sigterm_leaves_what_is_not_begun_to_the_next_worker(api: Platform) -> None:
    events = some(2000)
    await send(api, events, size=8)  # arq knows of 120 jobs beforehand
    async with nobody_may_insert(api) as lock:
        with worker_process(api) as worker:
            await until_a_worker_waits(api)
            worker.send_signal(signal.SIGTERM)
            await lock.rollback()
            assert await ended(worker) == 0
    assert 0 < await stored(api) < len(events)
    async with working(api):
        await until_stored(api, len(events))
        await check_all_are_there_once(api, events)


async def test_a_batch_that_cannot_be_stored_is_kept_until_it_can(api: Platform) -> None:
    events = some(20)
    async with working(api):
        await rows_changed(api, "REVOKE INSERT ON user_activity_events FROM questlog_worker")
        await send(api, events)
        await until_retried(api)
        assert await stored(api) == 0
        await rows_changed(api, "GRANT INSERT ON user_activity_events TO questlog_worker")
        await until_stored(api, len(events))
        await check_all_are_there_once(api, events)


async def test_what_nobody_can_read_is_kept_too(api: Platform, queue: ArqRedis) -> None:
    async with commits(api, queue) as ctx:
        with pytest.raises(Retry) as retry:
            await store_batch(ctx | {"job_try": 3, "job_id": "a"}, b"no batch")
    assert retry.value.defer_score == 8000


@asynccontextmanager
async def commits(api: Platform, queue: ArqRedis) -> AsyncIterator[dict[str, Any]]:
    """What a worker's jobs find in their context."""
    commits = GroupCommit(api.worker_engine, queue, anonymize_after_days=DAYS)
    try:
        yield {"redis": queue, "commits": commits}
    finally:
        await commits.close()


@pytest.mark.long
async def test_a_worker_outlives_a_restart_of_postgresql(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(own_servers, tmp_path) as api:
        before, meanwhile = some(100)[:50], some(100)[50:]
        with worker_process(api) as worker:
            await send(api, before)
            await until_stored(api, len(before))
            await own_servers.postgres.stop()
            await send(api, meanwhile)
            await until_retried(api)
            await own_servers.postgres.start()
            await api.superuser.dispose()
            await api.worker_engine.dispose()
            await until_stored(api, 100)
            assert worker.poll() is None
            await check_all_are_there_once(api, before + meanwhile)


async def test_partitions_are_made_from_the_horizon_to_four_weeks_ahead_and_once(api: Platform) -> None:
    now = datetime.now(UTC)
    first = horizon(now, DAYS)
    weeks = (now + AHEAD - first) // timedelta(weeks=1) + 1
    wanted = {f"{table}_{first + week * timedelta(weeks=1):%Y%m%d}" for table in PARTITIONED for week in range(weeks)}
    for name in sorted(wanted)[::5]:
        await rows_changed(api, f"DROP TABLE {name}")
    ctx = {"engine": api.worker_engine, "anonymize_after_days": DAYS}
    await make_partitions_ahead(ctx)
    made = await rows(api, PARTITIONS)
    assert {name for _, name, _ in made} == wanted
    await asyncio.gather(make_partitions_ahead(ctx), make_partitions_ahead(ctx))
    assert await rows(api, PARTITIONS) == made
    bare = (
        "SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'"
        " AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert await rows(api, bare) == [(0,)]


async def rows_changed(api: Platform, statement: str) -> None:
    """Run a statement that gives no rows, as the login that bypasses every rule."""
    async with api.superuser.begin() as connection:
        await connection.execute(text(statement))


async def until_retried(api: Platform) -> None:
    """Return once a batch failed and waits to be tried again."""

    async def put_back() -> bool:
        return bool(await batches(api, "retry")) and not await batches(api, "in-progress")

    await until(put_back)


async def batches(api: Platform, state: str) -> list[bytes]:
    """arq's keys of this state, but for those of the timetable."""
    queue = await open_queue(api.settings.redis_url or "")
    found: list[bytes] = await queue.keys(f"arq:{state}:*")
    await queue.aclose(close_connection_pool=True)
    return [key for key in found if b":cron:" not in key]


async def test_a_batch_that_is_cancelled_while_it_waits_is_tried_again(api: Platform, queue: ArqRedis) -> None:
    await api.upsert({"userId": "ada", "role": "STUDENT"})
    await enqueue(queue, [[as_tracked(visit(NOW), "ada")]])
    (key,) = await batches(api, "job")
    batch = encode_batch([as_tracked(visit(NOW), "ada")])
    async with commits(api, queue) as ctx:
        ctx |= {"job_try": 1, "job_id": key.decode().removeprefix(job_key_prefix)}
        async with api.superuser.begin() as connection:
            await connection.execute(text("LOCK TABLE user_activity_events IN ACCESS EXCLUSIVE MODE"))
            storing = asyncio.create_task(store_batch(ctx, batch))
            await asyncio.sleep(0.2)
            storing.cancel()
            storing.cancel()
            with pytest.raises(Retry):
                await storing
        await store_batch(ctx, batch)
    assert await rows(api, "SELECT count(*) FROM user_activity_events") == [(1,)]


async def test_while_batches_pile_up_few_figures_are_derived(api: Platform, queue: ArqRedis) -> None:
    async with api.worker_engine.begin() as connection:
        batch = [as_tracked(visit(NOW), f"pupil {index}", UserRole.STUDENT) for index in range(3 * SUBJECTS_AT_ONCE)]
        await store(connection, batch, anonymize_after_days=DAYS)
    ctx = {"redis": queue, "engine": api.worker_engine, "anonymize_after_days": DAYS, "rounds": Rounds()}
    piled_up = {f"batch {index}": index for index in range(BATCHES_BEHIND + 1)}
    await queue.zadd(default_queue_name, piled_up)
    await roll_up_all(ctx)
    assert await api.dirty() == 2 * SUBJECTS_AT_ONCE
    await queue.delete(default_queue_name)
    await roll_up_all(ctx)
    assert await api.dirty() == 0


GROWN = """
INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, from_service, event_type, event_data)
SELECT gen_random_uuid(), gen_random_uuid(), $1::timestamptz + number * interval '1 s', $1, false, 'x', '{}'
FROM generate_series(1, 5000) AS number
"""
INDEXES = (
    "SELECT indexrelid::regclass::text, pg_relation_size(indexrelid), pg_relation_filenode(indexrelid)::bigint"
    " FROM pg_index JOIN pg_inherits ON inhrelid = indrelid WHERE inhparent = 'user_activity_events'::regclass"
    " AND pg_get_indexdef(indexrelid) LIKE '%USING btree%' AND pg_relation_size(indexrelid) >= 32768"
)


async def test_indexes_of_weeks_that_are_over_are_written_anew_once(
    api: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    weeks = [NOW - timedelta(days=ago) for ago in (30, 16, 14, 0)]
    async with api.superuser.begin() as connection:
        for at in weeks:
            await connection.exec_driver_sql(GROWN, (at.replace(hour=1),))
    grown = await files_of_indexes(api)
    ctx = {"engine": api.worker_engine}
    async with api.superuser.begin() as connection:
        await connection.execute(text("LOCK TABLE user_activity_events IN ROW EXCLUSIVE MODE"))
        await rebuild_indexes(ctx)
    assert "an index could not be written anew" in caplog.text
    assert await files_of_indexes(api) == grown
    async with api.worker_engine.begin() as connection:
        while await rebuild_index(connection, NOW):
            pass
    rebuilt = await files_of_indexes(api)
    over = {name for name in grown if _monday(name) + timedelta(days=7) <= (NOW - timedelta(days=8)).date()}
    assert {name for name in grown if rebuilt[name][1] != grown[name][1]} == over
    assert 2 <= len(over) < len(grown)
    assert all(rebuilt[name][0] < grown[name][0] for name in over if name.endswith("_pkey"))
    await rebuild_indexes(ctx)
    assert await files_of_indexes(api) == rebuilt
    assert await rows(api, "SELECT count(*) FROM user_activity_events") == [(20000,)]


async def files_of_indexes(api: Platform) -> dict[str, tuple[int, int]]:
    """The size and the file of each larger B-tree of events, by name."""
    async with api.superuser.connect() as connection:
        return {name: (size, file) for name, size, file in await connection.execute(text(INDEXES))}


def _monday(index: str) -> date:
    return datetime.strptime(index.split("_")[3], "%Y%m%d").replace(tzinfo=UTC).date()
