"""A partition is exchanged while others write, read, erase and derive, and whoever does it may be killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import Base
from models.event import UserActivityEvent
from models.horizon import horizon_kept
from models.partition import weeks
from models.retention import Step, due, mark_rewrite
from models.session import UserSession
from models.viewer import Role, Viewer
from resolvers.reader import Reader
from tests.platform import Platform, until
from tests.workers.retention.past import (
    DAY,
    MINUTE,
    MONDAY,
    NOW,
    POLICY,
    WEEK,
    a_day,
    due_at,
    dumped,
    found_in,
    found_on,
    happening,
    live,
    needles,
    on_disk,
    retention_process,
    run,
    telling,
)
from tests.workers.storing import Storing
from workers.retention import Done

ERASE = (
    "DELETE FROM user_activity_events USING users"
    " WHERE users.subject_key = user_activity_events.subject_key AND user_id = :who"
)


@pytest.mark.parametrize("table", ["daily_contributions", "user_activity_events", "user_sessions"])
async def test_killed_in_the_middle_it_ends_right_when_run_again(idle: Platform, old: Storing, table: str) -> None:
    await old.know("amelia")
    batch = [telling(event) for event in a_day(MONDAY + DAY)]
    await live(old, batch)
    wanted = await needles(old, batch)
    async with reading(old, table):
        killed = await retention_process(idle)
        await until(lambda: waits_to_exchange(old, table))
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        await until(lambda: stands_still(old))
        assert found_in(wanted, await dumped(old))
    done = await run(idle)
    assert {(each.table, each.rows) for each in done if each.rows} >= {("user_sessions", 1)}
    assert not found_in(wanted, await dumped(old))
    assert not found_on(wanted, await on_disk(old))
    runs = await old.rows("SELECT finished_at IS NOT NULL FROM retention_runs ORDER BY started_at")
    assert runs == [(False,), (True,)]
    assert await old.rows("SELECT sum(anonymized) FROM retention_runs") == [(len(batch) + 2 + 1 + 1,)]


@asynccontextmanager
async def reading(old: Storing, table: str) -> AsyncIterator[None]:
    """Somebody reads the table for long, and so keeps its partitions from being exchanged."""
    async with old.superuser.connect() as connection:
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await connection.execute(text(f"SELECT count(*) FROM {table}"))
        yield


async def waits_to_exchange(old: Storing, table: str) -> bool:
    """Whether somebody has written a partition of the table anew, and waits until it may stand in its place."""
    rows = await old.rows(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        " AND relation = CAST(:name AS regclass)",
        name=table,
    )
    return bool(rows)


async def stands_still(old: Storing) -> bool:
    """Whether PostgreSQL has let go of who was killed."""
    return not await old.rows(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%FROM anonymize_old_activity_events%'"
        " AND state <> 'idle' AND pid <> pg_backend_pid()"
    )


async def test_two_at_once_do_it_once(idle: Platform, old: Storing) -> None:
    await old.know("amelia")
    batch = [telling(event) for event in a_day(MONDAY + DAY)]
    await live(old, batch)
    first, second = await asyncio.gather(retention_process(idle), retention_process(idle))
    told = [await each.communicate() for each in (first, second)]
    assert first.returncode == second.returncode == 0, told
    assert await old.rows("SELECT sum(anonymized) FROM retention_runs") == [(len(batch) + 2 + 1 + 1,)]
    assert await old.rows("SELECT count(*) FROM user_activity_events") == [(len(batch),)]


async def test_what_is_due_is_told_while_a_partition_is_exchanged(idle: Platform, old: Storing) -> None:
    """Whoever began to look before sees which partitions there were."""
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])

    async def told(connection: AsyncConnection) -> tuple[list[str], dict[str, list[date]]]:
        return [part.name for _, part in await due(connection, NOW, POLICY)], await weeks(connection)

    async with old.superuser.begin() as connection:
        before = await told(connection)
    assert len(before[0]) == len(before[1])
    async with old.superuser.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(text("SELECT"))  # sees from now on what is there now
        await run(idle)
        assert await told(connection) == before


@pytest.mark.parametrize("viewer", [Viewer(Role.ADMIN, "root"), Viewer(Role.STUDENT, "amelia")])
async def test_a_question_that_began_before_an_exchange_finds_all_there_is(
    idle: Platform, old: Storing, viewer: Viewer
) -> None:
    await old.know("amelia")
    recent = NOW.replace(microsecond=0) - 2 * DAY
    await live(old, [telling(event) for event in a_day(recent)])
    await run(idle)
    async with old.engine.begin() as connection:
        await mark_rewrite(connection, UserActivityEvent, [recent])
    reader = Reader(idle.api.databases, viewer)
    await reader.rows(text("SELECT user_id FROM users"))
    running = asyncio.create_task(run(idle))
    await until(lambda: waits_to_exchange(old, "user_activity_events"))
    assert await reader.rows(text("SELECT count(*) FROM user_activity_events")) == [(16,)]
    await reader.close()
    assert Step.REWRITE in {each.step for each in await running}


async def test_intake_and_roll_ups_go_on_meanwhile(idle: Platform, old: Storing) -> None:
    """Everything is stored and derived while a partition waits to be exchanged; what is too late is withdrawn."""
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])
    async with reading(old, "user_activity_events"):
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, "user_activity_events"))
        stored = await old.store([telling(event) for event in (*a_day(NOW - DAY), *a_day(MONDAY + DAY))], days=90)
        assert (stored.stored, stored.withdrawn) == (16, 16)
        await old.derive(NOW)
        assert not running.done()
    await running
    assert await old.rows("SELECT count(*) FROM user_activity_events") == [(32,)]
    assert await old.rows("SELECT events FROM daily_activity WHERE day = :day", day=(NOW - DAY).date()) == [(16,)]


async def test_nothing_is_exchanged_while_somebody_derives(idle: Platform, old: Storing) -> None:
    """Who began to derive a day as one that is not sealed finds its events to the end."""
    async with old.engine.begin() as connection:
        sealed_before = await horizon_kept(connection, NOW, 100)
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, "daily_contributions"))
        assert sealed_before <= MONDAY
        assert not running.done()
    await running
    async with old.engine.begin() as connection:
        assert await horizon_kept(connection, NOW, 100) == MONDAY + WEEK


async def test_what_is_erased_meanwhile_is_in_nothing_that_is_anonymised(idle: Platform, old: Storing) -> None:
    for who in ("amelia", "ben"):
        await old.know(who)
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)], [telling(happening(MONDAY, "logout"), "ben")])
    async with reading(old, "user_activity_events"):
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, "user_activity_events"))
        await old.rows(ERASE, who="amelia")
    done = {each.table: each.rows for each in await running if each.step is Step.ANONYMIZE and each.rows}
    assert done["user_activity_events"] == 1
    assert await old.rows("SELECT event_type FROM user_activity_events") == [("logout",)]


async def test_a_partition_is_written_anew_without_what_was_erased(idle: Platform, old: Storing) -> None:
    for who in ("amelia", "ben"):
        await old.know(who)
    day = NOW.replace(microsecond=0) - 2 * DAY
    batch = [telling(event) for event in a_day(day)]
    kept = happening(day, "route_change")
    await live(old, batch, [telling(kept, "ben")])
    wanted = {event.event_id for event in batch}
    async with old.engine.begin() as connection:
        await mark_rewrite(connection, UserActivityEvent, [event.occurred_at for event in batch])
    await old.rows(ERASE, who="amelia")
    assert found_on(wanted, await on_disk(old)) & {str(each) for each in wanted}
    done = await run(idle)
    assert [(each.step, each.rows) for each in done if each.step is Step.REWRITE] == [(Step.REWRITE, 1)]
    ours = await old.rows("SELECT event_id FROM user_activity_events")
    assert ours == [(kept.event_id,)]
    assert await due_at(old, NOW) == set()
    indexed = "SELECT count(*) FROM pg_index WHERE indrelid = CAST(:part AS regclass) AND indisvalid"
    week = day - day.weekday() * DAY
    same = [await old.rows(indexed, part=f"user_activity_events{at:_%Y%m%d}") for at in (week, week + 2 * WEEK)]
    assert same[0] == same[1] != [(0,)]


async def test_what_changes_while_a_week_is_written_anew_is_not_lost(idle: Platform, old: Storing) -> None:
    """What comes, changes and goes meanwhile does so in the new partition, too; what is erased goes with the next."""
    for who in ("amelia", "ben"):
        await old.know(who)
    await run(idle)
    start = (NOW - 2 * DAY).replace(hour=12, minute=0, second=0, microsecond=0)
    two_visits = [happening(start + minutes * MINUTE, "route_change") for minutes in (0, 40)]
    erased = happening(start, "logout")
    await live(old, [telling(event) for event in two_visits], [telling(erased, "ben")])
    joined_and_one_more = [happening(start + minutes * MINUTE, "route_change") for minutes in (20, 200)]
    async with held_up(idle, old, UserActivityEvent, start) as running:
        assert (await old.store([telling(event) for event in joined_and_one_more])).stored == 2
        async with old.engine.begin() as connection:
            await mark_rewrite(connection, UserActivityEvent, [start])
        await old.rows(ERASE, who="ben")
    assert [(each.table, each.rows) for each in await running if each.step is Step.REWRITE] == [
        ("user_activity_events", 3),
        ("user_activity_events", 4),
    ]
    stored = {event_id for (event_id,) in await old.rows("SELECT event_id FROM user_activity_events")}
    assert stored == {event.event_id for event in (*two_visits, *joined_and_one_more)}
    assert not found_on({erased.event_id}, await on_disk(old))
    sessions = "SELECT user_sessions FROM user_sessions ORDER BY started_at, session_id"
    before = await old.rows(sessions)
    async with held_up(idle, old, UserSession, start) as running:
        await old.derive(NOW)
        changed = await old.rows(sessions)
    await running
    assert await old.rows(sessions) == changed != before
    assert len(changed) == len(before) == 2


@asynccontextmanager
async def held_up(
    idle: Platform, old: Storing, table: type[Base], at: datetime
) -> AsyncIterator[asyncio.Task[list[Done]]]:
    """A run that has written a week of the table anew and cannot exchange it before the end."""
    async with old.engine.begin() as connection:
        await mark_rewrite(connection, table, [at])
    async with reading(old, table.__tablename__):
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, table.__tablename__))
        yield running
