"""The platform's daily numbers: sums of what subjects contributed, taken anew for the days that changed."""

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from models.analytics import DirtyDay, claim_day
from models.badge import BadgeAnalytics
from models.base import Base
from models.contribution import VIEWS, DailyContribution, View
from models.horizon import horizon_kept
from models.page import PageViewAnalytics
from models.quest import QuestAnalytics

Numbers = InstrumentedAttribute[Any] | ColumnElement[Any]
TURN = func.hashtextextended("analytics", 0)


async def refresh(
    connection: AsyncConnection, now: datetime, *, anonymize_after_days: int, before: date = date.max
) -> date | None:
    """Sum again, in the connection's transaction, the latest UTC day before that one that changed; gives which it was.

    None where there is none, and while another sums. Days sealed at `now` stay as they are.
    """
    if not await connection.scalar(select(func.pg_try_advisory_xact_lock(TURN))):
        return None
    day = await claim_day(connection, before)
    if day and day >= (await horizon_kept(connection, now, anonymize_after_days)).date():
        await _sum(connection, day)
    return day


async def sum_again(connection: AsyncConnection, day: date) -> Counter[str]:
    """Sum an unsealed UTC day that nobody marked, after whoever sums; gives by table how many rows were not as they
    should be. Of a day that is marked none are counted: it was to be summed anyway."""
    await connection.execute(select(func.pg_advisory_xact_lock(TURN)))
    marks = await connection.scalars(delete(DirtyDay).where(DirtyDay.day == day).returning(DirtyDay.day))
    differing = await _sum(connection, day)
    return Counter() if marks.all() else differing


async def _sum(connection: AsyncConnection, day: date) -> Counter[str]:
    sums = {PageViewAnalytics: _pages(day), QuestAnalytics: _quests(day), BadgeAnalytics: _badges(day)}
    return Counter({table.__tablename__: await _replace(connection, table, day, of) for table, of in sums.items()})


async def _replace(connection: AsyncConnection, table: type[Base], day: date, sums: Select[Any]) -> int:
    """Let the table hold these sums of the day and no others; rows that are the same already stay untouched. Gives how
    many do not."""
    fresh = sums.cte("fresh")
    columns = table.__table__.columns
    key = [column for column in columns if column.primary_key]
    values = [column for column in columns if not column.primary_key]
    still_there = exists().where(*(column == fresh.c[column.name] for column in key))
    gone = delete(table).where(columns.day == day, ~still_there).returning(columns.day).cte("gone")
    statement = insert(table).from_select(
        [column.name for column in columns], select(*(fresh.c[column.name] for column in columns))
    )
    written = (
        statement.on_conflict_do_update(
            index_elements=key,
            set_={column.name: statement.excluded[column.name] for column in values},
            where=or_(*(column.is_distinct_from(statement.excluded[column.name]) for column in values)),
        )
        .returning(columns.day)
        .cte("written")
    )
    changed = union_all(select(gone.c.day), select(written.c.day)).subquery()
    return await connection.scalar(select(func.count()).select_from(changed)) or 0


def _pages(day: date) -> Select[Any]:
    mine = DailyContribution
    counted = _counted(
        day,
        "page",
        {
            "views": _array(_viewed(View.AGAIN)),
            "sessions": _array(_viewed(View.FIRST)),
            "entries": _array(_viewed(View.ENTRY)),
            "bounces": _array(_viewed(View.BOUNCE)),
            "exits": mine.page_exits,
            # A subject has one row a day: once in it is one user.
            "unique_users": _array(_viewed(View.AGAIN).distinct()),
        },
    ).subquery()
    load = _each(day, view=mine.page_views, key=mine.load_keys).subquery()
    page = (type_coerce(load.c.view, Integer) // VIEWS).label("page")
    bins = (
        select(load.c.day, page, load.c.key, func.count().label("views"))
        .where(load.c.key.is_not(None))
        .group_by(load.c.day, page, load.c.key)
        .subquery()
    )
    loads = (
        select(
            bins.c.day,
            bins.c.page,
            func.array_agg(aggregate_order_by(bins.c.key, bins.c.key)).label("keys"),
            func.array_agg(aggregate_order_by(bins.c.views, bins.c.key)).label("counts"),
        )
        .group_by(bins.c.day, bins.c.page)
        .subquery()
    )
    visible = _each(day, page=mine.page_exits, seconds=mine.visible_seconds).subquery()
    seconds = (
        select(
            visible.c.day,
            visible.c.page,
            func.array_agg(aggregate_order_by(visible.c.seconds, visible.c.seconds)).label("seconds"),
        )
        .group_by(visible.c.day, visible.c.page)
        .subquery()
    )
    return (
        select(
            counted.c.day,
            counted.c.page,
            counted.c.views,
            counted.c.unique_users,
            counted.c.sessions,
            counted.c.entries,
            counted.c.bounces,
            loads.c["keys"].label("load_keys"),
            loads.c.counts.label("load_counts"),
            seconds.c.seconds.label("visible_seconds"),
        )
        .select_from(counted)
        .outerjoin(loads, and_(loads.c.day == counted.c.day, loads.c.page == counted.c.page))
        .outerjoin(seconds, and_(seconds.c.day == counted.c.day, seconds.c.page == counted.c.page))
    )


def _quests(day: date) -> Select[Any]:
    mine = DailyContribution
    columns = {"views": mine.quest_views, "starts": mine.quest_starts, "completions": mine.quest_completions}
    return _counted(day, "quest", columns)


def _badges(day: date) -> Select[Any]:
    mine = DailyContribution
    columns = {"views": mine.badge_views, "claims": mine.badge_claims, "earned": mine.badges_earned}
    return _counted(day, "badge", columns)


def _counted(day: date, item: str, columns: Mapping[str, Numbers]) -> Select[Any]:
    """By day and item how often it stands in each of the columns."""
    found = union_all(
        *(_each(day, **{item: column}).add_columns(literal(name).label("column")) for name, column in columns.items())
    ).subquery()
    counts = (func.count().filter(found.c.column == name).label(name) for name in columns)
    return select(found.c.day, found.c[item], *counts).group_by(found.c.day, found.c[item])


def _viewed(least: View) -> Select[Any]:
    """The pages of the views that are at least this to their session."""
    view = func.unnest(DailyContribution.page_views, type_=Integer).column_valued("view")
    return select(view // VIEWS).where(view % VIEWS >= least).correlate(DailyContribution)


def _array(numbers: Select[Any]) -> ColumnElement[Any]:
    return func.array(numbers.scalar_subquery())


def _each(day: date, **columns: Numbers) -> Select[Any]:
    """A row for each place in these columns, whose arrays run side by side."""
    places = (func.unnest(column).label(name) for name, column in columns.items())
    return select(DailyContribution.day, *places).where(DailyContribution.day == day)
