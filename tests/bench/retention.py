"""How fast a week is anonymised while events come in, beside the same rows copied into a table with the same indexes;
and last week's written anew, as after an erasure.

BENCH_ROWS rows of one week, of the kinds that a day holds; meanwhile 1,000 events a second are stored in batches, each
event timed from when it was to be stored until its transaction is committed.
"""

import asyncio
import os
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import connect
from models.event import TrackedEvent, UserActivityEvent
from models.horizon import horizon
from models.retention import Policy, Step, mark_rewrite, take_step
from models.user import UserRole
from questlog.database import logins
from questlog.embedded import EmbeddedServers
from questlog.migration import migrate
from questlog.settings import Settings
from tests.bench.home import temporary_home
from workers.event import store

ROWS = int(os.environ.get("BENCH_ROWS", "2000000"))
EVENTS_A_SECOND = 1000
BATCHES_A_SECOND = 10
POLICY = Policy(90, 730)
# A learner has a hundred events in the week; three in four are of pages, as in the demo's course.
FILL = text("""
    INSERT INTO user_activity_events (subject_key, occurred_at, event_id, received_at, device_id, from_service,
        event_type, page_path, page_title, user_agent, ip_address, event_data)
    SELECT md5((number / 100)::text)::uuid, at, gen_random_uuid(), at, md5((number / 100)::text)::uuid, false,
        kind, '/oucontent/' || number % 5000, 'A page', 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101',
        '203.0.113.0', CASE kind WHEN 'page_view' THEN '{"loadTimeMs": 120}'::jsonb
            ELSE jsonb_build_object('questId', 'quest ' || number % 500, 'questTitle', 'A quest', 'xp', 50) END
    FROM (
        SELECT number, CAST(:monday AS timestamptz) + random() * interval '7 days' AS at,
            CASE WHEN number % 4 > 0 THEN 'page_view' ELSE 'quest_completed' END AS kind
        FROM generate_series(1, :rows) AS number
    ) AS made
""")
COPY = "INSERT INTO copied SELECT * FROM user_activity_events WHERE occurred_at >= :monday AND occurred_at < :sunday"


class Load:
    """Events that come in steadily, and how late each batch was stored."""

    def __init__(self, worker: AsyncEngine) -> None:
        self.latest, self.stored, self.refused = 0.0, 0, 0
        self._worker = worker

    async def go_on(self) -> None:
        """Store, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            began, number = perf_counter(), 0
            while True:
                due = began + number / BATCHES_A_SECOND
                await asyncio.sleep(max(0, due - perf_counter()))
                group.create_task(self._store(due))
                number += 1

    async def _store(self, due: float) -> None:
        batch = [an_event() for _ in range(EVENTS_A_SECOND // BATCHES_A_SECOND)]
        async with self._worker.begin() as connection:
            stored = await store(connection, batch, anonymize_after_days=POLICY.anonymize_after_days)
        self.stored += stored.stored
        self.refused += len(batch) - stored.stored
        self.latest = max(self.latest, perf_counter() - due)


def an_event() -> TrackedEvent:
    """One of somebody's, just now."""
    now = datetime.now(UTC)
    return TrackedEvent(uuid4(), now, now, "page_view", f"user {now.microsecond % 1000}", UserRole.STUDENT, False, "{}")


async def main() -> None:
    """Fill both weeks, copy the old one, anonymise it, write the other anew, and print the ratio."""
    now = datetime.now(UTC)
    monday = horizon(now, POLICY.anonymize_after_days) - timedelta(days=7)
    last_week = horizon(now, 1) - timedelta(days=7)
    with temporary_home() as home:
        async with EmbeddedServers(home) as servers:
            known = logins(Settings(database_url=servers.database_url))
            await migrate(known)
            superuser, worker = connect(servers.superuser_url, pool_size=1), connect(known.worker, pool_size=6)
            async with superuser.begin() as connection:
                for week in (monday, last_week):
                    await connection.execute(text("SELECT make_partitions(:monday, :monday)"), {"monday": week})
                    await connection.execute(FILL, {"monday": week, "rows": ROWS})
                await connection.execute(text("CREATE TABLE copied (LIKE user_activity_events INCLUDING ALL)"))
            copying, beside_copy = await timed_beside_load(worker, copy(superuser, monday))
            anonymising, beside = await timed_beside_load(worker, all_due(worker, Step.ANONYMIZE, now))
            async with worker.begin() as connection:
                await mark_rewrite(connection, UserActivityEvent, [last_week])
            writing, beside_writing = await timed_beside_load(worker, all_due(worker, Step.REWRITE, now))
            await superuser.dispose()
            await worker.dispose()
    for name, seconds, load in (
        ("INSERT … SELECT", copying, beside_copy),
        ("anonymised", anonymising, beside),
        ("written anew", writing, beside_writing),
    ):
        print(
            f"{name:20}{ROWS / seconds:10,.0f} rows/s{seconds:8.1f} s; meanwhile {load.stored / seconds:,.0f} events/s"
            f" stored, {load.refused} not, {load.latest:.2f} s late at most"
        )
    print(f"ratio: {copying / anonymising:.2f}")


async def timed_beside_load(worker: AsyncEngine, work: Coroutine[Any, Any, None]) -> tuple[float, Load]:
    """How many seconds the work takes while events come in."""
    load = Load(worker)
    coming = asyncio.create_task(load.go_on())
    began = perf_counter()
    await work
    seconds = perf_counter() - began
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    return seconds, load


async def copy(superuser: AsyncEngine, monday: datetime) -> None:
    """The limit."""
    async with superuser.begin() as connection:
        await connection.execute(text(COPY), {"monday": monday, "sunday": monday + timedelta(days=7)})


async def all_due(worker: AsyncEngine, step: Step, now: datetime) -> None:
    """All partitions that the step is due for."""
    part = True
    while part:
        async with worker.begin() as connection:
            part = bool(await take_step(connection, step, now, POLICY))


if __name__ == "__main__":
    asyncio.run(main())
