"""Where events stop to be told apart: what lies before is sealed."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

LEAST_DAYS = 16
"""Nobody may have events anonymised earlier."""
LONGER_THAN_A_DAY = timedelta(days=2)  # whatever clocks do meanwhile


def next_run(now: datetime) -> datetime:
    """The next 02:00 UTC, when what is old is anonymised; a time of exactly 02:00 is not its own next one."""
    now = now.astimezone(UTC)
    run = datetime.combine(now.date(), time(2), UTC)
    return run if run > now else run + timedelta(days=1)


def horizon(now: datetime, anonymize_after_days: int) -> datetime:
    """Monday 00:00 UTC of the oldest week whose Monday will be less than so many times 24 h old at the next run."""
    oldest = next_run(now) - timedelta(days=anonymize_after_days)
    monday = datetime.combine(oldest.date() - timedelta(days=oldest.weekday()), time(0), UTC)
    return monday + timedelta(days=7)


async def horizon_kept(connection: AsyncConnection, now: datetime, anonymize_after_days: int) -> datetime:
    """The horizon, or the end of the last week that is anonymised where that is later: nothing can be derived from it
    again, whatever the setting is now. It stays so until the connection's transaction ends."""
    found = select(func.greatest(horizon(now, anonymize_after_days), func.sealed_until()))
    sealed_before: datetime = (await connection.execute(found)).scalar_one()
    return sealed_before


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day, in UTC, also where the clock jumps over 00:00 or shows it twice."""
    naive = datetime.combine(day, time(0))
    earliest, latest = sorted(naive.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return earliest if earliest.astimezone(zone).date() == day else latest


def is_sealed(occurred_at: datetime, zone: ZoneInfo, sealed_before: datetime) -> bool:
    """Whether the local day of an event began before the horizon."""
    if occurred_at >= sealed_before + LONGER_THAN_A_DAY:
        return False
    return occurred_at < sealed_before or midnight(occurred_at.astimezone(zone).date(), zone) < sealed_before
