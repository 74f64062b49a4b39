"""How engaged a learner was over the last days, and how many events of each category they had."""

from collections.abc import Sequence
from datetime import UTC, date, timedelta
from functools import cache, lru_cache
from itertools import zip_longest
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Date, DateTime, ScalarSelect, Select, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from models.base import gathered
from models.engagement import CATEGORIES, DailyActivity, Engagement, KeptDay, KeptMilestone, engagement
from models.journey import LearningJourneyEvent
from models.user import User
from models.viewer import visible_to
from resolvers.connection import check_range, is_asked, needed, needs_of
from resolvers.prepared import Prepared
from resolvers.request import Fields, Request

LONGEST_WINDOW = 365
# A window's first day differs by up to a day around the world, and once more where a zone has changed.
SLACK = timedelta(days=3)
NEEDED_BY = {
    "days": {
        "active_days",
        "visit_days",
        "sessions",
        "median_session_minutes",
        "time_on_platform_hours",
        "logins",
        "quests_viewed",
        "events",
        "active_minutes",
    },
    "milestones": {
        "quests_started",
        "quests_completed",
        "quests_abandoned",
        "tasks_completed",
        "badges_earned",
        "completion_rate",
        "xp",
    },
    "active_days": {"current_streak", "longest_streak", "last_active_on"},
}
SINCE = bindparam("since", type_=Date())
"""The first day that anybody's window may have."""


def check_days(days: int) -> int:
    """The length of a window, 1 to 365; raises BadUserInputError."""
    check_range("days", days, 1, LONGEST_WINDOW)
    return days


async def engagements(
    request: Request, subject_keys: Sequence[UUID], days: int, fields: Fields | None = None
) -> dict[UUID, Engagement]:
    """Each subject's figures over their last local days, today included, right in these fields."""
    statement = _engagements(visible_to(request.viewer, User.subject_key), needs_of(NEEDED_BY, fields))
    rows = await request.reader.rows(statement, subject_keys=list(subject_keys), since=_since(request, days))
    return {
        row.subject_key: engagement(
            window(request.today(row.time_zone), days),
            row.days or [],
            row.milestones or [],
            row.active_days or [],
            request.now,
        )
        for row in rows
    }


@lru_cache(maxsize=100)
def _engagements(visible: ColumnElement[bool], needs: frozenset[str]) -> Prepared:
    columns = needed(needs, days=_kept_days(), milestones=_kept_milestones(), active_days=active_days())
    return Prepared(_of(visible).add_columns(*columns))


async def event_counts(request: Request, subject_keys: Sequence[UUID], days: int) -> dict[UUID, list[int]]:
    """Each subject's events over their last local days, by category in the enum's order."""
    statement = _event_counts(visible_to(request.viewer, User.subject_key))
    rows = await request.reader.rows(statement, subject_keys=list(subject_keys), since=_since(request, days))
    found = {}
    for row in rows:
        wanted = set(window(request.today(row.time_zone), days))
        counted = [of_day for day, of_day in row.counts if day in wanted]
        # Each day's ends with its last category that had any.
        sums = [sum(of_category) for of_category in zip_longest(*counted, fillvalue=0)]
        found[row.subject_key] = sums + [0] * (len(CATEGORIES) - len(sums))
    return found


@lru_cache(maxsize=100)
def _event_counts(visible: ColumnElement[bool]) -> Prepared:
    columns = [DailyActivity.day, DailyActivity.events_by_category]
    return Prepared(_of(visible).add_columns(gathered(tuple[date, list[int]], columns, _days()).label("counts")))


@lru_cache(maxsize=100)
def window(today: date, days: int) -> tuple[date, ...]:
    """The last calendar days, oldest first, today included."""
    last = today.toordinal()
    return tuple(date.fromordinal(day) for day in range(last - days + 1, last + 1))


@cache
def active_days() -> ScalarSelect[list[date]]:
    """A user's active days of all time, in order; None where there are none."""
    return (
        select(func.array_agg(aggregate_order_by(DailyActivity.day, DailyActivity.day)))
        .where(DailyActivity.subject_key == User.subject_key, DailyActivity.active)
        .correlate(User)
        .scalar_subquery()
    )


def _of(visible: ColumnElement[bool]) -> Select[UUID, str]:
    return select(User.subject_key, User.time_zone).where(is_asked(User.subject_key), visible)


def _since(request: Request, days: int) -> date:
    return request.now.astimezone(UTC).date() - timedelta(days=days) - SLACK


def _kept_days() -> ScalarSelect[Any]:
    return gathered(KeptDay, [getattr(DailyActivity, field) for field in KeptDay._fields], _days())


def _kept_milestones() -> ScalarSelect[Any]:
    milestone = LearningJourneyEvent
    return gathered(
        KeptMilestone,
        [getattr(milestone, field) for field in KeptMilestone._fields],
        select(milestone)
        .where(milestone.subject_key == User.subject_key, milestone.occurred_at >= cast(SINCE, DateTime(timezone=True)))
        .order_by(milestone.occurred_at, milestone.event_id)
        .correlate(User),
    )


def _days() -> Select[Any]:
    theirs = select(DailyActivity).where(DailyActivity.subject_key == User.subject_key, DailyActivity.day >= SINCE)
    return theirs.correlate(User)
