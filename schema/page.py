"""The platform's pages."""

from datetime import date

import strawberry

from resolvers import page as pages
from resolvers.page import PageDays
from resolvers.reader import AnyRow
from resolvers.window import Window
from schema.node import Info
from schema.scalars import BigInt


@strawberry.type(description="Columns of equal length, one entry a UTC day, oldest first, no gaps.")
class PageViewDays:
    """The contract's PageViewDays."""

    dates: list[date] = strawberry.field(description="Which day each entry of the other columns is of, in UTC.")
    views: list[int] = strawberry.field(description="How often it was viewed.")
    unique_users: list[int | None] = strawberry.field(
        description="Distinct users, and devices without one, who viewed it on the day; null where "
        "events are anonymised, and nobody can be told apart."
    )

    @classmethod
    def of(cls, days: PageDays) -> "PageViewDays":
        """The days in this shape."""
        return cls(**vars(days))


@strawberry.type(description="A page over the last UTC days, today included.")
class PageView:
    """The contract's PageView."""

    number: strawberry.Private[int]
    window: strawberry.Private[Window]
    path: str = strawberry.field(description="Its path, without query and fragment.")
    views: BigInt = strawberry.field(description="How often it was viewed.")
    sessions: int = strawberry.field(
        description="Sessions in which it was viewed, by the day of their first view of it."
    )
    bounce_rate: float | None = strawberry.field(
        description="Of the sessions that entered on it, the share that bounced; null where none did."
    )

    @strawberry.field(
        description="Distinct users, and devices without one, who viewed it; null where the days reach back to "
        "anonymised events, where nobody can be told apart."
    )
    async def unique_users(self, info: Info) -> int | None:
        return await info.context.load(pages.unique_users, self.number, self.window)

    @strawberry.field(description="Half of its load times are no longer; within 1%, null where none is known.")
    async def median_load_time_ms(self, info: Info) -> float | None:
        return (await info.context.load(pages.load_times, self.number, self.window))[0]

    @strawberry.field(description="95% of its load times are no longer; within 1%, null where none is known.")
    async def p95_load_time_ms(self, info: Info) -> float | None:
        return (await info.context.load(pages.load_times, self.number, self.window))[1]

    @strawberry.field(description="The median of how long it was visible at a visit; null where that is not known.")
    async def median_time_on_page_seconds(self, info: Info) -> float | None:
        return await info.context.load(pages.time_on_page, self.number, self.window)

    @strawberry.field(description="The same figures day by day.")
    async def daily(self, info: Info) -> PageViewDays:
        return PageViewDays.of(await info.context.load(pages.page_days, self.number, self.window))

    @classmethod
    def of(cls, window: Window, row: AnyRow) -> "PageView":
        """The row in this shape."""
        return cls(
            number=row.number,
            window=window,
            path=row.path,
            views=BigInt(row.views),
            sessions=row.sessions,
            bounce_rate=row.bounces / row.entries if row.entries else None,
        )
