"""A learner's journey: all-time totals, XP, rhythm, and the milestones one by one."""

from collections.abc import Sequence
from datetime import date
from functools import cache, lru_cache
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, ScalarSelect, Select, distinct, func, select, true

from models.base import gathered
from models.engagement import MILLISECONDS_AN_HOUR, DailyActivity, current_streak
from models.journey import LearningJourneyEvent, Rhythm, rhythm
from models.taxonomy import MilestoneKind
from models.user import User
from models.viewer import visible_to
from resolvers.connection import (
    Key,
    Order,
    Page,
    Slice,
    columns_of,
    is_asked,
    needed,
    needs_of,
    page,
    page_of_each,
    rows_by_key,
)
from resolvers.engagement import active_days
from resolvers.prepared import Prepared
from resolvers.reader import AnyRow
from resolvers.request import Fields, Request

BY_TIME = Order("milestones", (LearningJourneyEvent.occurred_at, LearningJourneyEvent.event_id))
KEY = (LearningJourneyEvent.subject_key, LearningJourneyEvent.event_id, LearningJourneyEvent.occurred_at)
ALWAYS = (*KEY, LearningJourneyEvent.kind)
OF_MILESTONES = (
    LearningJourneyEvent.quest_id,
    LearningJourneyEvent.badge_id,
    LearningJourneyEvent.title,
    LearningJourneyEvent.xp,
    LearningJourneyEvent.pillar,
)
MILESTONES_NEEDED_BY = {each.key: {each.key} for each in OF_MILESTONES} | {"title": {"title", "quest_title"}}
NEEDED_BY = {
    "active_days": {"current_streak", "rhythm"},
    "totals": {"first_quest_date", "total_quests_started", "total_quests_completed", "badges_earned", "total_xp"},
    "xp_by_pillar": {"xp_by_pillar", "favorite_pillar"},
    "milliseconds": {"time_on_platform_hours"},
}


class Totals(NamedTuple):
    """What all milestones of a learner add up to."""

    first_quest_date: date | None
    quests_started: int
    quests_completed: int
    badges_earned: int
    total_xp: int


NOTHING = Totals(None, 0, 0, 0, 0)


class Journey(NamedTuple):
    """A learner's all-time figures; `xp_by_pillar` has the most first, ties by name."""

    first_quest_date: date | None
    quests_started: int
    quests_completed: int
    current_streak: int
    badges_earned: int
    time_on_platform_hours: float
    xp_by_pillar: list[tuple[str, int]]
    total_xp: int
    rhythm: Rhythm


async def journeys(
    request: Request, subject_keys: Sequence[UUID], _: None, fields: Fields | None = None
) -> dict[UUID, Journey]:
    """Each subject's journey, right in these fields."""
    statement = _journeys(visible_to(request.viewer, User.subject_key), needs_of(NEEDED_BY, fields))
    rows = await request.reader.rows(statement, subject_keys=list(subject_keys))
    return {row.subject_key: _journey(request, row) for row in rows}


@lru_cache(maxsize=100)
def _journeys(visible: ColumnElement[bool], needs: frozenset[str]) -> Prepared:
    columns = needed(
        needs,
        active_days=active_days(),
        totals=_totals(),
        xp_by_pillar=_xp_by_pillar(),
        milliseconds=_milliseconds(),
    )
    theirs = select(User.subject_key, User.time_zone, User.known_since, *columns)
    return Prepared(theirs.where(is_asked(User.subject_key), visible))


def _journey(request: Request, row: AnyRow) -> Journey:
    today = request.today(row.time_zone)
    active = row.active_days or []
    (totals,) = row.totals or [NOTHING]
    return Journey(
        first_quest_date=totals.first_quest_date,
        quests_started=totals.quests_started,
        quests_completed=totals.quests_completed,
        current_streak=current_streak(active, today),
        badges_earned=totals.badges_earned,
        time_on_platform_hours=(row.milliseconds or 0) / MILLISECONDS_AN_HOUR,
        xp_by_pillar=sorted(row.xp_by_pillar or [], key=lambda pillar: (-pillar[1], pillar[0])),
        total_xp=totals.total_xp,
        rhythm=rhythm(row.known_since.astimezone(ZoneInfo(row.time_zone)).date(), active, today),
    )


async def milestones(
    request: Request, subject_keys: Sequence[UUID], wanted: Page, fields: Fields | None = None
) -> dict[UUID, Slice]:
    """That page of each subject's milestones, newest first."""
    return await page_of_each(request, subject_keys, _with(needs_of(MILESTONES_NEEDED_BY, fields)), wanted)


async def recent_completions(
    request: Request, subject_keys: Sequence[UUID], first: int, fields: Fields | None = None
) -> dict[UUID, list[AnyRow]]:
    """The quests that each subject completed last, newest first."""
    completed = _completed(needs_of(MILESTONES_NEEDED_BY, fields))
    found = await page_of_each(request, subject_keys, completed, page(BY_TIME, first, None, None, None))
    return {key: slice_.rows for key, slice_ in found.items()}


@lru_cache(maxsize=50)
def _with(needs: frozenset[str]) -> Select[Any]:
    return select(*columns_of(ALWAYS, OF_MILESTONES, needs))


@lru_cache(maxsize=50)
def _completed(needs: frozenset[str]) -> Select[Any]:
    return _with(needs).where(LearningJourneyEvent.kind == MilestoneKind.QUEST_COMPLETED)


async def milestones_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The milestones of these subjects, ids and times; None where there is none that the viewer may see."""
    everything = _with(needs_of(MILESTONES_NEEDED_BY, None))
    visible = everything.where(visible_to(request.viewer, LearningJourneyEvent.subject_key))
    return await rows_by_key(request, visible, KEY, keys)


@cache
def _totals() -> ScalarSelect[list[Totals]]:
    milestone = LearningJourneyEvent
    return gathered(
        Totals,
        [
            func.min(milestone.day).filter(milestone.kind == MilestoneKind.QUEST_STARTED),
            _distinct(milestone.quest_id, MilestoneKind.QUEST_STARTED),
            _distinct(milestone.quest_id, MilestoneKind.QUEST_COMPLETED),
            _distinct(milestone.badge_id, MilestoneKind.BADGE_EARNED),
            func.coalesce(func.sum(milestone.xp), 0),
        ],
        select(milestone).where(milestone.subject_key == User.subject_key).correlate(User),
    )


@cache
def _xp_by_pillar() -> ScalarSelect[list[tuple[str, int]]]:
    milestone = LearningJourneyEvent
    return gathered(
        tuple[str, int],
        [milestone.pillar, func.sum(milestone.xp)],
        select(milestone)
        .where(milestone.subject_key == User.subject_key, milestone.pillar.is_not(None), milestone.xp > 0)
        .group_by(milestone.pillar)
        .correlate(User),
    )


def _distinct(what: Any, kind: MilestoneKind) -> ColumnElement[int]:
    return func.count(distinct(what)).filter(LearningJourneyEvent.kind == kind)


@cache
def _milliseconds() -> ScalarSelect[int]:
    lengths = func.unnest(DailyActivity.session_lengths).table_valued("length").render_derived()
    return (
        select(func.coalesce(func.sum(lengths.c.length), 0))
        .select_from(DailyActivity)
        .join(lengths, true())
        .where(DailyActivity.subject_key == User.subject_key)
        .scalar_subquery()
    )
