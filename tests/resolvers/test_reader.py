"""A question ends with its time, in PostgreSQL too."""

import asyncio
import logging
import os
import signal
from contextlib import suppress
from itertools import product
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Executable, func, literal, select, text
from sqlalchemy.exc import DBAPIError
from starlette.types import Message, Receive, Scope, Send

from models.viewer import Role, Viewer
from questlog.embedded import EmbeddedServers
from resolvers.errors import UnavailableError
from resolvers.prepared import Prepared
from resolvers.reader import Reader
from tests.platform import Asker, new_api, until

QUESTION = "{ viewer { user { userId } } }"
# Where one field is refused, graphql-core cancels those beside it, wherever they are.
REFUSED_BESIDE_OTHERS = [
    "{ users(first: 5) { nodes { engagement(days: 999) { days } journey { totalXp } } } }",
    "{ users(first: 5) { nodes { journey { totalXp } engagement(days: 999) { days } } } }",
    """{ pageViews(days: 400) { nodes { path } } popularQuests(days: 7) { questId } errors(days: 0) { totalErrors }
         users(first: 9) { nodes { engagement { daily { xp } } risk { score } } } }""",
    """{ viewer { role } b: user(userId: "nobody") { userId engagement { days } }
         a: user(userId: "k0") { engagement(days: 0) { days } journey { totalXp } guardians { userId } } }""",
]
REFUSED_BESIDE_THE_SAME = """{{
    a: node(id: "{id}") {{ ... on User {{ engagement(days: 0) {{ days }} journey {{ totalXp }} }} }}
    b: node(id: "{id}") {{ ... on User {{ journey {{ totalXp }} }} }}
}}"""
WORKING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def test_a_statement_that_takes_too_long_is_cancelled_and_the_next_is_answered(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path, seconds_to_answer=1) as api:
        for asker in ((Role.STUDENT, "sam"), (Role.ADMIN, "ada")):
            await api.data(QUESTION, asker)
            async with api.superuser.begin() as locking:
                await locking.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
                answer = await api.ask(QUESTION, asker)
                (error,) = answer["errors"]
                assert error["extensions"]["code"] == "UNAVAILABLE"
                assert error["extensions"]["retryAfterMs"]
                assert "within 1 s" in error["message"]

                # The lock is still held: whatever waited for it has been cancelled.
                async def nobody_waits() -> bool:
                    return not await locking.scalar(text(f"{WORKING} AND wait_event_type = 'Lock'"))

                await until(nobody_waits)
            assert (await api.data(QUESTION, asker))["viewer"]["user"] == {"userId": asker[1]}


async def test_postgresql_ends_by_itself_what_nobody_cancels(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, seconds_to_answer=1) as api:
        databases = api.api.databases
        for engine in (databases.viewer, databases.admin):
            async with engine.connect() as connection:
                assert await connection.scalar(text("SHOW statement_timeout")) == "3s"


async def test_a_refused_field_disturbs_no_other_question(
    servers: EmbeddedServers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with new_api(servers, tmp_path) as api:
        students = [{"userId": f"k{number}", "role": "STUDENT"} for number in range(3)]
        await api.upsert({"userId": "pat", "role": "PARENT"}, *students)
        await api.link("pat", "k0")

        k0 = (await api.data('{ user(userId: "k0") { id } }', (Role.ADMIN, "ada")))["user"]["id"]
        questions = [*REFUSED_BESIDE_OTHERS, REFUSED_BESIDE_THE_SAME.format(id=k0)]

        async def connections() -> list[int]:
            async with api.superuser.connect() as connection:
                found = await connection.execute(
                    text("SELECT pid FROM pg_stat_activity WHERE usename LIKE 'questlog%'")
                )
                return sorted(found.scalars())

        for asker in ((Role.STUDENT, "k0"), (Role.PARENT, "pat"), (Role.ADMIN, "ada")):
            for question in questions:
                await api.ask(question, asker)
            before = await connections()
            for question in questions * 10:
                answer = await api.ask(question, asker)
                assert {error["extensions"]["code"] for error in answer["errors"]} <= {
                    "BAD_USER_INPUT",
                    "NOT_FOUND",
                    "FORBIDDEN",
                }
                assert (await api.data(QUESTION, asker))["viewer"]["user"] == {"userId": asker[1]}
            assert await connections() == before
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_connection_that_was_lost_after_the_answer_is_given_up(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path) as api:
        for viewer in (Viewer(Role.STUDENT, "sam"), Viewer(Role.ADMIN, "ada")):
            reader = Reader(api.api.databases, viewer)
            ((pid,),) = await reader.rows(text("SELECT pg_backend_pid()"))
            async with api.superuser.connect() as connection:
                assert await connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            await reader.close()
            for engine in (api.api.databases.viewer, api.api.databases.admin):
                assert "Current Checked out connections: 0" in engine.pool.status()
            assert await api.data(QUESTION, (viewer.role, str(viewer.user_id)))


async def test_a_connection_that_never_ends_its_transaction_is_given_up(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path) as api:
        reader = Reader(api.api.databases, Viewer(Role.ADMIN, "ada"))
        ((pid,),) = await reader.rows(text("SELECT pg_backend_pid()"))
        os.kill(pid, signal.SIGSTOP)
        try:
            await reader.close()
        finally:
            os.kill(pid, signal.SIGCONT)
        reader = Reader(api.api.databases, reader.viewer)
        ((another,),) = await reader.rows(text("SELECT pg_backend_pid()"))
        await reader.close()
        assert another != pid


async def test_a_connection_that_is_being_lost_is_given_up_at_whatever_moment(
    servers: EmbeddedServers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits until the backend is gone: what it said last may come between two steps of asyncpg's protocol."""
    now = select(func.now().label("now"))
    async with new_api(servers, tmp_path) as api, api.superuser.connect() as superuser:
        pool = api.api.databases.admin.pool
        for number, statement in product(range(10), (now, Prepared(now), None)):
            reader = Reader(api.api.databases, Viewer(Role.ADMIN, "ada"))
            ((pid,),) = await reader.rows(text("SELECT pg_backend_pid()"))
            await superuser.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await asyncio.sleep(number / 10_000)
            if statement is not None:
                with suppress(UnavailableError):
                    await reader.rows(statement)
            await reader.close()
            assert "Current Checked out connections: 0" in pool.status()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_connections_that_were_lost_while_they_rested_are_replaced_without_a_word(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    """As after a restart of PostgreSQL."""
    async with new_api(servers, tmp_path) as api:
        for asker in ((Role.STUDENT, "sam"), (Role.ADMIN, "ada")):
            await api.data(QUESTION, asker)
            for _ in range(2):
                await asyncio.gather(*(api.data(QUESTION, asker) for _ in range(16)))
                async with api.superuser.connect() as connection:
                    ended = await connection.execute(
                        text(
                            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                            " WHERE datname = current_database() AND usename ~ '_(viewer|admin)$'"
                        )
                    )
                    assert len(ended.all()) > 1


async def test_after_a_change_of_the_schema_each_connection_is_given_up_once(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    admin: Asker = (Role.ADMIN, "ada")
    async with new_api(servers, tmp_path) as api:
        assert await api.data(QUESTION, admin)
        async with api.superuser.begin() as connection:
            await connection.execute(text("ALTER TABLE users ALTER COLUMN display_name TYPE varchar(300)"))
        (error,) = (await api.ask(QUESTION, admin))["errors"]
        assert error["extensions"]["code"] == "UNAVAILABLE"
        assert await api.data(QUESTION, admin)


async def test_whoever_closes_twice_ends_nobody_elses_transaction(servers: EmbeddedServers, tmp_path: Path) -> None:
    """As where a download ends."""
    now = select(func.now().label("now"))
    async with new_api(servers, tmp_path) as api:
        for statement in (now, Prepared(now)):
            first, second = (Reader(api.api.databases, Viewer(Role.STUDENT, "sam")) for _ in range(2))
            await first.rows(statement)
            await first.close()
            begun = await second.rows(statement)
            await first.close()
            assert await second.rows(statement) == begun
            await second.close()


@pytest.mark.parametrize(
    "statement", [text("SELECT 1 / 0"), Prepared(select((literal(1) / literal(0)).label("never")))]
)
async def test_what_fails_leaves_no_transaction_behind(
    servers: EmbeddedServers, tmp_path: Path, statement: Executable | Prepared
) -> None:
    async with new_api(servers, tmp_path) as api:
        for viewer in (Viewer(Role.STUDENT, "sam"), Viewer(Role.ADMIN, "ada")):
            reader = Reader(api.api.databases, viewer)
            with pytest.raises(DBAPIError):
                await reader.rows(statement)
            await reader.close()
            async with api.superuser.connect() as connection:
                assert not await connection.scalar(text(f"{WORKING} AND state LIKE 'idle in transaction%'"))
            assert await api.data(QUESTION, (viewer.role, str(viewer.user_id)))


async def test_whoever_breaks_off_while_the_connection_is_given_back_keeps_none(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    """As where a download ends: each wait is cancelled, that for the statement which runs and that for its end."""
    async with new_api(servers, tmp_path) as api:
        reader = Reader(api.api.databases, Viewer(Role.ADMIN, "ada"))
        await reader.rows(text("SELECT 1"))
        for asked in (reader.rows(text("SELECT pg_sleep(0.2)")), reader.close()):
            asking = asyncio.ensure_future(asked)
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()

        async def is_given_back() -> bool:
            return "Current Checked out connections: 0" in api.api.databases.admin.pool.status()

        await until(is_given_back)


async def test_whoever_does_not_read_the_answer_holds_no_connection(servers: EmbeddedServers, tmp_path: Path) -> None:
    """With as many of them as the pool has connections nobody else would be answered."""
    async with new_api(servers, tmp_path) as api:

        async def nothing_is_held() -> bool:
            pools = (api.api.databases.viewer.pool, api.api.databases.admin.pool)
            return all("Current Checked out connections: 0" in pool.status() for pool in pools)

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_when_read(message: Message) -> None:
                await until(nothing_is_held)
                await send(message)

            await api.app(scope, receive, send_when_read)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(slow), base_url="http://questlog") as client:
            for asker in ((Role.STUDENT, "sam"), (Role.ADMIN, "ada")):
                headers = {"Authorization": f"Bearer {api.token(*asker)}"}
                asked = await client.post("/graphql", json={"query": QUESTION}, headers=headers)
                assert asked.json()["data"]["viewer"]["user"] == {"userId": asker[1]}
                assert (await client.get(f"/exports/{uuid4()}", headers=headers)).status_code == 404
