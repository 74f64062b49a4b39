"""The platform's quests."""

import strawberry

from resolvers import quest as quests
from resolvers.reader import AnyRow
from resolvers.window import Window
from schema.node import Info


@strawberry.type(description="How popular a quest was over the last UTC days, today included.")
class QuestPopularity:
    """The contract's QuestPopularity."""

    number: strawberry.Private[int]
    window: strawberry.Private[Window]
    quest_id: strawberry.ID = strawberry.field(description="The platform's id of the quest.")
    quest_title: str | None = strawberry.field(
        description="What it is called, by the title last sent of it; null where none was."
    )
    views: int = strawberry.field(description="How often it was looked at.")
    starts: int = strawberry.field(description="How often it was started.")
    completions: int = strawberry.field(description="How often it was completed.")
    popularity: int = strawberry.field(
        description="What quests are ranked by: views, twice the starts and five times the completions together."
    )

    @strawberry.field(
        description="Of those who started it, the share that completed it after that; null where nobody did, or the "
        "days reach back to anonymised events, where nobody "
        "can be told apart."
    )
    async def completion_rate(self, info: Info) -> float | None:
        return await info.context.load(quests.completion_rates, self.number, self.window)

    @classmethod
    def of(cls, window: Window, row: AnyRow) -> "QuestPopularity":
        """The row in this shape."""
        return cls(
            number=row.number,
            window=window,
            quest_id=strawberry.ID(row.quest_id),
            quest_title=row.title,
            views=row.views,
            starts=row.starts,
            completions=row.completions,
            popularity=row.popularity,
        )
