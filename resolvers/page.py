"""How much the platform's pages are viewed, how fast they load, and how long they are looked at."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import BigInteger, Integer, Text, column, func, select

from models.base import among
from models.catalogue import CatalogueEntry, Kind
from models.contribution import VIEWS, DailyContribution
from models.page import PageViewAnalytics, load_quantiles
from models.text import is_storable
from models.viewer import visible_to
from resolvers.connection import Order, Page, Slice
from resolvers.request import Request
from resolvers.window import Window

# With the number of views below zero both columns rise: most viewed first, and of as many by path.
MOST_VIEWED = Order("pageViews", (column("fewest", BigInteger), column("path", Text)), newest_first=False)


@dataclass(frozen=True)
class PageDays:
    """Columns of equal length, one entry a UTC day, oldest first, no gaps; unique users are None past the horizon."""

    dates: list[date]
    views: list[int]
    unique_users: list[int | None]


async def page_views(request: Request, page: Page, window: Window, prefix: str | None) -> Slice:
    """A page of the paths that begin so and were viewed in the window, with their number, views, sessions, entries and
    bounces in it."""
    sums, entry = PageViewAnalytics, CatalogueEntry
    found = (
        select(
            (-func.sum(sums.views)).label("fewest"),
            entry.name.label("path"),
            sums.page.label("number"),
            func.sum(sums.views).label("views"),
            func.sum(sums.sessions).label("sessions"),
            func.sum(sums.entries).label("entries"),
            func.sum(sums.bounces).label("bounces"),
        )
        .join(entry, entry.number == sums.page)
        .where(window.holds(sums.day), entry.kind == Kind.PAGE)
        .group_by(sums.page, entry.name)
        .having(func.sum(sums.views) > 0)
    )
    if prefix is not None:
        found = found.where(func.starts_with(entry.name, prefix if is_storable(prefix) else None))
    return page.slice(await request.reader.rows(page.of(select(found.subquery())), **page.parameters()))


async def unique_users(request: Request, pages: Sequence[int], window: Window) -> dict[int, int | None]:
    """Of each page, by number, how many subjects viewed it in the window; None where it reaches past the horizon."""
    if not window.tells_people_apart:
        return dict.fromkeys(pages)
    mine = DailyContribution
    views = (
        select((func.unnest(mine.page_views, type_=Integer) // VIEWS).label("page"), mine.subject_key)
        .where(window.holds(mine.day), mine.page_views.is_not(None), visible_to(request.viewer, mine.subject_key))
        .subquery()
    )
    viewers = select(views).where(among(views.c.page, pages)).distinct().subquery()
    users = func.count().label("users")
    rows = await request.reader.rows(select(viewers.c.page, users).group_by(viewers.c.page))
    return dict.fromkeys(pages, 0) | {row.page: row.users for row in rows}


async def load_times(
    request: Request, pages: Sequence[int], window: Window
) -> dict[int, tuple[float | None, float | None]]:
    """Of each page, by number, the median and the 95th percentile of its load times in the window, in milliseconds."""
    sums = PageViewAnalytics
    bins = (
        select(sums.page, func.unnest(sums.load_keys).label("key"), func.unnest(sums.load_counts).label("views"))
        .where(window.holds(sums.day), among(sums.page, pages))
        .subquery()
    )
    rows = await request.reader.rows(
        select(bins.c.page, bins.c.key, func.sum(bins.c.views).label("views")).group_by(bins.c.page, bins.c.key)
    )
    found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        found[row.page].append((row.key, row.views))
    return {page: load_quantiles(found[page]) for page in pages}


async def time_on_page(request: Request, pages: Sequence[int], window: Window) -> dict[int, float | None]:
    """Of each page, by number, the median of its visible seconds in the window."""
    sums = PageViewAnalytics
    visible = (
        select(sums.page, func.unnest(sums.visible_seconds).label("seconds"))
        .where(window.holds(sums.day), among(sums.page, pages))
        .subquery()
    )
    middle = func.percentile_cont(0.5).within_group(visible.c.seconds).label("seconds")
    rows = await request.reader.rows(select(visible.c.page, middle).group_by(visible.c.page))
    return dict.fromkeys(pages) | {row.page: row.seconds for row in rows}


async def page_days(request: Request, pages: Sequence[int], window: Window) -> dict[int, PageDays]:
    """Of each page, by number, its views and unique users day by day."""
    sums = PageViewAnalytics
    rows = await request.reader.rows(
        select(sums.page, sums.day, sums.views, sums.unique_users).where(
            window.holds(sums.day), among(sums.page, pages)
        )
    )
    kept = {(row.page, row.day): row for row in rows}

    def days_of(page: int) -> PageDays:
        of_days = [kept.get((page, day)) for day in window.days]
        return PageDays(
            dates=list(window.days),
            views=[row.views if row else 0 for row in of_days],
            unique_users=[
                None if day < window.unsealed else row.unique_users if row else 0
                for day, row in zip(window.days, of_days, strict=True)
            ],
        )

    return {page: days_of(page) for page in pages}
