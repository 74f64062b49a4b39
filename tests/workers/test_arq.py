"""arq carries every batch until it is stored: whatever a worker does not know, cannot read or does not end in time."""

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from arq import func
from arq.connections import ArqRedis, RedisSettings
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.worker import Worker
from sqlalchemy import text

from models.event import TrackedEvent
from models.user import UserRole
from questlog.embedded import EmbeddedServers
from questlog.process import ended
from tests.histories import as_tracked
from tests.platform import Platform, new_api, until, working
from tests.walks.test_faults import standing_still
from tests.workers.storing import DAYS, NOW, visit
from tests.workers.test_main import nobody_may_insert, until_a_worker_waits, worker_process
from workers.batch import GroupCommit
from workers.ledger import ledger
from workers.main import SECONDS_OF_ARQ, create_worker, run, store_batch
from workers.queue import encode_batch, enqueue, open_queue

ENCODE = msgspec.msgpack.encode
SECONDS_UNTIL_ANOTHER_HAS_IT = 45


@pytest.fixture
async def api(own_servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An API without a worker, on servers that a test may kill."""
    async with new_api(own_servers, tmp_path) as running:
        yield running


@pytest.fixture
async def queue(api: Platform) -> AsyncIterator[ArqRedis]:
    """The queue of the API."""
    queue = await open_queue(api.settings.redis_url or "")
    yield queue
    await queue.aclose(close_connection_pool=True)


@pytest.fixture
def batch() -> list[TrackedEvent]:
    return [as_tracked(visit(NOW), "ada", UserRole.STUDENT) for _ in range(20)]


async def put(queue: ArqRedis, batch: Sequence[TrackedEvent]) -> str:
    """Accept a batch; gives its id."""
    await enqueue(queue, [batch])
    return str((await queue.zrange(default_queue_name, 0, -1))[-1].decode())


async def tried(queue: ArqRedis, batch_id: str) -> bool:
    """Whether a worker had it in hand and put it back."""
    tries, in_hand = await queue.mget(retry_key_prefix + batch_id, in_progress_key_prefix + batch_id)
    return bool(tries) and not in_hand


async def hand_out_now(queue: ArqRedis, batch_id: str) -> None:
    """Let a batch's pause be over."""
    await queue.zadd(default_queue_name, {batch_id: 1}, xx=True)


async def check_stored_once(api: Platform, queue: ArqRedis, batch: Sequence[TrackedEvent]) -> None:
    """Exactly these events are in the table, nothing waits, and the ledger adds up."""

    async def nothing_waits() -> bool:
        return not [job for job in await queue.zrange(default_queue_name, 0, -1) if not job.startswith(b"cron:")]

    await until(nothing_waits)
    async with api.worker_engine.connect() as connection:
        told = await ledger(connection, queue)
        kept = await connection.scalars(text("SELECT event_id FROM user_activity_events ORDER BY 1"))
        assert kept.all() == sorted(event.event_id for event in batch)
    assert told.adds_up
    assert (told.accepted, told.stored, told.waiting) == (len(batch), len(batch), 0)


def of_another_name(batch: bytes) -> bytes:
    return ENCODE({"f": "store_tomorrow", "a": (batch,), "k": {}, "t": None, "et": 1})


def with_another_argument(batch: bytes) -> bytes:
    return ENCODE({"f": "store_batch", "a": (batch, "tomorrow"), "k": {}, "t": None, "et": 1})


def in_another_format(batch: bytes) -> bytes:
    return pickle.dumps({"f": "store_batch", "a": (batch,), "k": {}, "t": None, "et": 1})


def with_another_field(batch: bytes) -> bytes:
    longer = [[*event, "tomorrow's"] for event in msgspec.msgpack.decode(batch)]
    return ENCODE({"f": "store_batch", "a": (ENCODE(longer),), "k": {}, "t": None, "et": 1})


@pytest.mark.parametrize("as_tomorrow", [of_another_name, with_another_argument, in_another_format, with_another_field])
async def test_what_only_a_newer_worker_understands_is_left_to_it(
    api: Platform, queue: ArqRedis, batch: list[TrackedEvent], as_tomorrow: Any
) -> None:
    batch_id = await put(queue, batch)
    understood = await queue.get(job_key_prefix + batch_id)
    newer = as_tomorrow(encode_batch(batch))
    await queue.set(job_key_prefix + batch_id, newer, keepttl=True)
    async with working(api):
        for _ in range(2):
            await queue.delete(retry_key_prefix + batch_id)
            await hand_out_now(queue, batch_id)
            await until(lambda: tried(queue, batch_id))
    assert await queue.get(job_key_prefix + batch_id) == newer
    assert await queue.zscore(default_queue_name, batch_id)
    await queue.set(job_key_prefix + batch_id, understood, keepttl=True)
    await hand_out_now(queue, batch_id)
    async with working(api):
        await check_stored_once(api, queue, batch)


async def test_a_newer_worker_does_what_an_older_one_left(
    api: Platform, queue: ArqRedis, batch: list[TrackedEvent]
) -> None:
    batch_id = await put(queue, batch)
    await queue.set(job_key_prefix + batch_id, of_another_name(encode_batch(batch)), keepttl=True)
    async with working(api):
        await until(lambda: tried(queue, batch_id))
    await hand_out_now(queue, batch_id)
    newer = Worker(
        functions=[func(store_batch, name="store_tomorrow", timeout=SECONDS_OF_ARQ, keep_result=0)],
        redis_settings=RedisSettings.from_dsn(api.settings.redis_url or ""),
        job_deserializer=msgspec.msgpack.decode,
        burst=True,
        handle_signals=False,
        ctx={"commits": (commits := GroupCommit(api.worker_engine, queue, anonymize_after_days=DAYS))},
    )
    await newer.async_run()
    await newer.close()
    await commits.close()
    await check_stored_once(api, queue, batch)


async def test_a_worker_whose_valkey_goes_away_ends_in_order_and_says_so(
    own_servers: EmbeddedServers,
    api: Platform,
    queue: ArqRedis,
    batch: list[TrackedEvent],
    capfd: pytest.CaptureFixture[str],
) -> None:
    await put(queue, batch)
    with worker_process(api) as worker:
        async with nobody_may_insert(api):
            await until_a_worker_waits(api)
            assert own_servers.valkey.process
            own_servers.valkey.process.kill()
            await ended(own_servers.valkey.process)
            assert await ended(worker) == 1
    await own_servers.valkey.start()
    *warnings, last = [orjson.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    assert last == "Valkey is gone, and so is this worker: start it again"
    assert "unhandled" not in " ".join(warnings)


@pytest.mark.long
async def test_a_worker_whose_valkey_stands_still_ends_and_nothing_is_lost_or_doubled(
    own_servers: EmbeddedServers, api: Platform, queue: ArqRedis, batch: list[TrackedEvent]
) -> None:
    hurried = {"redis_url": f"{api.settings.redis_url}?socket_timeout=5"}
    impatient = replace(api, settings=api.settings.model_copy(update=hurried))
    assert own_servers.valkey.process
    with worker_process(impatient) as worker:
        await put(queue, batch[:10])
        await check_stored_once(api, queue, batch[:10])
        async with nobody_may_insert(api):
            batch_id = await put(queue, batch[10:])
            await until_a_worker_waits(api)
            with standing_still(own_servers.valkey.process.pid):
                assert await ended(worker) == 1
    await queue.delete(in_progress_key_prefix + batch_id)
    with worker_process(impatient):
        await check_stored_once(api, queue, batch)


@pytest.fixture
async def own_worker(api: Platform, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker in this process, which a signal ends, and which waits for its jobs but shortly then."""
    monkeypatch.setattr("workers.main.SECONDS_TO_FINISH", 0.5)
    worker = create_worker(
        api.logins.worker,
        api.settings.redis_url or "",
        anonymize_after_days=DAYS,
        erasure_key=api.settings.erasure_key,
    )
    yield worker
    for each in (signal.SIGTERM, signal.SIGINT):
        worker.loop.remove_signal_handler(each)


async def test_a_signal_before_a_worker_runs_ends_it(own_worker: Worker) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    await run(own_worker)


async def test_a_signal_before_a_worker_has_begun_anything_ends_it(
    own_servers: EmbeddedServers, own_worker: Worker
) -> None:
    assert own_servers.valkey.process
    with standing_still(own_servers.valkey.process.pid):
        running = asyncio.create_task(run(own_worker))
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        await running


async def test_a_worker_that_cannot_finish_its_jobs_in_time_ends_in_order(
    api: Platform, queue: ArqRedis, own_worker: Worker
) -> None:
    async def is_finishing() -> bool:
        """Whether a job is done, and Valkey does not let its worker say so."""
        return bool(set(own_worker.tasks) - set(own_worker.job_tasks))

    async def has_given_up() -> bool:
        return own_worker.main_task is not None and own_worker.main_task.done()

    running = asyncio.create_task(run(own_worker))
    async with api.superuser.connect() as connection:
        await connection.execute(text("LOCK TABLE dirty_spans IN ACCESS EXCLUSIVE MODE"))
        await until_a_worker_waits(api)
        await queue.client_pause(60_000, all=False)
    await until(is_finishing)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(has_given_up)
    await queue.client_unpause()
    await running


async def test_partitions_that_could_not_be_made_are_tried_again(
    own_servers: EmbeddedServers, api: Platform, queue: ArqRedis, caplog: pytest.LogCaptureFixture
) -> None:
    await own_servers.postgres.stop()
    async with working(api):
        await until(lambda: told(caplog, "partitions could not be made"))
    await own_servers.postgres.start()
    (job,) = [each.decode() for each in await queue.zrange(default_queue_name, 0, -1) if b"make_partitions" in each]
    # arq keeps a timetable's job for a minute, lest another worker's clock makes it run twice.
    await queue.delete(in_progress_key_prefix + job)
    await hand_out_now(queue, job)

    async def is_done() -> bool:
        return not await queue.exists(job_key_prefix + job)

    async with working(api):
        await until(is_done)
    assert "max retries" not in caplog.text
    await api.superuser.dispose()
    await api.worker_engine.dispose()


async def told(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    """Whether the log says so."""
    return what in caplog.text


@pytest.mark.parametrize(("ours", "arqs"), [(0.3, 20), (60, 0.3)])
async def test_a_batch_that_takes_too_long_is_tried_again(
    api: Platform,
    queue: ArqRedis,
    batch: list[TrackedEvent],
    monkeypatch: pytest.MonkeyPatch,
    ours: float,
    arqs: float,
) -> None:
    monkeypatch.setattr("workers.main.SECONDS_OF_OURS", ours)
    monkeypatch.setattr("workers.main.SECONDS_OF_ARQ", arqs)
    batch_id = await put(queue, batch)
    async with nobody_may_insert(api), working(api):
        await until(lambda: tried(queue, batch_id))
    monkeypatch.undo()
    await hand_out_now(queue, batch_id)
    async with working(api):
        await check_stored_once(api, queue, batch)


async def test_no_try_is_the_last(api: Platform, queue: ArqRedis, batch: list[TrackedEvent]) -> None:
    batch_id = await put(queue, batch)
    await queue.set(retry_key_prefix + batch_id, 1_000_000)
    async with working(api):
        await check_stored_once(api, queue, batch)


async def test_a_batch_in_a_dead_workers_hands_is_free_within_45_s_also_where_valkey_was_restarted(
    own_servers: EmbeddedServers, api: Platform, queue: ArqRedis, batch: list[TrackedEvent]
) -> None:
    batch_id = await put(queue, batch)
    await die_with_the_batch_in_hand(api, own_servers)
    held = await queue.pttl(in_progress_key_prefix + batch_id)
    assert 0 < held < 1000 * (SECONDS_UNTIL_ANOTHER_HAS_IT - 10)
    assert await queue.get(job_key_prefix + batch_id)
    await queue.delete(in_progress_key_prefix + batch_id)
    async with working(api):
        await check_stored_once(api, queue, batch)


@pytest.mark.long
async def test_another_worker_has_a_dead_ones_batch(
    own_servers: EmbeddedServers, api: Platform, queue: ArqRedis, batch: list[TrackedEvent]
) -> None:
    await put(queue, batch)
    await die_with_the_batch_in_hand(api, own_servers)
    with worker_process(api):
        await check_stored_once(api, queue, batch)


@pytest.mark.long
async def test_another_worker_has_the_batch_of_one_that_stands_still(
    api: Platform, queue: ArqRedis, batch: list[TrackedEvent]
) -> None:
    await put(queue, batch[:10])
    with worker_process(api) as still:
        await check_stored_once(api, queue, batch[:10])
        async with nobody_may_insert(api):
            await put(queue, batch[10:])
            await until_a_worker_waits(api)
            still.send_signal(signal.SIGSTOP)
        with worker_process(api):
            await check_stored_once(api, queue, batch)
        still.send_signal(signal.SIGCONT)


async def die_with_the_batch_in_hand(api: Platform, servers: EmbeddedServers) -> None:
    """Kill a worker in the middle of its transaction, then Valkey, and start Valkey again."""
    async with nobody_may_insert(api):
        with worker_process(api) as worker:
            await until_a_worker_waits(api)
            worker.send_signal(signal.SIGKILL)
            await ended(worker)
        assert servers.valkey.process
        servers.valkey.process.kill()
        await ended(servers.valkey.process)
        await servers.valkey.start()
