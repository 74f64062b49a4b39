"""Engagement, day by day and in all, and counts of events."""

from collections.abc import Callable
from datetime import date
from uuid import UUID

import strawberry

from models.engagement import CATEGORIES, Daily
from models.engagement import Engagement as EngagementFigures
from resolvers import risk as risks
from resolvers.errors import BadUserInputError
from schema.enums import Category, EngagementLevel
from schema.node import Info
from schema.scalars import LARGEST_INT, BigInt


@strawberry.type(description="Columns of equal length, one entry a local day, oldest first, no gaps.")
class DailyActivity:
    """The contract's DailyActivity."""

    dates: list[date] = strawberry.field(description="Which day each entry of the other columns is of.")
    events: list[int] = strawberry.field(description="How many events there were, of every type.")
    active_minutes: list[float] = strawberry.field(description="Minutes of the sessions that opened on the day.")
    quests_completed: list[int] = strawberry.field(description="Distinct quests completed on the day.")
    earned: strawberry.Private[list[int]]

    @strawberry.field(
        description="Experience points earned on the day; BAD_USER_INPUT where a day has more than an Int can hold."
    )
    def xp(self) -> list[int]:
        for day, earned in zip(self.dates, self.earned, strict=True):
            if earned > LARGEST_INT:
                raise BadUserInputError(
                    f"xp of {day} is {earned:,}, and an Int holds at most {LARGEST_INT:,}: leave xp out, or ask for "
                    "days after it; totalXp of the journey counts it"
                )
        return self.earned

    @classmethod
    def of(cls, daily: Daily) -> "DailyActivity":
        """The columns in this shape."""
        return cls(
            dates=daily.dates,
            events=daily.events,
            active_minutes=daily.active_minutes,
            quests_completed=daily.quests_completed,
            earned=daily.xp,
        )


@strawberry.type(description="A learner's figures over the last local days, today included.")
class Engagement:
    """The contract's Engagement."""

    subject_key: strawberry.Private[UUID]
    by_day: strawberry.Private[Callable[[], Daily]]
    days: int = strawberry.field(description="How many days the figures cover.")
    active_days: int = strawberry.field(
        description="Days on which they learned: began or finished something, showed evidence, or asked the tutor."
    )
    visit_days: int = strawberry.field(description="Days on which the learner was on the platform.")
    sessions: int = strawberry.field(description="Sessions that opened on these days.")
    median_session_minutes: float | None = strawberry.field(
        description="Half of the sessions that have ended were no longer; null where there is none."
    )
    time_on_platform_hours: float = strawberry.field(description="How long their sessions were together.")
    logins: int = strawberry.field(description="How often they signed in.")
    quests_viewed: int = strawberry.field(description="Distinct quests looked at.")
    quests_started: int = strawberry.field(description="Distinct quests started.")
    quests_completed: int = strawberry.field(description="Distinct quests completed.")
    quests_abandoned: int = strawberry.field(description="Distinct quests abandoned.")
    tasks_completed: int = strawberry.field(description="Distinct tasks completed.")
    badges_earned: int = strawberry.field(description="Distinct badges earned.")
    completion_rate: float | None = strawberry.field(
        description="Of the quests started, the share completed since, 0 to 1; null under 5 starts."
    )
    current_streak: int = strawberry.field(
        description="Consecutive active days that end today or yesterday, else 0, however long the window."
    )
    longest_streak: int = strawberry.field(description="The most active days in a row, of all time.")
    last_active_on: date | None = strawberry.field(
        description="The last day on which they learned, of all time; null where there is none."
    )

    @strawberry.field(description="The same figures day by day.")
    def daily(self) -> DailyActivity:
        return DailyActivity.of(self.by_day())

    @strawberry.field(
        description="How engaged they are by their risk over 30 days, whatever days are asked for; for admins. Null "
        "where there is not enough data."
    )
    async def level(self, info: Info) -> EngagementLevel | None:
        return (await risks.assessment(info.context, self.subject_key)).level

    @classmethod
    def of(cls, subject_key: UUID, figures: EngagementFigures) -> "Engagement":
        """The figures in this shape."""
        return cls(subject_key=subject_key, **figures._asdict())


@strawberry.type(description="How many events of one category there were.")
class CategoryCount:
    """The contract's CategoryCount."""

    subject_key: strawberry.Private[UUID | None]
    category: Category = strawberry.field(description="Which category is counted.")
    count: BigInt = strawberry.field(description="How many there were; 0 where there was none.")


def category_counts(counts: list[int], subject_key: UUID | None = None) -> list[CategoryCount]:
    """One entry a category, in the enum's order: of one subject, or of everybody."""
    return [
        CategoryCount(subject_key=subject_key, category=category, count=BigInt(count))
        for category, count in zip(CATEGORIES, counts, strict=True)
    ]
