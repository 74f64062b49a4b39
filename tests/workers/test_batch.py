"""What many jobs bring is stored in one transaction, and nobody's batch suffers from another's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from arq.connections import ArqRedis
from sqlalchemy import func, select, text

from models.event import TrackedEvent, UserActivityEvent
from models.ledger import list_set_aside
from models.user import UserRole
from questlog.embedded import EmbeddedServers
from tests.histories import as_tracked
from tests.platform import Platform, new_api
from tests.workers.storing import DAYS, NOW, visit
from workers.batch import GroupCommit
from workers.ledger import ledger
from workers.queue import ACCEPTED, WAITING, cut, encode_batch, open_queue

TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM user_activity_events"


@pytest.fixture
async def api(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    async with new_api(servers, tmp_path) as running:
        yield running


@pytest.fixture
async def queue(api: Platform) -> AsyncIterator[ArqRedis]:
    opened = await open_queue(api.settings.redis_url or "")
    yield opened
    await opened.aclose(close_connection_pool=True)


@pytest.fixture
async def commits(api: Platform, queue: ArqRedis) -> AsyncIterator[GroupCommit]:
    running = GroupCommit(api.worker_engine, queue, anonymize_after_days=DAYS)
    yield running
    await running.close()


def some(number: int, **changes: Any) -> list[TrackedEvent]:
    return [msgspec.structs.replace(as_tracked(visit(NOW), "ada", UserRole.STUDENT), **changes) for _ in range(number)]


async def accepted(queue: ArqRedis, events: list[TrackedEvent]) -> tuple[str, bytes]:
    """A batch as a job brings it, which waits."""
    batch_id = uuid4().hex
    async with queue.pipeline() as noting:
        noting.hset(WAITING, batch_id, f"{len(events)} 0")
        noting.incrby(ACCEPTED, len(events))
        await noting.execute()
    return batch_id, encode_batch(events)


async def stored(api: Platform) -> int:
    async with api.superuser.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(UserActivityEvent)) or 0


async def check_at_rest(api: Platform, queue: ArqRedis) -> None:
    async with api.worker_engine.connect() as connection:
        told = await ledger(connection, queue)
    assert told.adds_up
    assert told.waiting == 0


async def test_what_comes_together_is_stored_together(api: Platform, queue: ArqRedis, commits: GroupCommit) -> None:
    batches = [await accepted(queue, some(3)) for _ in range(20)]
    await asyncio.gather(*(commits.store(*batch) for batch in batches))
    assert await stored(api) == 60
    async with api.superuser.connect() as connection:
        assert (await connection.scalar(text(TRANSACTIONS)) or 0) < 10
    await check_at_rest(api, queue)


async def test_a_batch_that_comes_again_is_counted_once(api: Platform, queue: ArqRedis, commits: GroupCommit) -> None:
    batch = await accepted(queue, some(3))
    await asyncio.gather(*(commits.store(*batch) for _ in range(5)))
    await commits.store(*batch)
    await check_at_rest(api, queue)


async def test_what_waits_no_more_is_not_counted_though_its_claim_is_forgotten(
    api: Platform, queue: ArqRedis, commits: GroupCommit
) -> None:
    batch = await accepted(queue, some(3))
    await commits.store(*batch)
    async with api.superuser.begin() as connection:
        await connection.execute(text("DELETE FROM stored_batches"))
    await commits.store(*batch)
    await check_at_rest(api, queue)


async def test_an_event_that_cannot_be_stored_holds_up_nobody(
    api: Platform, queue: ArqRedis, commits: GroupCommit
) -> None:
    good = [await accepted(queue, some(3)) for _ in range(5)]
    bad = await accepted(queue, [*some(2), *some(1, page_title="\0")])
    await asyncio.gather(*(commits.store(*batch) for batch in [*good, bad]))
    assert await stored(api) == 17
    async with api.worker_engine.connect() as connection:
        assert len(await list_set_aside(connection)) == 1
    await check_at_rest(api, queue)


async def test_a_batch_that_nobody_can_read_fails_alone(api: Platform, queue: ArqRedis, commits: GroupCommit) -> None:
    good = [await accepted(queue, some(3)) for _ in range(5)]
    *others, unreadable = await asyncio.gather(
        *(commits.store(*batch) for batch in [*good, ("unreadable", b"no batch")]), return_exceptions=True
    )
    assert others == [None] * 5
    assert isinstance(unreadable, msgspec.MsgspecError)
    assert await stored(api) == 15


async def test_whoever_waits_at_the_end_is_cancelled(api: Platform, queue: ArqRedis) -> None:
    commits = GroupCommit(api.worker_engine, queue, anonymize_after_days=DAYS)
    async with api.superuser.begin() as connection:
        await connection.execute(text("LOCK TABLE user_activity_events IN ACCESS EXCLUSIVE MODE"))
        batches = [await accepted(queue, some(500)) for _ in range(5)]
        waiting = [asyncio.create_task(commits.store(*batch)) for batch in batches]
        await asyncio.sleep(0.1)
        await commits.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5
    with pytest.raises(ConnectionError):
        await commits.store(*batches[0])
    assert await stored(api) == 0


def test_batches_are_cut_by_number_and_by_size() -> None:
    assert [len(batch) for batch in cut(some(1200))] == [500, 500, 200]
    large = some(40, data='{"x": "' + "y" * 8000 + '"}')
    assert [len(batch) for batch in cut(large)] == [17, 17, 6]
    assert list(cut([])) == []
