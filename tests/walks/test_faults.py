"""What those who send and ask get while a server is full, slow, or stands still: never a hang, nothing masked."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from models.viewer import Role
from questlog.app import create_app
from questlog.embedded import EmbeddedServers
from questlog.process import ended
from tests.histories import as_input
from tests.platform import SERVICE, TRACK, UPSERT, Answer, Asker, Platform, browser, new_api, working
from tests.processes import children
from tests.workers.storing import NOW, visit

ADA = (Role.STUDENT, "ada")
EVENTS = 'query { user(userId: "ada") { events(first: 5) { nodes { eventId } } } }'
AWAY = {"code": "UNAVAILABLE", "retryAfterMs": 1000}


@pytest.fixture
async def api(own_servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An API, without a worker, whose servers a test may stop and kill."""
    async with new_api(own_servers, tmp_path, seconds_to_answer=3) as running:
        await running.upsert({"userId": "ada", "role": "STUDENT"})
        yield running


@contextlib.contextmanager
def standing_still(process_id: int) -> Iterator[None]:
    """A server that does not go on, and neither do its children."""
    pids = [process_id, *children(process_id)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def without_valkey(servers: EmbeddedServers) -> AsyncIterator[None]:
    """Valkey killed, and in the end started again."""
    process = servers.valkey.process
    assert process
    process.kill()
    await ended(process)
    try:
        yield
    finally:
        await servers.valkey.start()


@contextlib.asynccontextmanager
async def without_connections(servers: EmbeddedServers) -> AsyncIterator[None]:
    """PostgreSQL with all connections taken that ordinary logins get."""
    taken = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            taken.append(await asyncpg.connect(servers.database_url))
    try:
        yield
    finally:
        for connection in taken:
            await connection.close()


@contextlib.asynccontextmanager
async def events_locked(api: Platform) -> AsyncIterator[None]:
    """The table of events, which nobody may read or write."""
    async with api.superuser.connect() as connection:
        await connection.execute(text("LOCK TABLE user_activity_events IN ACCESS EXCLUSIVE MODE"))
        yield


async def sent(api: Platform, asker: Asker = ADA) -> Answer:
    """What one who sends an event gets; a SERVICE's has to be looked up in the database."""
    event = as_input(visit(NOW), "ada") | ({"userId": "ada"} if asker == SERVICE else {})
    return await api.ask(TRACK, asker, events=[event])


def is_taken(answer: Answer) -> bool:
    return "errors" not in answer and answer["data"]["trackEvents"]["accepted"] == 1


def is_told_to_wait(answer: Answer) -> bool:
    (error,) = answer["errors"]
    return bool(error["extensions"].items() >= AWAY.items())


async def test_without_a_connection_left_the_queue_takes_events(own_servers: EmbeddedServers, api: Platform) -> None:
    await api.api.databases.dispose()
    async with without_connections(own_servers):
        assert is_taken(await sent(api))
        assert is_taken(await sent(api, SERVICE))
        assert is_told_to_wait(await api.ask(EVENTS, ADA))
        async with without_valkey(own_servers):
            assert is_told_to_wait(await sent(api))
    await check_stored(api, 2)


async def test_while_the_events_are_locked_the_queue_takes_them(
    own_servers: EmbeddedServers, api: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.intake.SECONDS_FOR_POSTGRESQL", 1)
    monkeypatch.setattr("resolvers.reader.SECONDS_FOR_POSTGRESQL", 1)
    async with events_locked(api):
        assert is_taken(await sent(api, SERVICE))
        assert is_told_to_wait(await api.ask(EVENTS, ADA))
        async with without_valkey(own_servers):
            assert is_told_to_wait(await sent(api))
    await check_stored(api, 1)


@pytest.mark.long
async def test_while_postgresql_stands_still_the_queue_takes_events(
    own_servers: EmbeddedServers, api: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.intake.SECONDS_FOR_POSTGRESQL", 1)
    monkeypatch.setattr("resolvers.reader.SECONDS_FOR_POSTGRESQL", 1)
    assert own_servers.postgres.process
    with standing_still(own_servers.postgres.process.pid):
        assert is_taken(await sent(api))
        assert is_taken(await sent(api, SERVICE))
        assert is_told_to_wait(await api.ask(EVENTS, ADA))
        assert is_told_to_wait(await api.ask(UPSERT, SERVICE, users=[{"userId": "eve", "role": "STUDENT"}]))
        assert (await api.client.get("/readyz")).status_code == 503
        async with without_valkey(own_servers):
            assert is_told_to_wait(await sent(api))
    await check_stored(api, 2)


async def test_while_valkey_stands_still_events_are_stored(own_servers: EmbeddedServers, api: Platform) -> None:
    assert own_servers.valkey.process
    with standing_still(own_servers.valkey.process.pid):
        assert is_taken(await sent(api))
        assert is_taken(await sent(api, SERVICE))
        assert await api.data(EVENTS, ADA)
    await check_stored(api, 2)


async def test_an_api_that_starts_while_valkey_is_away_takes_events(
    own_servers: EmbeddedServers, api: Platform
) -> None:
    async with without_valkey(own_servers):
        app = create_app(api.settings)
        async with app.router.lifespan_context(app), browser(app) as client:
            body = {"query": TRACK, "variables": {"events": [as_input(visit(NOW), "ada")]}}
            headers = {"authorization": f"Bearer {api.token(*ADA)}"}
            assert is_taken((await client.post("/graphql", json=body, headers=headers)).json())
    await check_stored(api, 1)


async def check_stored(api: Platform, number: int) -> None:
    """With a worker beside the API, exactly so many events come to be stored, and questions are answered again."""
    async with working(api):
        await api.settle()
    (kept,) = [user["events"]["nodes"] for user in (await api.data(EVENTS, ADA)).values()]
    assert len(kept) == number
