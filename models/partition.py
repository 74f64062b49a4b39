"""The weekly partitions: made ahead of time, and their indexes written anew once nothing more comes."""

from datetime import date, datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.horizon import horizon

AHEAD = timedelta(weeks=4)
QUIET = timedelta(days=8)  # an event may be seven days late
LARGEST_INDEX = 2**26
BY = {
    "user_activity_events": "occurred_at",
    "error_events": "occurred_at",
    "user_sessions": "started_at",
    "daily_contributions": "day",
}
"""The tables that are partitioned, and by which column."""
WEEKS = text(
    "SELECT inhparent::regclass::text, to_date(right(part.relname, 8), 'YYYYMMDD') FROM pg_inherits"
    " JOIN pg_class AS part ON part.oid = inhrelid AND part.relkind = 'r' ORDER BY 1, 2"
)

KEEP_PARTITIONS = f"LOCK TABLE {', '.join(f'ONLY {table}' for table in BY)} IN ACCESS SHARE MODE"
BEGIN = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {KEEP_PARTITIONS}"
"""The same as `see_one_moment` in one round trip, where SQLAlchemy begins nothing."""


async def see_one_moment(connection: AsyncConnection) -> None:
    """Let the transaction that begins with this only read, and see one moment, with all there is: a partition that is
    exchanged after its first look would be empty to it, so that none is before it ends."""
    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    await connection.exec_driver_sql(KEEP_PARTITIONS)


async def make_partitions(connection: AsyncConnection, now: datetime, anonymize_after_days: int) -> int:
    """Make those that are missing from the horizon to four weeks ahead, and say how many were."""
    since = horizon(now, anonymize_after_days)
    return await connection.scalar(select(func.make_partitions(since, now + AHEAD))) or 0


async def rebuild_index(connection: AsyncConnection, now: datetime) -> bool:
    """Write one B-tree anew, of a week that has been over for 8 days and was never done; false where there is none.

    As it grew in no order, a third of it is empty. Whoever writes to that week waits meanwhile, and whoever reads by
    that index: so larger ones than 64 MiB, which take longer than some two seconds, stay as they are. It waits for
    nobody longer than 200 ms, and then raises DBAPIError.
    """
    return await connection.scalar(select(func.rebuild_index(now - QUIET, LARGEST_INDEX))) or False


async def weeks(connection: AsyncConnection) -> dict[str, list[date]]:
    """By partitioned table the Mondays of its partitions."""
    found: dict[str, list[date]] = {}
    for table, week in await connection.execute(WEEKS):
        found.setdefault(table, []).append(week)
    return found
