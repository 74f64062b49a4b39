"""Taking events: what is acknowledged is on disk, in few jobs, and what is not acknowledged is nowhere."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from arq.connections import ArqRedis

from models.event import TrackedEvent
from models.user import UserRole
from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.process import ended
from tests.histories import as_input, as_tracked
from tests.platform import TRACK, Platform, new_api
from tests.workers.storing import NOW, visit
from workers.intake import Intake, decode_batch, open_queue

ADA = (Role.STUDENT, "ada")


@pytest.fixture
async def queue(servers: EmbeddedServers) -> AsyncIterator[ArqRedis]:
    """An empty queue, from which nobody takes."""
    queue = await open_queue(servers.redis_url)
    await queue.flushdb()
    yield queue
    await queue.flushdb()
    await queue.aclose(close_connection_pool=True)


@pytest.fixture
async def api(own_servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An API whose servers may be stopped and killed."""
    async with new_api(own_servers, tmp_path) as running:
        yield running


def some(number: int) -> list[TrackedEvent]:
    return [as_tracked(visit(NOW), "ada", UserRole.STUDENT) for _ in range(number)]


async def jobs(queue: ArqRedis) -> list[dict[str, Any]]:
    """Every job in the queue, as it stands there."""
    ids = await queue.zrange("arq:queue", 0, -1)
    return [msgspec.msgpack.decode(await queue.get(b"arq:job:" + job)) for job in ids]


async def queued(queue: ArqRedis) -> list[list[TrackedEvent]]:
    """The batch of every job in the queue, the largest first."""
    batches = [decode_batch(job["a"][0]) for job in await jobs(queue)]
    return sorted(batches, key=len, reverse=True)


async def kill_valkey(servers: EmbeddedServers) -> None:
    process = servers.valkey.process
    assert process is not None
    process.kill()
    await ended(process)


async def test_what_many_requests_hand_in_together_becomes_one_job(queue: ArqRedis) -> None:
    intake = Intake(queue)
    events = some(300)
    await asyncio.gather(*(intake.keep([event]) for event in events))
    assert await queued(queue) == [events]
    await intake.close()


async def test_a_batch_has_at_most_500_events(queue: ArqRedis) -> None:
    intake = Intake(queue)
    handed_in = [some(400), some(500), some(301)]
    await asyncio.gather(*(intake.keep(events) for events in handed_in))
    batches = await queued(queue)
    assert [len(batch) for batch in batches] == [500, 500, 201]
    kept = {event.event_id for batch in batches for event in batch}
    assert kept == {event.event_id for events in handed_in for event in events}
    await intake.close()


async def test_closing_commits_what_waits_and_then_takes_no_more(queue: ArqRedis) -> None:
    intake = Intake(queue)
    events = some(20)
    waiting = [asyncio.create_task(intake.keep([event])) for event in events]
    await asyncio.sleep(0)
    await intake.close()
    assert await queued(queue) == [events]
    await asyncio.gather(*waiting)
    with pytest.raises(ConnectionError):
        await intake.keep(some(1))
    assert await queued(queue) == [events]


async def test_closing_commits_also_what_came_while_others_were_committed(queue: ArqRedis) -> None:
    intake = Intake(queue)
    events = some(60)
    tasks = []
    for event in events:
        tasks.append(asyncio.create_task(intake.keep([event])))
        await asyncio.sleep(0.0005)
    await intake.close()
    await asyncio.gather(*tasks)
    assert {event.event_id for batch in await queued(queue) for event in batch} == {event.event_id for event in events}


async def test_a_request_that_goes_away_takes_nobody_along(queue: ArqRedis) -> None:
    intake = Intake(queue)
    going, staying = (asyncio.create_task(intake.keep(some(1))) for _ in range(2))
    await asyncio.sleep(0)
    going.cancel()
    await staying
    await intake.keep(some(1))
    assert sum(map(len, await queued(queue))) == 3
    await intake.close()


async def test_the_queue_holds_messagepack_for_a_month(queue: ArqRedis) -> None:
    intake = Intake(queue)
    await intake.keep(some(1))
    await intake.close()
    (job,) = await jobs(queue)
    assert job["f"] == "store_batch"
    (job_id,) = await queue.zrange("arq:queue", 0, -1)
    assert await queue.ttl(b"arq:job:" + job_id) > timedelta(days=29).total_seconds()


async def test_what_is_acknowledged_is_in_the_append_only_file_and_survives_a_kill(
    own_servers: EmbeddedServers, api: Platform
) -> None:
    event = visit(NOW)
    answer = await api.track([as_input(event, "ada")], ADA)
    log = b"".join(path.read_bytes() for path in own_servers.valkey.data.rglob("*.aof"))
    await kill_valkey(own_servers)
    await own_servers.valkey.start()
    assert answer["accepted"] == 1
    assert str(event.event_id).encode() in log
    queue = await open_queue(own_servers.redis_url)
    assert [[each.event_id for each in batch] for batch in await queued(queue)] == [[event.event_id]]
    flushed = await queue.config_get("appendfsync")
    assert flushed == {"appendfsync": "always"}
    await queue.aclose(close_connection_pool=True)


async def test_without_valkey_events_are_refused_as_a_whole_and_taken_again_once_it_is_back(
    own_servers: EmbeddedServers, api: Platform
) -> None:
    event = visit(NOW)
    await kill_valkey(own_servers)
    answer = await api.ask(TRACK, ADA, events=[as_input(event, "ada")])
    ready = await api.client.get("/readyz")
    await own_servers.valkey.start()
    assert not (answer["data"] or {}).get("trackEvents")
    (error,) = answer["errors"]
    assert error["extensions"] == {"code": "UNAVAILABLE", "retryAfterMs": 1000}
    assert ready.status_code == 503
    queue = await open_queue(own_servers.redis_url)
    assert await queued(queue) == []
    assert (await api.track([as_input(event, "ada")], ADA))["accepted"] == 1
    assert [[each.event_id for each in batch] for batch in await queued(queue)] == [[event.event_id]]
    await queue.aclose(close_connection_pool=True)
