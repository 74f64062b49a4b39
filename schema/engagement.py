"""Engagement, day by day and in all, and counts of events."""

from datetime import date
from uuid import UUID

import strawberry

from models.engagement import CATEGORIES
from models.engagement import Engagement as EngagementFigures
from resolvers import risk as risks
from schema.enums import Category, EngagementLevel
from schema.node import Info
from schema.scalars import BigInt


@strawberry.type(description="Columns of equal length, one entry a local day, oldest first, no gaps.")
class DailyActivity:
    """The contract's DailyActivity."""

    dates: list[date] = strawberry.field(description="The days.")
    events: list[int] = strawberry.field(description="All events of the day.")
    active_minutes: list[float] = strawberry.field(description="Minutes of the sessions that opened on the day.")
    quests_completed: list[int] = strawberry.field(description="Distinct quests completed on the day.")
    xp: list[int] = strawberry.field(description="XP earned on the day.")


@strawberry.type(description="A learner's figures over the last local days, today included.")
class Engagement:
    """The contract's Engagement."""

    subject_key: strawberry.Private[UUID]
    days: int = strawberry.field(description="How many days the figures cover.")
    active_days: int = strawberry.field(description="Days with a learning event.")
    visit_days: int = strawberry.field(description="Days on which the learner was on the platform.")
    sessions: int = strawberry.field(description="Sessions that opened on these days.")
    median_session_minutes: float | None = strawberry.field(
        description="Of the closed sessions; null where there is none."
    )
    time_on_platform_hours: float = strawberry.field(description="The length of the sessions together.")
    logins: int = strawberry.field(description="Successful sign-ins.")
    quests_viewed: int = strawberry.field(description="Distinct quests looked at.")
    quests_started: int = strawberry.field(description="Distinct quests started.")
    quests_completed: int = strawberry.field(description="Distinct quests completed.")
    quests_abandoned: int = strawberry.field(description="Distinct quests abandoned.")
    tasks_completed: int = strawberry.field(description="Distinct tasks completed.")
    badges_earned: int = strawberry.field(description="Distinct badges earned.")
    completion_rate: float | None = strawberry.field(
        description="Of the quests started, the share completed since; null under 5 starts."
    )
    current_streak: int = strawberry.field(
        description="Consecutive active days that end today or yesterday, else 0, however long the window."
    )
    longest_streak: int = strawberry.field(description="The longest run of active days of all time.")
    last_active_on: date | None = strawberry.field(description="The last active day of all time.")
    daily: DailyActivity = strawberry.field(description="The same days one by one.")

    @strawberry.field(
        description="How engaged they are by their risk over 30 days, whatever days are asked for; for admins. Null "
        "where there is not enough data."
    )
    async def level(self, info: Info) -> EngagementLevel | None:
        return (await risks.assessment(info.context, self.subject_key)).level

    @classmethod
    def of(cls, subject_key: UUID, figures: EngagementFigures) -> "Engagement":
        """The figures in this shape."""
        daily = DailyActivity(**vars(figures.daily))
        return cls(subject_key=subject_key, **{**vars(figures), "daily": daily})


@strawberry.type(description="How many events of one category there were.")
class CategoryCount:
    """The contract's CategoryCount."""

    category: Category = strawberry.field(description="The category.")
    count: BigInt = strawberry.field(description="How many, 0 included.")


def category_counts(counts: list[int]) -> list[CategoryCount]:
    """One entry a category, in the enum's order."""
    return [
        CategoryCount(category=category, count=BigInt(count))
        for category, count in zip(CATEGORIES, counts, strict=True)
    ]
