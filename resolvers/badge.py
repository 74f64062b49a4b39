"""Which of the platform's badges are popular, and how many of those who view one claim it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Select, cast, false, func, select, true, union_all

from models.badge import BadgeAnalytics
from models.base import among
from models.catalogue import CatalogueEntry
from models.contribution import DailyContribution
from models.viewer import visible_to
from resolvers.connection import LARGEST_SIZE, check_range
from resolvers.reader import AnyRow
from resolvers.request import Request
from resolvers.window import Window


async def popular_badges(request: Request, window: Window, limit: int) -> list[AnyRow]:
    """The badges of the window with their number, id, title, views, claims and how often they were earned, the most
    claimed first, ties by id; raises BadUserInputError where the limit is not 1 to 100."""
    check_range("limit", limit, 1, LARGEST_SIZE)
    sums, entry = BadgeAnalytics, CatalogueEntry
    claims = func.sum(sums.claims).label("claims")
    return await request.reader.rows(
        select(
            sums.badge.label("number"),
            entry.name.label("badge_id"),
            entry.title,
            func.sum(sums.views).label("views"),
            claims,
            func.sum(sums.earned).label("earned"),
        )
        .join(entry, entry.number == sums.badge)
        .where(window.holds(sums.day))
        .group_by(sums.badge, entry.number)
        .order_by(claims.desc(), entry.name)
        .limit(limit)
    )


async def claim_rates(request: Request, badges: Sequence[int], window: Window) -> dict[int, float | None]:
    """Of each badge, by number, which share of those who viewed it in the window claimed it in the window; None where
    nobody viewed it, or the window reaches past the horizon."""
    if not window.tells_people_apart:
        return dict.fromkeys(badges)
    done = union_all(
        _each(request, window, DailyContribution.badge_views, is_claim=false()),
        _each(request, window, DailyContribution.badge_claims, is_claim=true()),
    ).subquery()
    of_each = (
        select(
            done.c.badge,
            func.bool_or(~done.c.is_claim).label("viewed"),
            func.bool_or(done.c.is_claim).label("claimed"),
        )
        .where(among(done.c.badge, badges))
        .group_by(done.c.badge, done.c.subject_key)
        .subquery()
    )
    share = func.avg(cast(of_each.c.claimed, Integer))
    rows = await request.reader.rows(
        select(of_each.c.badge, share.label("rate")).where(of_each.c.viewed).group_by(of_each.c.badge)
    )
    return dict.fromkeys(badges) | {row.badge: float(row.rate) for row in rows}


def _each(request: Request, window: Window, column: Any, *, is_claim: ColumnElement[bool]) -> Select[UUID, int, bool]:
    mine = DailyContribution
    badge = func.unnest(column, type_=Integer).label("badge")
    return select(mine.subject_key, badge, is_claim.label("is_claim")).where(
        window.holds(mine.day), column.is_not(None), visible_to(request.viewer, mine.subject_key)
    )
