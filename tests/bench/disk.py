"""How many bytes of PostgreSQL's disk a stored event takes, indexes and roll-ups included.

A million events of the demo's kind: its course taken thirteen times, by other people, stored in the order of time and
rolled up as they come. Everything that follows from them is there when it is measured: every learner is assessed, the
platform's numbers are summed, and what is done in the nights is done.
"""

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import connect
from models.event import TrackedEvent
from models.partition import rebuild_index
from questlog.database import logins
from questlog.demo.course import Course
from questlog.demo.diary import events
from questlog.embedded import EmbeddedServers
from questlog.migration import migrate
from questlog.settings import Settings
from tests.bench.bare import tracked
from tests.bench.home import temporary_home
from tests.bench.school import derive as derive_all
from workers.event import store
from workers.rollup import roll_up

COPIES = int(os.environ.get("BENCH_COPIES", "13"))
BATCH = 500
BATCHES_A_ROUND = 20
ROUNDS_BETWEEN_ASSESSMENTS = 10
SIZES = text("""
    SELECT coalesce(parent.relname, own.relname) AS name, kind, sum(size) AS size
    FROM (
        SELECT oid AS relid, 'rows' AS kind, pg_table_size(oid) AS size FROM pg_class
        UNION ALL
        SELECT indrelid, regexp_replace(pg_get_indexdef(indexrelid), '.*USING ', ''), pg_table_size(indexrelid)
        FROM pg_index
    ) AS part
    JOIN pg_class AS own ON own.oid = relid AND own.relkind = 'r' AND own.relnamespace = 'public'::regnamespace
    LEFT JOIN pg_inherits ON inhrelid = relid
    LEFT JOIN pg_class AS parent ON parent.oid = inhparent
    GROUP BY 1, 2
    HAVING sum(size) > 0
    ORDER BY 1, 3 DESC
""")


def happenings(course: Course) -> Iterator[TrackedEvent]:
    """Everything, in the order of time."""
    random = Random("ids")
    once = sorted(events(course), key=lambda event: event["occurredAt"])
    for event in once:
        for copy in range(COPIES):
            shift = timedelta(milliseconds=random.randrange(-600_000, 600_000))
            at = datetime.fromisoformat(event["occurredAt"]) + shift
            ids = {"eventId": str(UUID(int=random.getrandbits(128), version=4)), "occurredAt": at.isoformat()}
            if "deviceId" in event:
                ids["deviceId"] = str(UUID(int=UUID(event["deviceId"]).int ^ copy))
            yield tracked({**event, **ids}, f"{event['userId']}-{copy}", at)


async def main() -> None:
    """Store, and print a table."""
    with temporary_home() as home:
        async with EmbeddedServers(home) as servers:
            known = logins(Settings(database_url=servers.database_url))
            await migrate(known)
            worker, owner = connect(known.worker, pool_size=1), connect(servers.superuser_url, pool_size=1)
            now, number = datetime.now(UTC), 0
            course = Course.read((now - timedelta(days=1)).date())
            coming = happenings(course)
            for index, batch in enumerate(iter(lambda: list(islice(coming, BATCH)), [])):
                async with worker.begin() as connection:
                    number += (await store(connection, batch, anonymize_after_days=90)).stored
                if index % BATCHES_A_ROUND == 0:
                    await derive(worker, now)
                if index % (BATCHES_A_ROUND * ROUNDS_BETWEEN_ASSESSMENTS) == 0:
                    await derive_all(worker)
            await derive_all(worker)
            await rebuild_all(worker, now)
            async with owner.connect() as connection:
                sizes = (await connection.execute(SIZES)).all()
            await worker.dispose()
            await owner.dispose()
    for name, kind, size in sizes:
        print(f"{name:28}{kind:52}{size / number:8.1f}")
    print(f"{f'bytes an event, of {number:,}':80}{sum(size for *_, size in sizes) / number:8.1f}")


async def derive(worker: AsyncEngine, now: datetime) -> None:
    """Roll up everything that changed."""
    while True:
        async with worker.begin() as connection:
            if not await roll_up(connection, now, anonymize_after_days=90):
                return


async def rebuild_all(worker: AsyncEngine, now: datetime) -> None:
    """What is done in the nights: indexes of the weeks that are over are written anew."""
    while True:
        async with worker.begin() as connection:
            if not await rebuild_index(connection, now):
                return


if __name__ == "__main__":
    asyncio.run(main())
