"""A learner's own record: the milestones, and what parents see of them."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest
from models.session import StoredEvent

SETTLING_DAYS = 14
RECENT_DAYS = 7
ENOUGH_ACTIVE_DAYS = 2


class LearningJourneyEvent(Base):
    """One milestone, which is one event: a quest completed twice is two. `day` is the learner's local day. One that was
    imported follows from no event here: deriving leaves it alone."""

    __tablename__ = "learning_journey_events"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date]
    kind: Mapped[str]
    quest_id: Mapped[str | None]
    task_id: Mapped[str | None]
    badge_id: Mapped[str | None]
    title: Mapped[str | None]
    xp: Mapped[int]
    pillar: Mapped[str | None]
    imported: Mapped[bool]


MilestoneKey = tuple[UUID, UUID, datetime]
"""Subject, event id and time, as of events."""
Row = dict[str, Any]


class Rhythm(StrEnum):
    """What a parent sees in place of a score."""

    GREEN = "GREEN"
    YELLOW = "YELLOW"
    NOT_ENOUGH_DATA = "NOT_ENOUGH_DATA"


def milestone(event: StoredEvent, day: date) -> Row | None:
    """The columns of the milestone that an event makes, but for its subject; None where it makes none."""
    kind = event.kind.milestone
    if kind is None:
        return None
    data = event.data
    return {
        "event_id": event.event_id,
        "occurred_at": event.occurred_at,
        "day": day,
        "kind": kind,
        "quest_id": data.get("questId"),
        "task_id": data.get("taskId"),
        "badge_id": data.get("badgeId"),
        "title": data.get("taskTitle") or data.get("questTitle") or data.get("badgeName"),
        "xp": data.get("xp") or 0,
        "pillar": data.get("pillar"),
        "imported": False,
    }


async def insert_imported(connection: AsyncConnection, milestones: Mapping[MilestoneKey, Row]) -> set[MilestoneKey]:
    """Keep imported milestones, whole rows by their keys, and say which were not imported before.

    Of two imported ones with the same key the first stays; one that an event has made gives way.
    """
    key = [LearningJourneyEvent.subject_key, LearningJourneyEvent.event_id, LearningJourneyEvent.occurred_at]
    columns = [getattr(LearningJourneyEvent, column.name) for column in LearningJourneyEvent.__table__.columns]
    # One order for everybody: two that bring the same milestones never wait for each other in a circle.
    rows = unnest(columns, [[milestones[each][column.key] for column in columns] for each in sorted(milestones)])
    statement = insert(LearningJourneyEvent).from_select(rows.c.keys(), select(rows))
    told = {
        column.key: statement.excluded[column.key] for column in columns if column.key not in {each.key for each in key}
    }
    kept = await connection.execute(
        statement.on_conflict_do_update(index_elements=key, set_=told, where=~LearningJourneyEvent.imported).returning(
            *key
        )
    )
    return {(row.subject_key, row.event_id, row.occurred_at) for row in kept}


def rhythm(known_since: date, active_days: Sequence[date], today: date) -> Rhythm:
    """GREEN with two or more active days among the last seven; not told before 14 local dates have passed. The days
    come in order."""
    if not enough_data(known_since, today):
        return Rhythm.NOT_ENOUGH_DATA
    since = today - timedelta(days=RECENT_DAYS)
    recent = bisect_right(active_days, today) - bisect_right(active_days, since)
    return Rhythm.GREEN if recent >= ENOUGH_ACTIVE_DAYS else Rhythm.YELLOW


def enough_data(known_since: date, today: date) -> bool:
    """Whether 14 local dates have passed since the one on which somebody became known."""
    return today - known_since >= timedelta(days=SETTLING_DAYS)
