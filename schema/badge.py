"""The platform's badges."""

import strawberry

from resolvers import badge as badges
from resolvers.reader import AnyRow
from resolvers.window import Window
from schema.node import Info


@strawberry.type(description="How popular a badge was over the last UTC days, today included.")
class BadgePopularity:
    """The contract's BadgePopularity."""

    number: strawberry.Private[int]
    window: strawberry.Private[Window]
    badge_id: strawberry.ID = strawberry.field(description="The platform's id of the badge.")
    badge_name: str | None = strawberry.field(
        description="What it is called, by the name last sent of it; null where none was."
    )
    views: int = strawberry.field(description="How often it was looked at.")
    claims: int = strawberry.field(description="How often it was claimed.")
    earned: int = strawberry.field(description="How often it was earned.")

    @strawberry.field(
        description="Of those who looked at it, the share that claimed it; null where nobody did, or the days "
        "reach back to anonymised events, where nobody can be told apart."
    )
    async def claim_rate(self, info: Info) -> float | None:
        return await info.context.load(badges.claim_rates, self.number, self.window)

    @classmethod
    def of(cls, window: Window, row: AnyRow) -> "BadgePopularity":
        """The row in this shape."""
        return cls(
            number=row.number,
            window=window,
            badge_id=strawberry.ID(row.badge_id),
            badge_name=row.title,
            views=row.views,
            claims=row.claims,
            earned=row.earned,
        )
