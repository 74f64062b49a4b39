"""People, and what hangs on a learner."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import strawberry
from strawberry.types import get_object_definition

from resolvers import access_log as accesses
from resolvers import consent as consents
from resolvers import engagement as engagements
from resolvers import event as events
from resolvers import guardianship as guardianships
from resolvers import journey as journeys
from resolvers import risk as risks
from resolvers import session as sessions
from resolvers.event import EventFilter, EventsQuestion
from resolvers.reader import AnyRow
from schema.access_log import Access
from schema.connection import After, Before, Connection, First, Last, asked, connection, given
from schema.consent import Consent
from schema.engagement import CategoryCount, Engagement, category_counts
from schema.enums import Category, Role, UserRole
from schema.event import ActivityEvent
from schema.journey import LearningJourney
from schema.node import Info, Node, global_id
from schema.person import Person
from schema.risk import RiskAssessment
from schema.selection import selected
from schema.session import Session
from schema.watcher import Watcher

ADMINS_ALONE = ("risk", "engagement.level", "events.deviceId")
Days = Annotated[int, strawberry.argument(description="How many local days, today included: 1 to 365.")]
Categories = Annotated[list[Category] | None, strawberry.argument(description="Only events of these categories.")]
Types = Annotated[
    list[str] | None, strawberry.argument(description="Only events of these types, such as quest_started.")
]
Since = Annotated[datetime | None, strawberry.argument(name="from", description="Only events at or after this time.")]
Until = Annotated[datetime | None, strawberry.argument(name="to", description="Only events before this time.")]


def event_filter(types: Types, since: Since, until: Until, categories: Categories = strawberry.UNSET) -> EventFilter:
    """What a list of events is narrowed to by its arguments."""
    wanted_types, wanted_categories = given(types), given(categories)
    return EventFilter(
        None if wanted_categories is None else frozenset(wanted_categories),
        None if wanted_types is None else tuple(wanted_types),
        given(since),
        given(until),
    )


@strawberry.type(description="A user whom the viewer may see.")
class User(Node):
    """The contract's User."""

    subject_key: strawberry.Private[UUID]
    user_id: strawberry.ID = strawberry.field(description="The id that the platform itself gave them.")
    role: UserRole = strawberry.field(description="What they are on the platform.")
    display_name: str | None = strawberry.field(description="What they are called; null where that was never told.")
    time_zone: str = strawberry.field(description="The IANA zone that their days are counted in; UTC until known.")
    first_seen_at: datetime | None = strawberry.field(
        description="When their earliest event happened; null where they have none."
    )
    last_seen_at: datetime | None = strawberry.field(
        description="When their latest event happened; null where they have none."
    )
    tracking_objected: bool = strawberry.field(
        description="Whether nothing is kept of them but what the platform needs, since they or a parent object."
    )

    @strawberry.field(description="What they did over the last days, in figures.")
    async def engagement(self, info: Info, days: Days = 30) -> Engagement:
        length = engagements.check_days(days)
        found = await info.context.load_fields(engagements.engagements, self.subject_key, length, selected(info))
        return Engagement.of(self.subject_key, found)

    @strawberry.field(description="What they have achieved so far, and how regularly they learn.")
    async def journey(self, info: Info) -> LearningJourney:
        found = await info.context.load_fields(journeys.journeys, self.subject_key, None, selected(info))
        return LearningJourney.of(self.subject_key, found)

    @strawberry.field(description="What they did, event by event, newest first.")
    async def events(
        self,
        info: Info,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
        categories: Categories = strawberry.UNSET,
        types: Types = strawberry.UNSET,
        from_: Since = strawberry.UNSET,
        to: Until = strawberry.UNSET,
    ) -> Connection[ActivityEvent]:
        question = EventsQuestion(
            asked(events.OF_ONE, first, after, last, before), event_filter(types, from_, to, categories)
        )
        found = await info.context.load_fields(events.events, self.subject_key, question, selected(info))
        return connection(found, ActivityEvent.of)

    @strawberry.field(description="When they were on the platform, newest first.")
    async def sessions(
        self,
        info: Info,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[Session]:
        wanted = asked(sessions.BY_START, first, after, last, before)
        found = await info.context.load_fields(sessions.sessions, self.subject_key, wanted, selected(info))
        return connection(found, lambda row: Session.of(info, row))

    @strawberry.field(description="Their events of the last days by category, in the enum's order, none left out.")
    async def event_counts(self, info: Info, days: Days = 30) -> list[CategoryCount]:
        length = engagements.check_days(days)
        return category_counts(
            await info.context.load(engagements.event_counts, self.subject_key, length), self.subject_key
        )

    @strawberry.field(description="How likely it seems that they stop coming, by their last 30 days; for admins.")
    async def risk(self, info: Info) -> RiskAssessment | None:
        return RiskAssessment.of(await risks.assessment(info.context, self.subject_key))

    @strawberry.field(description="Who sees them as a guardian: for the user themself, their guardians and admins.")
    async def guardians(self, info: Info) -> list[Person] | None:
        rows = await info.context.load(guardianships.guardians, self.subject_key, None)
        return [Person.of(row) for row in rows]

    @strawberry.field(description="The consents to keep their events, the last given first, revoked ones too.")
    async def consents(self, info: Info) -> list[Consent]:
        return [Consent.of(row) for row in await info.context.load(consents.consents, self.subject_key, None)]

    @strawberry.field(
        description="Who else read what of theirs, newest first: for the user themself, their guardians and admins."
    )
    async def access_log(
        self,
        info: Info,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[Access] | None:
        wanted = asked(accesses.BY_TIME, first, after, last, before)
        return connection(await info.context.load(accesses.access_log, self.subject_key, wanted), Access.of)

    @classmethod
    def of(cls, row: AnyRow) -> "User":
        """The row in this shape."""
        return cls(
            id=global_id("User", row.user_id),
            subject_key=row.subject_key,
            user_id=strawberry.ID(row.user_id),
            role=UserRole(row.role),
            display_name=row.display_name,
            time_zone=row.time_zone,
            first_seen_at=row.first_seen_at,
            last_seen_at=row.last_seen_at,
            tracking_objected=row.tracking_objected,
        )


@strawberry.type(description="A student who may be about to stop coming.")
class AtRiskStudent:
    """The contract's AtRiskStudent."""

    subject_key: strawberry.Private[UUID]
    user: User = strawberry.field(description="Who it is.")
    risk: RiskAssessment = strawberry.field(description="What is said of them over the days asked for.")

    @classmethod
    def of(cls, row: AnyRow) -> "AtRiskStudent":
        """The row in this shape."""
        return cls(subject_key=row.subject_key, user=User.of(row), risk=RiskAssessment.of(risks.assessment_of(row)))


@strawberry.type(description="Whoever asks, by the token of the request.")
class Viewer:
    """The contract's Viewer."""

    role: Role = strawberry.field(description="The role that they ask in; ANONYMOUS without a token.")
    user: User | None = strawberry.field(description="They themselves, where they are a user.")
    children: list[User] = strawberry.field(description="A parent's children, by user id.")

    @strawberry.field(description="Who can see the viewer, and what: guardians by user id, then admins.")
    async def visible_to(self, info: Info) -> list[Watcher]:
        if self.user is None:
            return []
        fields = [
            info.schema.config.name_converter.from_field(field)
            for field in get_object_definition(User, strict=True).fields
        ]
        guardians = await info.context.load(guardianships.guardians, self.user.subject_key, None)
        shared = [field for field in fields if field not in ADMINS_ALONE]
        return [
            *(Watcher(person=Person.of(row), role=Role.PARENT, sees=shared, until=row.until) for row in guardians),
            Watcher(person=None, role=Role.ADMIN, sees=[*shared, *ADMINS_ALONE], until=None),
        ]
