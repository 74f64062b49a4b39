"""The errors of the platform's pages."""

from datetime import datetime
from typing import Annotated

import strawberry

from models.error import culprit
from resolvers import error as errors
from resolvers.error import ErrorsQuestion
from resolvers.reader import AnyRow
from schema.connection import After, Before, Connection, First, Last, asked, connection
from schema.enums import ErrorType
from schema.node import Info, Node, global_id
from schema.scalars import BigInt


@strawberry.type(description="An error that a page reported.")
class ErrorEvent(Node):
    """The contract's ErrorEvent."""

    error_type: ErrorType = strawberry.field(description="Whether a script, a server or the network failed.")
    message: str | None = strawberry.field(description="What it says; null once it is anonymised, like all its texts.")
    stack: str | None = strawberry.field(description="Where it was raised, as the browser writes it.")
    component: str | None = strawberry.field(description="The component that reported it.")
    page_path: str | None = strawberry.field(description="The path of the page that it happened on.")
    endpoint: str | None = strawberry.field(description="What was asked, where a request failed.")
    status_code: int | None = strawberry.field(description="The HTTP status, where there was an answer.")
    release: str | None = strawberry.field(description="The version of the platform that the page belonged to.")
    occurred_at: datetime = strawberry.field(description="When it happened, by the browser's clock.")

    @classmethod
    def of(cls, row: AnyRow) -> "ErrorEvent":
        """The row in this shape."""
        return cls(
            id=global_id("ErrorEvent", row.subject_key, row.event_id, row.occurred_at),
            error_type=ErrorType(row.error_type),
            message=row.message,
            stack=row.stack,
            component=row.component,
            page_path=row.page_path,
            endpoint=row.endpoint,
            status_code=row.status_code,
            release=row.release,
            occurred_at=row.occurred_at,
        )


@strawberry.type(description="Errors that are taken for the same, with how often and to how many they happened.")
class ErrorGroup(Node):
    """The contract's ErrorGroup."""

    error_type: ErrorType = strawberry.field(description="Whether a script, a server or the network failed.")
    message: str | None = strawberry.field(description="What the latest of them says.")
    culprit: str | None = strawberry.field(
        description="What the latest points to: its component, else the top frame of its stack, else its endpoint."
    )
    count: int = strawberry.field(description="How many of these days; of the last 7 where it is fetched by its id.")
    users_affected: int | None = strawberry.field(
        description="Distinct users, and devices without one, whom they befell on these days; null where the days "
        "reach back to anonymised events, where nobody "
        "can be told apart."
    )
    first_seen: datetime = strawberry.field(description="When the first of them ever happened.")
    last_seen: datetime = strawberry.field(description="When the last of them ever happened.")
    sample: ErrorEvent | None = strawberry.field(description="The latest error of the group, in full.")

    @classmethod
    def of(cls, row: AnyRow) -> "ErrorGroup":
        """The row in this shape."""
        return cls(
            id=global_id("ErrorGroup", row.group_id),
            error_type=ErrorType(row.error_type),
            message=row.message,
            culprit=culprit(row.component, row.stack, row.endpoint),
            count=row.errors,
            users_affected=row.users_affected,
            first_seen=row.first_seen_at,
            last_seen=row.last_seen_at,
            sample=ErrorEvent.of(row),
        )


@strawberry.type(description="How many errors of one type there were.")
class ErrorTypeCount:
    """The contract's ErrorTypeCount."""

    error_type: ErrorType = strawberry.field(description="Which type is counted.")
    count: BigInt = strawberry.field(description="How many there were; 0 where there was none.")


@strawberry.type(description="The errors of the last UTC days, today included.")
class ErrorSummary:
    """The contract's ErrorSummary."""

    question: strawberry.Private[ErrorsQuestion]

    @strawberry.field(description="How many there were.")
    async def total_errors(self, info: Info) -> BigInt:
        return BigInt(sum((await info.context.loader(errors.error_counts).load(self.question)).values()))

    @strawberry.field(description="How many there were of each type that was asked for, in the enum's order.")
    async def counts_by_type(self, info: Info) -> list[ErrorTypeCount]:
        counts = await info.context.loader(errors.error_counts).load(self.question)
        return [ErrorTypeCount(error_type=kind, count=BigInt(count)) for kind, count in counts.items()]

    @strawberry.field(description="The groups they fall into, most recent first.")
    async def groups(
        self,
        info: Info,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
    ) -> Connection[ErrorGroup]:
        wanted = asked(errors.MOST_RECENT, first, after, last, before)
        return connection(await errors.error_groups(info.context, self.question, wanted), ErrorGroup.of)

    @strawberry.field(description="The errors themselves, newest first.")
    async def recent_errors(
        self,
        info: Info,
        first: Annotated[int, strawberry.argument(description="How many errors, 1 to 100.")] = 10,
    ) -> list[ErrorEvent]:
        return [ErrorEvent.of(row) for row in await errors.recent_errors(info.context, self.question, first)]
