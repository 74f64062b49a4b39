"""The schema: every question, and everything that can be sent."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, cast
from uuid import UUID

import strawberry
from graphql import GraphQLInputObjectType, GraphQLSchema
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig

from resolvers import access_log as accesses
from resolvers import consent as consents
from resolvers import erasure as erasures
from resolvers import error as errors
from resolvers import event as events
from resolvers import export as exports
from resolvers import guardianship as guardianships
from resolvers import journey as journeys
from resolvers import page as pages
from resolvers import risk as risks
from resolvers import session as sessions
from resolvers import user as users
from resolvers.badge import popular_badges
from resolvers.connection import moment, word
from resolvers.engagement import check_days, engagements, event_counts
from resolvers.error import ErrorsQuestion
from resolvers.errors import BadUserInputError, NotFoundError
from resolvers.intake import intake_status
from resolvers.quest import popular_quests
from resolvers.request import ASKERS
from resolvers.retention import retention_status
from resolvers.tracking import track
from resolvers.window import platform_window
from schema.access_log import Access
from schema.badge import BadgePopularity
from schema.connection import After, Before, Connection, First, Last, asked, connection, given
from schema.consent import (
    ConsentPayload,
    RecordConsentInput,
    RevokeConsentInput,
    SetTrackingInput,
    SetTrackingPayload,
)
from schema.engagement import CategoryCount, Engagement, category_counts
from schema.enums import ErrorType, Role, UserRole
from schema.erasure import EraseUserInput, EraseUserPayload, Erasure
from schema.error import ErrorEvent, ErrorGroup, ErrorSummary
from schema.event import ActivityEvent
from schema.export import DataExport, ExportUserDataInput, ExportUserDataPayload
from schema.guardianship import GuardianshipPayload, LinkGuardianInput, UnlinkGuardianInput
from schema.intake import IntakeStatus
from schema.journey import LearningJourney, Milestone
from schema.node import Info, Node, parsed_id
from schema.page import PageView
from schema.quest import QuestPopularity
from schema.retention import RetentionStatus
from schema.scalars import SCALARS
from schema.selection import selected
from schema.session import Session
from schema.tracking import TrackEventInput, TrackEventsInput, TrackEventsPayload
from schema.upsert import UpsertUsersInput, UpsertUsersPayload
from schema.user import AtRiskStudent, Days, Since, Types, Until, User, Viewer, event_filter

MOST_NODES = 100
Limit = Annotated[int, strawberry.argument(description="How many, 1 to 100.")]
UtcDays = Annotated[int, strawberry.argument(description="So many last UTC days, today included: 1 to 365.")]
UserId = Annotated[strawberry.ID, strawberry.argument(description="The platform's own id of the user.")]


@strawberry.type(description="Everything that can be asked. Each question says who may ask it.")
class Query:
    """The contract's Query."""

    @strawberry.field(description="Whatever has this id, where the viewer may see it.")
    async def node(
        self,
        info: Info,
        id: Annotated[
            strawberry.ID,
            strawberry.argument(description="What the id field of a node said; not the platform's own id."),
        ],
    ) -> Node | None:
        return (await _nodes(info, [id]))[0]

    @strawberry.field(description="Whatever has these ids, in their order; null for what the viewer may not see.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID], strawberry.argument(description="What the id fields of nodes said, 100 at most.")
        ],
    ) -> list[Node | None]:
        if len(ids) > MOST_NODES:
            raise BadUserInputError(f"ids has {len(ids)} entries, and must have at most {MOST_NODES}")
        return await _nodes(info, ids)

    @strawberry.field(description="Whoever asks, and whom they see; works without a token.")
    async def viewer(self, info: Info) -> Viewer:
        themself, children = await users.themself_and_children(info.context)
        return Viewer(
            role=info.context.viewer.role,
            user=themself and User.of(themself),
            children=[User.of(row) for row in children],
        )

    @strawberry.field(description="One user; NOT_FOUND both where there is none and where the viewer may not see them.")
    async def user(self, info: Info, user_id: UserId) -> User | None:
        return await _visible_user(info, user_id)

    @strawberry.field(description="Users by user id: oneself, one's own children, or everybody for an admin.")
    async def users(
        self,
        info: Info,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
        role: Annotated[
            UserRole | None, strawberry.argument(description="Only those of this role.")
        ] = strawberry.UNSET,
    ) -> Connection[User] | None:
        info.context.require(*ASKERS)
        wanted = asked(users.BY_USER_ID, first, after, last, before)
        return connection(await users.users(info.context, wanted, given(role)), User.of)

    @strawberry.field(description="A learner's figures over the last days.")
    async def engagement(self, info: Info, user_id: UserId, days: Days = 30) -> Engagement | None:
        info.context.require(*ASKERS)
        user = await _visible_user(info, user_id)
        found = await info.context.load_fields(engagements, user.subject_key, check_days(days), selected(info))
        return Engagement.of(user.subject_key, found)

    @strawberry.field(description="What a learner has achieved so far.")
    async def journey(self, info: Info, user_id: UserId) -> LearningJourney | None:
        info.context.require(*ASKERS)
        user = await _visible_user(info, user_id)
        found = await info.context.load_fields(journeys.journeys, user.subject_key, None, selected(info))
        return LearningJourney.of(user.subject_key, found)

    @strawberry.field(description="Events of the last days by category: one user's, or everybody's for an admin.")
    async def event_counts(
        self,
        info: Info,
        user_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Of this user, in local days; without it of everybody, in UTC days."),
        ] = strawberry.UNSET,
        days: Days = 30,
    ) -> list[CategoryCount] | None:
        info.context.require(*ASKERS)
        wanted = given(user_id)
        if wanted is not None:
            user = await _visible_user(info, wanted)
            counts = await info.context.load(event_counts, user.subject_key, check_days(days))
            return category_counts(counts, user.subject_key)
        return category_counts(await events.event_counts_of_all(info.context, check_days(days)))

    @strawberry.field(description="Everybody's events, newest first; for admins.")
    async def activity_events(
        self,
        info: Info,
        containing: Annotated[
            JSON | None, strawberry.argument(description="Only events whose payload holds this object.")
        ] = strawberry.UNSET,
        types: Types = strawberry.UNSET,
        from_: Since = strawberry.UNSET,
        to: Until = strawberry.UNSET,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[ActivityEvent] | None:
        wanted = asked(events.OF_ALL, first, after, last, before)
        filtered = event_filter(types, from_, to)
        found = await events.activity_events(info.context, wanted, filtered, given(containing), selected(info))
        return connection(found, ActivityEvent.of)

    @strawberry.field(description="Students who may be about to stop coming, the highest score first; for admins.")
    async def at_risk_students(
        self,
        info: Info,
        days: Annotated[
            int, strawberry.argument(description="Over how many local days, today included: 7, 14, 30 or 90.")
        ] = 30,
        threshold: Annotated[float, strawberry.argument(description="The lowest score that is listed, 0 to 1.")] = 0.7,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[AtRiskStudent] | None:
        info.context.require(Role.ADMIN)
        wanted = asked(risks.BY_SCORE, first, after, last, before)
        return connection(await risks.at_risk_students(info.context, days, threshold, wanted), AtRiskStudent.of)

    @strawberry.field(
        description="The platform's pages, one entry a path, most viewed first, ties by path; for admins."
    )
    async def page_views(
        self,
        info: Info,
        days: UtcDays = 30,
        path_prefix: Annotated[
            str | None, strawberry.argument(description="Only paths that begin so.")
        ] = strawberry.UNSET,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[PageView] | None:
        window = await platform_window(info.context, days)
        wanted = asked(pages.MOST_VIEWED, first, after, last, before)
        found = await pages.page_views(info.context, wanted, window, given(path_prefix))
        return connection(found, lambda row: PageView.of(window, row))

    @strawberry.field(description="The most popular quests, ties by id; for admins.")
    async def popular_quests(self, info: Info, days: UtcDays = 30, limit: Limit = 10) -> list[QuestPopularity] | None:
        window = await platform_window(info.context, days)
        return [QuestPopularity.of(window, row) for row in await popular_quests(info.context, window, limit)]

    @strawberry.field(description="The badges claimed most often, ties by id; for admins.")
    async def popular_badges(self, info: Info, days: UtcDays = 30, limit: Limit = 10) -> list[BadgePopularity] | None:
        window = await platform_window(info.context, days)
        return [BadgePopularity.of(window, row) for row in await popular_badges(info.context, window, limit)]

    @strawberry.field(description="The errors that pages reported; for admins.")
    async def errors(
        self,
        info: Info,
        days: UtcDays = 7,
        error_type: Annotated[
            ErrorType | None, strawberry.argument(description="Only those of this type.")
        ] = strawberry.UNSET,
    ) -> ErrorSummary | None:
        return ErrorSummary(question=ErrorsQuestion(await platform_window(info.context, days), given(error_type)))

    @strawberry.field(description="What became of all accepted events; for admins and servers.")
    async def intake(self, info: Info) -> IntakeStatus | None:
        return IntakeStatus.of(await intake_status(info.context))

    @strawberry.field(description="How long rows name somebody and are kept, as promised and as it is; for admins.")
    async def retention_status(self, info: Info) -> RetentionStatus | None:
        return RetentionStatus.of(await retention_status(info.context))

    @strawberry.field(description="An archive of everything held about somebody; for who asked for it.")
    async def data_export(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="As `exportUserData` gave it.")]
    ) -> DataExport | None:
        info.context.require(*ASKERS)
        return DataExport.of(await exports.data_export(info.context, _key_of("DataExport", id)))

    @strawberry.field(description="How far an erasure is, and its receipt; for who asked for it, and for admins.")
    async def erasure(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="As `eraseUser` gave it.")]
    ) -> Erasure | None:
        info.context.require_token()
        return Erasure.of(await erasures.erasure(info.context, _key_of("Erasure", id)))


@strawberry.type(description="Everything that can be sent, and changed.")
class Mutation:
    """The contract's Mutation."""

    @strawberry.mutation(description="Keep an event; it counts once, however often it is sent.")
    async def track_event(
        self, info: Info, input: Annotated[TrackEventInput, strawberry.argument(description="What happened.")]
    ) -> TrackEventsPayload:
        return TrackEventsPayload.of(await track(info.context, [input.draft()]))

    @strawberry.mutation(description="Keep 1 to 500 events; what is good is kept whatever stands beside it.")
    async def track_events(
        self,
        info: Info,
        input: Annotated[TrackEventsInput, strawberry.argument(description="What happened, in any order.")],
    ) -> TrackEventsPayload:
        return TrackEventsPayload.of(await track(info.context, [event.draft() for event in input.events]))

    @strawberry.mutation(description="Make users known, or change them; for a SERVICE and admins.")
    async def upsert_users(
        self, info: Info, input: Annotated[UpsertUsersInput, strawberry.argument(description="Who the users are.")]
    ) -> UpsertUsersPayload:
        return UpsertUsersPayload.of(*await users.upsert(info.context, [user.draft() for user in input.users]))

    @strawberry.mutation(description="Let a guardian see a child; for a SERVICE and admins.")
    async def link_guardian(
        self, info: Info, input: Annotated[LinkGuardianInput, strawberry.argument(description="Who may see whom.")]
    ) -> GuardianshipPayload:
        return GuardianshipPayload.of(
            await guardianships.link(info.context, input.guardian_id, input.child_id, given(input.expires_at))
        )

    @strawberry.mutation(description="End what a guardian sees of a child, from the next request on.")
    async def unlink_guardian(
        self,
        info: Info,
        input: Annotated[UnlinkGuardianInput, strawberry.argument(description="Who shall no longer see whom.")],
    ) -> GuardianshipPayload:
        return GuardianshipPayload.of(await guardianships.unlink(info.context, input.guardian_id, input.child_id))

    @strawberry.mutation(
        description="Record that a learner's events may be kept; for a SERVICE, admins, and a parent of their child."
    )
    async def record_consent(
        self,
        info: Info,
        input: Annotated[RecordConsentInput, strawberry.argument(description="Who lets whose events be kept.")],
    ) -> ConsentPayload:
        return ConsentPayload.of(await consents.record(info.context, input.draft()))

    @strawberry.mutation(
        description="Revoke all consents of a learner, from the next event on; for a SERVICE, admins, and a parent."
    )
    async def revoke_consent(
        self,
        info: Info,
        input: Annotated[RevokeConsentInput, strawberry.argument(description="Whose events are no longer kept.")],
    ) -> ConsentPayload:
        return ConsentPayload.of(await consents.revoke(info.context, input.user_id))

    @strawberry.mutation(description="Object to tracking, or do so no more; for oneself, and for a parent's child.")
    async def set_tracking(
        self, info: Info, input: Annotated[SetTrackingInput, strawberry.argument(description="Who objects, or not.")]
    ) -> SetTrackingPayload:
        return SetTrackingPayload.of(await consents.set_tracking(info.context, input.user_id, objected=input.objected))

    @strawberry.mutation(
        description="Ask for an archive of everything held about oneself, a parent's child, or for an admin anybody."
    )
    async def export_user_data(
        self, info: Info, input: Annotated[ExportUserDataInput, strawberry.argument(description="Of whom.")]
    ) -> ExportUserDataPayload:
        return ExportUserDataPayload.of(await exports.export(info.context, input.user_id))

    @strawberry.mutation(
        description="Erase somebody for good: oneself where of age, a parent's child, for admins and a SERVICE anybody."
    )
    async def erase_user(
        self, info: Info, input: Annotated[EraseUserInput, strawberry.argument(description="Whom.")]
    ) -> EraseUserPayload:
        return EraseUserPayload.of(await erasures.erase(info.context, input.user_id))


async def _visible_user(info: Info, user_id: str) -> User:
    info.context.require_token()
    return User.of(await users.user(info.context, user_id))


def _key_of(kind: str, node_id: str) -> UUID:
    """The key of a node of this kind; raises NotFoundError where it is no id of such."""
    match parsed_id(node_id):
        case (found, [key]) if found == kind:
            with suppress(ValueError):
                return UUID(key)
    raise NotFoundError("there is none that has this id")


async def _nodes(info: Info, ids: Sequence[str]) -> list[Node | None]:
    """Each kind's nodes in one statement, however many."""
    return list(await asyncio.gather(*(_node(info, node_id) for node_id in ids)))


async def _node(info: Info, node_id: str) -> Node | None:
    kind, texts = parsed_id(node_id) or ("", [])
    if kind not in FETCHERS:
        return None
    parse, load, shape = FETCHERS[kind]
    try:
        key = tuple(part(text) for part, text in zip(parse, texts, strict=True))
    except ValueError:
        return None
    row = await info.context.loader(load).load(key)
    return row and shape(info, row)


FETCHERS: dict[str, tuple[Sequence[Callable[[str], Any]], Any, Callable[[Info, Any], Node]]] = {
    "User": ((word,), users.users_by_key, lambda info, row: User.of(row)),
    "ActivityEvent": ((UUID, UUID, moment), events.events_by_key, lambda info, row: ActivityEvent.of(row)),
    "Access": ((UUID, UUID), accesses.accesses_by_key, lambda info, row: Access.of(row)),
    "Session": ((UUID, moment, UUID), sessions.sessions_by_key, Session.of),
    "Milestone": ((UUID, UUID, moment), journeys.milestones_by_key, lambda info, row: Milestone.of(row)),
    "ErrorGroup": ((UUID,), errors.error_groups_by_key, lambda info, row: ErrorGroup.of(row)),
    "ErrorEvent": ((UUID, UUID, moment), errors.errors_by_key, lambda info, row: ErrorEvent.of(row)),
    "DataExport": ((UUID,), exports.exports_by_key, lambda info, row: DataExport.of(row)),
    "Erasure": ((UUID,), erasures.erasures_by_key, lambda info, row: Erasure.of(row)),
}


schema = strawberry.Schema(
    query=Query,
    mutation=Mutation,
    types=[User, Access, ActivityEvent, Session, Milestone, ErrorGroup, ErrorEvent, DataExport, Erasure],
    config=StrawberryConfig(scalar_map=SCALARS),
)
SCHEMA: GraphQLSchema = schema._schema  # noqa: SLF001 - what is executed is graphql-core's
# Strawberry would say that an event has not exactly one type, but not which event: graphql-core does.
cast(GraphQLInputObjectType, SCHEMA.type_map["EventInput"]).is_one_of = True
