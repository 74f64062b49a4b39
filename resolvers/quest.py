"""Which of the platform's quests are popular, and how many of those who start one complete it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    cast,
    false,
    func,
    literal,
    select,
    true,
    type_coerce,
    union_all,
)

from models.base import among
from models.catalogue import CatalogueEntry
from models.contribution import DailyContribution
from models.quest import QuestAnalytics
from models.viewer import visible_to
from resolvers.connection import LARGEST_SIZE, check_range
from resolvers.reader import AnyRow
from resolvers.request import Request
from resolvers.window import Window


async def popular_quests(request: Request, window: Window, limit: int) -> list[AnyRow]:
    """The quests of the window with their number, id, title, views, starts, completions and popularity, the most
    popular first, ties by id; raises BadUserInputError where the limit is not 1 to 100."""
    check_range("limit", limit, 1, LARGEST_SIZE)
    sums, entry = QuestAnalytics, CatalogueEntry
    views, starts, completions = (func.sum(each) for each in (sums.views, sums.starts, sums.completions))
    popularity = (views + 2 * starts + 5 * completions).label("popularity")
    return await request.reader.rows(
        select(
            sums.quest.label("number"),
            entry.name.label("quest_id"),
            entry.title,
            views.label("views"),
            starts.label("starts"),
            completions.label("completions"),
            popularity,
        )
        .join(entry, entry.number == sums.quest)
        .where(window.holds(sums.day))
        .group_by(sums.quest, entry.number)
        .order_by(popularity.desc(), entry.name)
        .limit(limit)
    )


async def completion_rates(request: Request, quests: Sequence[int], window: Window) -> dict[int, float | None]:
    """Of each quest, by number, which share of those who started it in the window completed it after that; None where
    nobody started it, or the window reaches past the horizon."""
    if not window.tells_people_apart:
        return dict.fromkeys(quests)
    mine = DailyContribution
    # Within a day, what was completed only before the start comes first, then the start, then what was after it.
    day = 2 * type_coerce(mine.day - literal(window.first), Integer)
    done = union_all(
        _each(request, window, mine.quest_starts, is_start=true(), at=day),
        _each(request, window, mine.quest_completions, is_start=false(), at=day - 1),
        _each(request, window, mine.quests_finished, is_start=false(), at=day + 1),
    ).subquery()
    of_each = (
        select(
            done.c.quest,
            func.min(done.c.at).filter(done.c.is_start).label("started"),
            func.max(done.c.at).filter(~done.c.is_start).label("completed"),
        )
        .where(among(done.c.quest, quests))
        .group_by(done.c.quest, done.c.subject_key)
        .subquery()
    )
    share = func.avg(cast(func.coalesce(of_each.c.completed > of_each.c.started, false()), Integer))
    rows = await request.reader.rows(
        select(of_each.c.quest, share.label("rate")).where(of_each.c.started.is_not(None)).group_by(of_each.c.quest)
    )
    return dict.fromkeys(quests) | {row.quest: float(row.rate) for row in rows}


def _each(
    request: Request, window: Window, column: Any, *, is_start: ColumnElement[bool], at: ColumnElement[int]
) -> Select[UUID, int, bool, int]:
    mine = DailyContribution
    return select(
        mine.subject_key, func.unnest(column, type_=Integer).label("quest"), is_start.label("is_start"), at.label("at")
    ).where(window.holds(mine.day), column.is_not(None), visible_to(request.viewer, mine.subject_key))
