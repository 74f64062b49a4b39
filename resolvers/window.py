"""The last calendar days of the whole platform, which are UTC days."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute

from models.horizon import LEAST_DAYS, horizon
from models.viewer import Role
from resolvers.engagement import check_days, window
from resolvers.request import Request


@dataclass(frozen=True)
class Window:
    """Days from the first to the last, both included, and the first day on which people can still be told apart."""

    first: date
    last: date
    unsealed: date

    @property
    def days(self) -> tuple[date, ...]:
        """The days, oldest first."""
        return window(self.last, (self.last - self.first).days + 1)

    @property
    def since(self) -> datetime:
        """The instant it begins."""
        return datetime.combine(self.first, time(0), UTC)

    @property
    def until(self) -> datetime:
        """The instant it ends, which is not included: what a fast clock has sent of the day after waits for it."""
        return self.since + timedelta(days=len(self.days))

    @property
    def tells_people_apart(self) -> bool:
        """Whether all of it lies after the horizon."""
        return self.first >= self.unsealed

    def holds(self, day: InstrumentedAttribute[date]) -> ColumnElement[bool]:
        """Whether a column's day is in it."""
        return day.between(self.first, self.last)


async def platform_window(request: Request, days: int) -> Window:
    """The last so many UTC days, today included: for admins, whom alone figures of the platform are for.

    Raises UnauthenticatedError, ForbiddenError and BadUserInputError.
    """
    request.require(Role.ADMIN)
    today = request.now.astimezone(UTC).date()
    first = today - timedelta(days=check_days(days) - 1)
    sealed_before = horizon(request.now, request.rules.anonymize_after_days)
    # Younger days lie after it in any case.
    if first < horizon(request.now, LEAST_DAYS).date():
        sealed_before = await request.loader(_horizons_kept).load(sealed_before)
    return Window(first, today, sealed_before.date())


async def _horizons_kept(request: Request, horizons: Sequence[datetime]) -> list[datetime]:
    """Each, or the end of what is anonymised where that is later: asked once a request."""
    ((sealed_until,),) = await request.reader.rows(select(func.sealed_until()))
    return [max(each, sealed_until or each) for each in horizons]
