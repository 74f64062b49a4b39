"""The logins, and migrations that go forward and back, once however many start them."""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator
from datetime import date
from uuid import uuid4

import pytest
from sqlalchemy import Table, text
from sqlalchemy.engine import make_url

import models
from models.age import adult_at
from models.base import Base, connect
from questlog.database import Logins, logins
from questlog.embedded import EmbeddedServers
from questlog.migration import migrate
from questlog.settings import Settings, SettingsError
from tests.platform import in_database

TABLES = (
    "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    " AND relname <> 'alembic_version'"
)
COLUMNS = (
    "SELECT column_name, is_nullable = 'YES' AS nullable FROM information_schema.columns"
    " WHERE table_schema = 'public' AND table_name = :table"
)


@pytest.fixture
async def empty(servers: EmbeddedServers) -> AsyncIterator[Logins]:
    """The logins of a database that nothing has been done to."""
    database = f"t{uuid4().hex}"
    engine = connect(in_database(servers.superuser_url, "postgres"), pool_size=1)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {database} OWNER questlog"))
    yield logins(Settings(database_url=in_database(servers.database_url, database)))
    async with autocommit.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {database} WITH (FORCE)"))
    await engine.dispose()


async def count(urls: Logins, query: str) -> int:
    """The number that a query of the owner's gives."""
    engine = connect(urls.owner or "", pool_size=1)
    async with engine.connect() as connection:
        found = await connection.scalar(text(query))
    await engine.dispose()
    return int(found or 0)


async def test_forward_and_back_and_forward(empty: Logins) -> None:
    await migrate(empty)
    there = await count(empty, TABLES)
    await migrate(empty, "base")
    assert await count(empty, TABLES) == 0
    await migrate(empty)
    assert await count(empty, TABLES) == there > len(Base.metadata.tables)


async def test_two_at_once_do_it_once(empty: Logins) -> None:
    await asyncio.gather(migrate(empty), migrate(empty), migrate(empty))
    assert await count(empty, "SELECT count(*) FROM alembic_version") == 1


async def test_whoever_is_known_before_there_is_risk_is_due_to_be_assessed(
    empty: Logins, servers: EmbeddedServers
) -> None:
    await migrate(empty, "0004")
    engine = connect(in_database(servers.superuser_url, make_url(empty.owner or "").database or ""), pool_size=1)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO users (subject_key, user_id, role, known_since)"
                " VALUES (gen_random_uuid(), 'ann', 'STUDENT', now())"
            )
        )
    await migrate(empty)
    async with engine.connect() as connection:
        due = "SELECT user_id FROM users JOIN assessments_due USING (subject_key) WHERE due_at <= now()"
        assert (await connection.execute(text(due))).all() == [("ann",)]
    await engine.dispose()


KEPT_BEFORE = """
INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, from_service, event_type,
event_category, event_data) VALUES (gen_random_uuid(), gen_random_uuid(), now(), now(), true, 'x', 'CUSTOM', '{}');
INSERT INTO error_events (subject_key, event_id, occurred_at, error_type, message)
SELECT subject_key, event_id, occurred_at, 'NETWORK_ERROR', 'away' FROM user_activity_events;
INSERT INTO daily_event_counts SELECT subject_key, current_date, ARRAY[1] FROM user_activity_events
"""


async def test_what_was_kept_before_there_were_contributions_is_grouped_and_derived_again(
    empty: Logins, servers: EmbeddedServers
) -> None:
    await migrate(empty, "0004")
    superuser = connect(in_database(servers.superuser_url, make_url(empty.owner or "").database or ""), pool_size=1)
    async with superuser.begin() as connection:
        for statement in KEPT_BEFORE.split(";"):
            await connection.exec_driver_sql(statement)
    await migrate(empty)
    async with superuser.begin() as connection:
        for found in (
            "SELECT count(*) FROM dirty_spans JOIN user_activity_events ON first_at = occurred_at",
            "SELECT count(*) FROM error_groups JOIN error_events USING (group_id) WHERE grouping = 0",
            "SELECT count(*) FROM daily_contributions WHERE events_by_category = ARRAY[1]",
        ):
            assert await connection.scalar(text(found)) == 1
        parts = await connection.scalars(
            text(
                "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON oid = inhparent WHERE relkind = 'p'"
            )
        )
        assert not [part for part in parts if part.startswith("daily_event_counts")]
    await superuser.dispose()


LARGE = """
INSERT INTO users VALUES (gen_random_uuid(), 'ann', 'STUDENT', NULL, 'UTC', NULL, now());
INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, from_service, event_type,
user_id, event_data) SELECT subject_key, gen_random_uuid(), now(), now(), false, 'logout', user_id, '{}' FROM users;
INSERT INTO user_sessions (subject_key, session_id, started_at, ended_at, open_until, first_event_id, last_event_id,
page_views, events) SELECT subject_key, gen_random_uuid(), now() - interval '1 s', occurred_at, now(), event_id,
last_event_id, 0, 2 FROM user_activity_events CROSS JOIN LATERAL (VALUES (event_id), (gen_random_uuid()))
AS of_two (last_event_id);
INSERT INTO daily_activity SELECT subject_key, current_date, 3, 0, true, true, '{0,3,0,0,0,0,0,0,0}', '{}', '{}', '{}'
FROM users;
INSERT INTO daily_contributions (subject_key, day, events_by_category, page_views, page_sessions, page_entries,
page_bounces) SELECT subject_key, current_date, '{6,0,0,0,0,0,0,0,1}', '{7,8,7,9,7,8}', '{7,8,9,7}', '{9,7}', '{9}'
FROM users
"""
AS_LARGE = (
    "SELECT count(*) FROM user_activity_events JOIN users USING (subject_key, user_id)",
    "SELECT count(*) FROM user_sessions JOIN user_activity_events ON event_id = last_event_id",
    "SELECT count(*) FROM daily_activity WHERE events_by_category = '{0,3,0,0,0,0,0,0,0}' AND quests_viewed = '{}'",
    "SELECT count(*) FROM daily_contributions WHERE page_views = '{7,8,7,9,7,8}' AND page_bounces = '{9}'",
    "SELECT count(*) FROM daily_contributions WHERE page_entries @> '{7,9}' AND cardinality(page_entries) = 2",
    "SELECT count(*) FROM daily_contributions WHERE page_sessions @> '{7,8,9}' AND cardinality(page_sessions) = 4",
    "SELECT count(*) FROM daily_contributions WHERE events_by_category = '{6,0,0,0,0,0,0,0,1}'",
)
AS_SMALL = (
    "SELECT count(*) FROM user_sessions JOIN user_activity_events ON event_id = logout_id",
    "SELECT count(*) FROM user_sessions WHERE logout_id IS NULL",
    "SELECT count(*) FROM daily_activity WHERE events_by_category = '{0,3}' AND quests_viewed IS NULL",
    # 7 was viewed first in two sessions, one of which it opened, and once more; 9 was all there was of a third.
    "SELECT count(*) FROM daily_contributions WHERE page_views = '{30,33,29,39,28,32}'",
)


async def test_large_rows_become_small_and_large_again(empty: Logins, servers: EmbeddedServers) -> None:
    await migrate(empty, "0009")
    superuser = connect(in_database(servers.superuser_url, make_url(empty.owner or "").database or ""), pool_size=1)
    async with superuser.begin() as connection:
        for statement in LARGE.split(";"):
            await connection.exec_driver_sql(statement)
    for revision, expected in (("head", AS_SMALL), ("0009", AS_LARGE[2:]), ("head", AS_SMALL[2:])):
        await migrate(empty, revision)
        async with superuser.begin() as connection:
            for found in expected:
                assert (await connection.scalar(text(found)), found) == (1, found)
    await superuser.dispose()


async def test_whoever_has_a_birth_date_already_is_18_when_they_would_be_had_it_come_later(
    empty: Logins, servers: EmbeddedServers
) -> None:
    await migrate(empty, "0009")
    superuser = connect(in_database(servers.superuser_url, make_url(empty.owner or "").database or ""), pool_size=1)
    kept: list[tuple[date | None, str]] = [
        (born, zone)
        for born in (None, date(2008, 2, 28), date(2008, 2, 29), date(2010, 3, 1), date(2010, 12, 31))
        for zone in ("Asia/Kathmandu", "America/St_Johns")
    ]
    known = text(
        "INSERT INTO users (subject_key, user_id, role, known_since, birth_date, time_zone)"
        " VALUES (gen_random_uuid(), CAST(:who AS text), 'STUDENT', now(), :born, :zone)"
    )
    async with superuser.begin() as connection:
        for born, zone in kept:
            await connection.execute(known, {"who": f"{born} {zone}", "born": born, "zone": zone})
    await migrate(empty)
    async with superuser.connect() as connection:
        rows = (await connection.execute(text("SELECT birth_date, time_zone, adult_at FROM users"))).all()
    await superuser.dispose()
    expected = [(born, zone, born and adult_at(born, zone)) for born, zone in kept]
    assert sorted(map(repr, expected)) == sorted(repr(tuple(row)) for row in rows)


async def test_the_tables_have_the_columns_that_the_models_say(empty: Logins) -> None:
    await migrate(empty)
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"models.{module.name}")
    engine = connect(empty.owner or "", pool_size=1)
    async with engine.connect() as connection:
        for table in Base.metadata.tables.values():
            found = await connection.execute(text(COLUMNS), {"table": table.name})
            assert {row.column_name: row.nullable for row in found} == nullable(table)
    await engine.dispose()


def nullable(table: Table) -> dict[str, bool]:
    """The columns of a model, and whether each may be null."""
    return {column.name: bool(column.nullable) for column in table.columns}


def test_derived_logins_share_the_place_and_have_passwords_of_their_own() -> None:
    urls = logins(Settings(database_url="postgresql://owner:secret@db.example:5433/quests?sslmode=require"))
    parsed = [make_url(url) for url in (urls.viewer, urls.admin, urls.worker, urls.intake)]
    assert [url.username for url in parsed] == [
        "quests_viewer",
        "quests_admin",
        "quests_worker",
        "quests_intake",
    ]
    assert len({str(url.password) for url in parsed} | {"secret"}) == 5
    assert {(url.host, url.port, url.database, url.query["sslmode"]) for url in parsed} == {
        ("db.example", 5433, "quests", "require")
    }


def test_a_login_of_one_s_own_is_taken_as_it_is() -> None:
    mine = "postgresql://reader:pass@db.example/quests"
    urls = logins(Settings(database_url="postgresql://owner:secret@db.example/quests", viewer_database_url=mine))
    assert urls.viewer == mine
    assert urls.names()["viewer"] == "reader"


@pytest.mark.parametrize("url", [None, "postgresql://owner@db.example/quests"])
def test_logins_that_cannot_be_derived_are_said_in_one_line(url: str | None) -> None:
    with pytest.raises(SettingsError, match="QUESTLOG_DATABASE_URL"):
        logins(Settings(database_url=url))


async def test_an_owner_who_may_not_create_roles_is_told_so(servers: EmbeddedServers) -> None:
    engine = connect(in_database(servers.superuser_url, "postgres"), pool_size=1)
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("CREATE ROLE weak LOGIN PASSWORD 'weak'"))
        await connection.execute(text('CREATE DATABASE "weak ""one""" OWNER weak'))
    await engine.dispose()
    url = make_url(servers.database_url).set(username="weak", password="weak", database='weak "one"')
    with pytest.raises(SettingsError, match=r"refuses to be migrated \(permission denied to create role\)") as told:
        await migrate(logins(Settings(database_url=url.render_as_string(hide_password=False))))
    assert "PASSWORD" not in str(told.value)


async def test_migrating_takes_the_owner() -> None:
    login = "postgresql://someone:pass@db.example/quests"
    given = Settings(
        viewer_database_url=login, admin_database_url=login, worker_database_url=login, intake_database_url=login
    )
    with pytest.raises(SettingsError, match="owner"):
        await migrate(logins(given))
