"""Assessing learners: whenever their days have changed, and after each of their local midnights."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, Select, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import among, gathered, unnest
from models.engagement import DailyActivity
from models.horizon import midnight
from models.journey import LearningJourneyEvent
from models.risk import (
    WINDOWS,
    AssessmentDue,
    QuestStep,
    RecentDay,
    Record,
    RiskAssessment,
    assess,
    may_be_listed,
)
from models.rollup import held
from models.taxonomy import MilestoneKind
from models.user import User, UserRole

PEOPLE_AT_ONCE = 100
A_WHILE = timedelta(hours=1)
# A window's first day differs by up to a day around the world, and once more where a zone has changed.
SLACK = timedelta(days=3)
COLUMNS = [getattr(RiskAssessment, column.key) for column in RiskAssessment.__table__.columns]
KEY = [RiskAssessment.subject_key, RiskAssessment.days]


async def assess_soon(connection: AsyncConnection, subject_keys: Sequence[UUID], now: datetime) -> None:
    """Let the people among these subjects, whom the caller holds, be due `now`."""
    await connection.execute(
        update(AssessmentDue)
        .where(among(AssessmentDue.subject_key, subject_keys), AssessmentDue.due_at > now)
        .values(due_at=now)
    )


async def assess_due(
    connection: AsyncConnection, now: datetime, *, due_by: datetime | None = None, people: int = PEOPLE_AT_ONCE
) -> int:
    """Assess as of `now`, over every window, so many of those who are due by then or by `due_by`; says how many.

    Whoever is held by a roll-up is left to the next round: this never waits.
    """
    # OFFSET 0 keeps the lock out of the sorting, where it would be taken for everybody who is due.
    due = _due(due_by or now).limit(people).offset(0).subquery()
    keys = (await connection.scalars(select(due.c.subject_key).where(held(due.c.subject_key)))).all()
    if keys:
        found = (await connection.execute(records(keys, now))).all()
        # In a thread, so that the storing of batches goes on beside it.
        await _write(connection, *await asyncio.to_thread(_assess_all, found, now))
    return len(keys)


async def put_off(connection: AsyncConnection) -> None:
    """Let whoever has been due for longest wait for an hour."""
    now = datetime.now(UTC)
    longest = _due(now).limit(1).scalar_subquery()
    await connection.execute(
        update(AssessmentDue).where(AssessmentDue.subject_key == longest).values(due_at=now + A_WHILE)
    )


def records(subject_keys: Sequence[UUID], now: datetime) -> Select[*tuple[Any, ...]]:
    """The people of these keys, each with what `record` reads."""
    since = now.astimezone(UTC).date() - timedelta(days=max(WINDOWS)) - SLACK
    day, step = DailyActivity, LearningJourneyEvent
    theirs = select(day).where(day.subject_key == User.subject_key)
    last_visit = theirs.with_only_columns(func.max(day.day)).where(day.visited)
    recent = theirs.where(day.day >= since, or_(day.visited, day.active)).order_by(day.day)
    steps = (
        select(step)
        .where(
            step.subject_key == User.subject_key,
            step.occurred_at >= datetime.combine(since, time(0), UTC),
            step.kind.in_((MilestoneKind.QUEST_STARTED, MilestoneKind.QUEST_COMPLETED)),
        )
        .order_by(step.occurred_at, step.event_id)
    )
    return select(
        User.subject_key,
        User.user_id,
        User.role,
        User.time_zone,
        User.known_since,
        last_visit.scalar_subquery().label("last_visit"),
        gathered(RecentDay, [getattr(day, name) for name in RecentDay._fields], recent.correlate(User)).label("days"),
        gathered(QuestStep, [getattr(step, name) for name in QuestStep._fields], steps.correlate(User)).label("steps"),
    ).where(among(User.subject_key, subject_keys))


def record(row: Row[Any]) -> Record:
    """What a row of `records` says."""
    return Record(ZoneInfo(row.time_zone), row.known_since, row.last_visit, row.days, row.steps)


def _due(now: datetime) -> Select[UUID]:
    return select(AssessmentDue.subject_key).where(AssessmentDue.due_at <= now).order_by(AssessmentDue.due_at)


Values = list[tuple[Any, ...]]


def _assess_all(found: Sequence[Row[Any]], now: datetime) -> tuple[Values, Values]:
    """The rows of `risk_assessments` and of `assessments_due`."""
    assessed: Values = []
    due: Values = []
    for row in found:
        theirs = record(row)
        listed = row.role == UserRole.STUDENT and may_be_listed(theirs, now)
        for days in WINDOWS:
            said = assess(theirs, days, now)
            rank = -said.score if listed and said.score is not None else None
            factors = {name.value: told for name, *told in said.factors}
            assessed.append((row.subject_key, days, row.user_id, said.score, rank, factors, said.model, now))
        tomorrow = now.astimezone(theirs.zone).date() + timedelta(days=1)
        due.append((row.subject_key, midnight(tomorrow, theirs.zone)))
    return assessed, due


async def _write(connection: AsyncConnection, assessed: Values, due: Values) -> None:
    rows = insert(RiskAssessment).from_select([column.key for column in COLUMNS], unnest(COLUMNS, assessed).select())
    new = {column.key: rows.excluded[column.key] for column in COLUMNS if column not in KEY}
    await connection.execute(rows.on_conflict_do_update(index_elements=KEY, set_=new))
    next_time = unnest([AssessmentDue.subject_key, AssessmentDue.due_at], due)
    await connection.execute(
        update(AssessmentDue)
        .where(AssessmentDue.subject_key == next_time.c.subject_key)
        .values(due_at=next_time.c.due_at)
    )
