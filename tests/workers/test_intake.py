"""Taking events: what is acknowledged is on disk, in few jobs, and what is not acknowledged is nowhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import msgspec
import pytest
from arq.connections import ArqRedis
from sqlalchemy import insert

from models.event import TrackedEvent
from models.ledger import claim_batches, list_set_aside, stored_batches
from models.user import User, UserRole
from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.process import ended
from tests.files import of_each
from tests.histories import as_input, as_tracked
from tests.platform import SECRET, SERVICE, TRACK, Answer, Platform, new_api, working
from tests.workers.storing import DAYS, NOW, visit
from workers.event import Stored
from workers.intake import Intake
from workers.ledger import BATCHES_AT_ONCE, drop_set_aside, ledger, retry_set_aside, store_batches, sweep
from workers.main import sweep_batches
from workers.queue import WAITING, decode_batch, forget_waiting, open_queue

ADA = (Role.STUDENT, "ada")
LEDGER: Answer = {
    **dict.fromkeys(("accepted", "stored", "duplicate", "withdrawn", "waiting", "setAside", "workers"), 0),
    "oldestWaitingSeconds": None,
    "lastError": None,
}


@pytest.fixture
async def queue(servers: EmbeddedServers) -> AsyncIterator[ArqRedis]:
    """An empty queue, from which nobody takes."""
    queue = await open_queue(servers.redis_url)
    await queue.flushdb()
    yield queue
    await queue.flushdb()
    await queue.aclose(close_connection_pool=True)


@pytest.fixture
async def api(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An API without a worker."""
    async with new_api(servers, tmp_path) as running:
        yield running


@pytest.fixture
async def own_api(own_servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
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


async def test_what_many_requests_hand_in_together_becomes_one_job(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    events = some(300)
    await asyncio.gather(*(intake.keep([event]) for event in events))
    assert await queued(queue) == [events]
    await intake.close()


async def test_a_batch_has_at_most_500_events(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    handed_in = [some(400), some(500), some(301)]
    await asyncio.gather(*(intake.keep(events) for events in handed_in))
    batches = await queued(queue)
    assert [len(batch) for batch in batches] == [500, 500, 201]
    kept = {event.event_id for batch in batches for event in batch}
    assert kept == {event.event_id for events in handed_in for event in events}
    await intake.close()


async def test_closing_commits_what_waits_and_then_takes_no_more(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    events = some(20)
    waiting = [asyncio.create_task(intake.keep([event])) for event in events]
    await asyncio.sleep(0)
    await intake.close()
    assert await queued(queue) == [events]
    await asyncio.gather(*waiting)
    with pytest.raises(ConnectionError):
        await intake.keep(some(1))
    assert await queued(queue) == [events]


async def test_closing_commits_also_what_came_while_others_were_committed(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    events = some(60)
    tasks = []
    for event in events:
        tasks.append(asyncio.create_task(intake.keep([event])))
        await asyncio.sleep(0.0005)
    await intake.close()
    await asyncio.gather(*tasks)
    assert {event.event_id for batch in await queued(queue) for event in batch} == {event.event_id for event in events}


async def test_a_request_that_goes_away_takes_nobody_along(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    going, staying = (asyncio.create_task(intake.keep(some(1))) for _ in range(2))
    await asyncio.sleep(0)
    going.cancel()
    await staying
    await intake.keep(some(1))
    assert sum(map(len, await queued(queue))) == 3
    await intake.close()


async def test_the_queue_holds_messagepack_for_a_month(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    await intake.keep(some(1))
    await intake.close()
    (job,) = await jobs(queue)
    assert job["f"] == "store_batch"
    (job_id,) = await queue.zrange("arq:queue", 0, -1)
    assert await queue.ttl(b"arq:job:" + job_id) > timedelta(days=29).total_seconds()


async def test_what_is_acknowledged_is_in_the_append_only_file_and_survives_a_kill(
    own_servers: EmbeddedServers, own_api: Platform
) -> None:
    api, event = own_api, visit(NOW)
    answer = await api.track([as_input(event, "ada")], ADA)
    log = b"".join(part for _, part in of_each(own_servers.valkey.data.rglob("*.aof"), Path.read_bytes))
    await kill_valkey(own_servers)
    await own_servers.valkey.start()
    assert answer["accepted"] == 1
    assert str(event.event_id).encode() in log
    queue = await open_queue(own_servers.redis_url)
    assert [[each.event_id for each in batch] for batch in await queued(queue)] == [[event.event_id]]
    flushed = await queue.config_get("appendfsync")
    assert flushed == {"appendfsync": "always"}
    await queue.aclose(close_connection_pool=True)


async def test_without_valkey_events_are_stored_in_the_request_and_counted(
    own_servers: EmbeddedServers, own_api: Platform
) -> None:
    api, event = own_api, visit(NOW)
    await kill_valkey(own_servers)
    answers = [await api.track([as_input(event, "ada")], ADA) for _ in range(2)]
    ready = await api.client.get("/readyz")
    await own_servers.valkey.start()
    assert [answer["accepted"] for answer in answers] == [1, 1]
    assert ready.status_code == 200
    status = await intake_status(api)
    assert status | {"workers": 0} == LEDGER | {"accepted": 2, "stored": 1, "duplicate": 1}
    queue = await open_queue(own_servers.redis_url)
    assert await queued(queue) == []
    await queue.aclose(close_connection_pool=True)


async def test_without_postgresql_what_it_alone_can_judge_is_judged_when_it_is_back(
    own_servers: EmbeddedServers, own_api: Platform
) -> None:
    api, pat = own_api, (Role.PARENT, "pat")
    await api.upsert({"userId": "pat", "role": "PARENT"}, {"userId": "kim", "role": "STUDENT"})
    await api.link("pat", "kim")
    nameless = f"Bearer {jwt.encode({'sub': 'kim', 'exp': time.time() + 60}, SECRET)}"
    await own_servers.postgres.stop()
    for user_id in ("kim", "nobody"):
        assert (await api.track([as_input(visit(NOW), user_id) | {"userId": user_id}], SERVICE))["accepted"] == 1
    for child_id in ("kim", "sam"):
        opened = visit(NOW, kind="parent_dashboard_opened", childId=child_id)
        assert (await api.track([as_input(opened, "pat")], pat))["accepted"] == 1
    body = {"query": TRACK, "variables": {"events": [as_input(visit(NOW), "kim")]}}
    unknown = await api.client.post("/graphql", json=body, headers={"authorization": nameless})
    await own_servers.postgres.start()
    await api.superuser.dispose()
    await api.worker_engine.dispose()
    async with working(api):
        await api.settle()
    assert unknown.status_code == 503
    extensions = unknown.json()["errors"][0]["extensions"]
    assert (extensions["code"], extensions["retryAfterMs"]) == ("UNAVAILABLE", 1000)
    assert await intake_status(api) | {"workers": 0} == LEDGER | {"accepted": 4, "stored": 2, "setAside": 2}
    async with api.worker_engine.connect() as connection:
        reasons = [reason for _, _, reason in await list_set_aside(connection)]
    assert reasons == ["UNKNOWN_USER", "FORBIDDEN: childId is no child of the user's"]
    await api.upsert({"userId": "nobody", "role": "STUDENT"})
    assert await retried(api) == [(2, Stored(1, 0, 0))]


async def test_without_both_servers_events_are_refused_as_a_whole_and_taken_once_one_is_back(
    own_servers: EmbeddedServers, own_api: Platform
) -> None:
    api, event = own_api, visit(NOW)
    await kill_valkey(own_servers)
    await own_servers.postgres.stop()
    answer = await api.ask(TRACK, ADA, events=[as_input(event, "ada")])
    await own_servers.valkey.start()
    await own_servers.postgres.start()
    await api.superuser.dispose()
    await api.worker_engine.dispose()
    assert not (answer["data"] or {}).get("trackEvents")
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "UNAVAILABLE"
    assert error["extensions"]["retryAfterMs"] == 1000
    async with working(api):
        assert (await api.track([as_input(event, "ada")], ADA))["accepted"] == 1
        await api.settle()
    assert await intake_status(api) | {"workers": 0} == LEDGER | {"accepted": 1, "stored": 1}


async def test_without_postgresql_the_queue_takes_events_and_drains_once_it_is_back(
    own_servers: EmbeddedServers, own_api: Platform
) -> None:
    api, events = own_api, [visit(NOW) for _ in range(30)]
    await own_servers.postgres.stop()
    assert (await api.track([as_input(event, "ada") for event in events], ADA))["accepted"] == 30
    await own_servers.postgres.start()
    await api.superuser.dispose()
    await api.worker_engine.dispose()
    status = await intake_status(api)
    assert status["waiting"] == 30
    assert status["oldestWaitingSeconds"] > 0
    async with working(api):
        await api.settle()
    assert await intake_status(api) | {"workers": 0} == LEDGER | {"accepted": 30, "stored": 30}


async def test_beyond_its_bound_the_queue_takes_no_more_and_events_are_stored(queue: ArqRedis, api: Platform) -> None:
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS, most_bytes=1)
    await intake.keep(some(3))
    await intake.close()
    assert await queued(queue) == []
    assert await intake_status(api) | {"workers": 0} == LEDGER | {"accepted": 3, "stored": 3}


async def test_what_cannot_be_stored_in_time_takes_nothing_along_that_could(
    queue: ArqRedis, api: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else is just making eve known: whoever stores her events waits for them."""
    monkeypatch.setattr("workers.intake.SECONDS_FOR_POSTGRESQL", 5)
    of_eve = [as_tracked(visit(NOW), "eve", UserRole.STUDENT) for _ in range(300)]
    requests = [*(some(50) for _ in range(10)), of_eve, some(400)]
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS, most_bytes=1)
    async with api.superuser.connect() as connection:
        arriving = insert(User).values(subject_key=uuid4(), user_id="eve", role=UserRole.STUDENT, known_since=NOW)
        await connection.execute(arriving)
        *stored, held, last = await asyncio.gather(*map(intake.keep, requests), return_exceptions=True)
    await intake.close()
    assert stored == [None] * 10
    assert [type(outcome) for outcome in (held, last)] == [TimeoutError] * 2
    assert await intake_status(api) | {"workers": 0} == LEDGER | {"accepted": 500, "stored": 500}
    assert await queued(queue) == []


async def test_an_event_that_cannot_be_stored_is_set_aside_and_holds_up_nothing(queue: ArqRedis, api: Platform) -> None:
    good = some(20)
    bad = msgspec.structs.replace(good[3], event_id=uuid4(), event_type="nul \0 byte")
    intake = Intake(queue, api.api.databases.intake, anonymize_after_days=DAYS)
    await intake.keep([*good[:7], bad, *good[7:]])
    await intake.close()
    async with working(api):
        await api.settle()
    before = await intake_status(api)
    assert before | {"workers": 0} == LEDGER | {"accepted": 21, "stored": 20, "setAside": 1}
    async with api.worker_engine.begin() as connection:
        ((_, _, reason),) = await list_set_aside(connection)
        assert "22021" in reason
    assert await retried(api) == [(1, Stored(0, 0, 0))]
    assert await intake_status(api) == before
    assert [step async for step in drop_set_aside(api.worker_engine, await ids_set_aside(api))] == [(1, 1)]
    assert await intake_status(api) | {"workers": 0} == LEDGER | {"accepted": 21, "stored": 20, "withdrawn": 1}


async def ids_set_aside(api: Platform) -> list[int]:
    async with api.worker_engine.connect() as connection:
        return [each for each, _, _ in await list_set_aside(connection)]


async def retried(api: Platform) -> list[tuple[int, Stored]]:
    """What becomes of all that is set aside, part by part."""
    steps = retry_set_aside(api.worker_engine, await ids_set_aside(api), anonymize_after_days=DAYS)
    return [step async for step in steps]


async def note_waiting(queue: ArqRedis, batch_id: str, events: int) -> None:
    """What the queue notes of a batch when it takes one."""
    async with queue.pipeline() as noting:
        noting.hset(WAITING, batch_id, f"{events} 0")
        await noting.execute()


async def test_a_batch_that_is_handed_out_twice_is_counted_once(queue: ArqRedis, api: Platform) -> None:
    batch = some(5)
    await note_waiting(queue, "the same", 5)
    for _ in range(2):
        async with api.worker_engine.begin() as connection:
            await store_batches(connection, queue, {"the same": batch}, anonymize_after_days=DAYS)
    await forget_waiting(queue, ["the same"])
    status = await intake_status(api)
    assert (status["stored"], status["duplicate"]) == (5, 0)
    async with api.worker_engine.begin() as connection:
        await sweep(connection, queue)
        assert await stored_batches(connection) == []


async def intake_status(api: Platform) -> Answer:
    """The ledger, by the API."""
    fields = " ".join(LEDGER)
    status: Answer = (await api.data(f"{{ intake {{ {fields} }} }}", SERVICE))["intake"]
    return status


async def test_a_ledger_of_many_batches_is_read_and_swept_in_parts(queue: ArqRedis, api: Platform) -> None:
    now = time.time()
    batches = [uuid4().hex for _ in range(5 * BATCHES_AT_ONCE // 2)]
    stored, kept = sorted(batches)[: 3 * BATCHES_AT_ONCE // 2], sorted(batches)[: BATCHES_AT_ONCE // 2]
    async with queue.pipeline() as putting:
        putting.hset(WAITING, mapping={batch_id: f"{index} {now - index}" for index, batch_id in enumerate(batches)})
        putting.mset({f"arq:job:{batch_id}": b"" for batch_id in kept})
        await putting.execute()
    async with api.worker_engine.begin() as connection:
        await claim_batches(connection, stored)
    waiting = [index for index, batch_id in enumerate(batches) if batch_id not in stored]
    async with api.worker_engine.connect() as connection:
        current = await ledger(connection, queue)
    assert current.waiting == sum(waiting)
    assert current.oldest_waiting == pytest.approx(time.time() - now + max(waiting), abs=1)
    await sweep_batches({"engine": api.worker_engine, "redis": queue})
    async with api.worker_engine.connect() as connection:
        assert await stored_batches(connection) == kept
    async with queue.pipeline() as reading:
        reading.hkeys(WAITING)
        (left,) = await reading.execute()
    assert {batch_id.decode() for batch_id in left} == {*batches} - ({*stored} - {*kept})
