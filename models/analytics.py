"""Which UTC days' numbers of the platform have to be summed again."""

from collections.abc import Iterable
from datetime import date

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest


class DirtyDay(Base):
    """Somebody's contribution to this UTC day changed. Appended only: roll-ups never wait for each other here."""

    __tablename__ = "dirty_days"

    day: Mapped[date] = mapped_column(primary_key=True)


async def mark_days(connection: AsyncConnection, days: Iterable[date]) -> None:
    """Append the days to the log."""
    rows = unnest([DirtyDay.day], [(day,) for day in sorted(days)])
    await connection.execute(insert(DirtyDay).from_select(rows.c.keys(), select(rows)))


async def claim_day(connection: AsyncConnection, before: date) -> date | None:
    """Take the latest of the days before that one out of the log; None where there is none."""
    latest = select(func.max(DirtyDay.day)).where(DirtyDay.day < before).scalar_subquery()
    claimed = await connection.execute(delete(DirtyDay).where(DirtyDay.day == latest).returning(DirtyDay.day))
    return next(iter(claimed.scalars()), None)
