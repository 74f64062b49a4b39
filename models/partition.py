"""The weekly partitions, made ahead of time."""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from models.horizon import horizon

AHEAD = timedelta(weeks=4)


async def make_partitions(connection: AsyncConnection, now: datetime, anonymize_after_days: int) -> int:
    """Make those that are missing from the horizon to four weeks ahead, and say how many were."""
    since = horizon(now, anonymize_after_days)
    return await connection.scalar(select(func.make_partitions(since, now + AHEAD))) or 0
