"""A learner's journey."""

from datetime import date, datetime
from typing import Annotated
from uuid import UUID

import strawberry

from resolvers import journey as journeys
from resolvers.connection import check_range
from resolvers.journey import Journey
from resolvers.reader import AnyRow
from schema.connection import After, Before, Connection, First, Last, asked, connection
from schema.enums import MilestoneKind, Rhythm
from schema.node import Info, Node, global_id
from schema.scalars import BigInt
from schema.selection import selected


@strawberry.type(description="Experience points (XP) that a learner earned in one area of learning.")
class PillarXp:
    """The contract's PillarXp."""

    pillar: str = strawberry.field(description="The area of learning, by the name that the platform gives it.")
    xp: BigInt = strawberry.field(description="All experience points in it, never 0.")


@strawberry.type(description="That a learner completed a quest, once.")
class QuestCompletion:
    """The contract's QuestCompletion."""

    quest_id: strawberry.ID = strawberry.field(description="The platform's id of the quest.")
    quest_title: str | None = strawberry.field(description="What it is called; null where that was not sent.")
    completed_at: datetime = strawberry.field(description="When the learner finished it.")
    xp: int = strawberry.field(description="Experience points that the learner gained by it; 0 where none were sent.")
    pillar: str | None = strawberry.field(
        description="The area of learning that the XP counts for; null where none was sent."
    )

    @classmethod
    def of(cls, row: AnyRow) -> "QuestCompletion":
        """The row in this shape."""
        return cls(
            quest_id=strawberry.ID(row.quest_id),
            quest_title=row.title,
            completed_at=row.occurred_at,
            xp=row.xp,
            pillar=row.pillar,
        )


@strawberry.type(description="A step of a learner's own record.")
class Milestone(Node):
    """The contract's Milestone."""

    subject_key: strawberry.Private[UUID]
    kind: MilestoneKind = strawberry.field(description="What the learner did.")
    occurred_at: datetime = strawberry.field(description="When it was done.")
    quest_id: strawberry.ID | None = strawberry.field(
        description="The platform's id of the quest that it belongs to; null where it belongs to none."
    )
    badge_id: strawberry.ID | None = strawberry.field(
        description="The platform's id of the badge; null where it is about none."
    )
    title: str | None = strawberry.field(
        description="What the quest, task or badge is called; null where that was not sent."
    )
    xp: int = strawberry.field(description="Experience points that the learner gained by it; 0 where none were sent.")
    pillar: str | None = strawberry.field(
        description="The area of learning that the XP counts for; null where none was sent."
    )

    @classmethod
    def of(cls, row: AnyRow) -> "Milestone":
        """The row in this shape."""
        return cls(
            id=global_id("Milestone", row.subject_key, row.event_id, row.occurred_at),
            subject_key=row.subject_key,
            kind=MilestoneKind(row.kind),
            occurred_at=row.occurred_at,
            quest_id=row.quest_id,
            badge_id=row.badge_id,
            title=row.title,
            xp=row.xp,
            pillar=row.pillar,
        )


@strawberry.type(description="What a learner has achieved so far.")
class LearningJourney:
    """The contract's LearningJourney."""

    subject_key: strawberry.Private[UUID]
    first_quest_date: date | None = strawberry.field(description="The local day of the first quest started.")
    total_quests_started: int = strawberry.field(description="Distinct quests started.")
    total_quests_completed: int = strawberry.field(description="Distinct quests completed.")
    current_streak: int = strawberry.field(description="Consecutive active days that end today or yesterday, else 0.")
    badges_earned: int = strawberry.field(description="Distinct badges earned.")
    time_on_platform_hours: float = strawberry.field(description="The length of all sessions together.")
    favorite_pillar: str | None = strawberry.field(description="The pillar with most XP; null without XP.")
    xp_by_pillar: list[PillarXp] = strawberry.field(description="XP of each pillar that has any, most first.")
    total_xp: BigInt = strawberry.field(description="All XP, with or without a pillar.")
    rhythm: Rhythm = strawberry.field(description="Whether the learner learns regularly.")

    @strawberry.field(description="The quests completed last, newest first.")
    async def recent_completions(
        self,
        info: Info,
        first: Annotated[int, strawberry.argument(description="How many quests, 1 to 100.")] = 5,
    ) -> list[QuestCompletion]:
        check_range("first", first, 1, 100)
        rows = await info.context.load_fields(journeys.recent_completions, self.subject_key, first, selected(info))
        return [QuestCompletion.of(row) for row in rows]

    @strawberry.field(description="Every step of the learner's own record, newest first.")
    async def milestones(
        self,
        info: Info,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[Milestone]:
        wanted = asked(journeys.BY_TIME, first, after, last, before)
        found = await info.context.load_fields(journeys.milestones, self.subject_key, wanted, selected(info))
        return connection(found, Milestone.of)

    @classmethod
    def of(cls, subject_key: UUID, journey: Journey) -> "LearningJourney":
        """The figures in this shape."""
        return cls(
            subject_key=subject_key,
            first_quest_date=journey.first_quest_date,
            total_quests_started=journey.quests_started,
            total_quests_completed=journey.quests_completed,
            current_streak=journey.current_streak,
            badges_earned=journey.badges_earned,
            time_on_platform_hours=journey.time_on_platform_hours,
            favorite_pillar=journey.xp_by_pillar[0][0] if journey.xp_by_pillar else None,
            xp_by_pillar=[PillarXp(pillar=pillar, xp=BigInt(xp)) for pillar, xp in journey.xp_by_pillar],
            total_xp=BigInt(journey.total_xp),
            rhythm=journey.rhythm,
        )
