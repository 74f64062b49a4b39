"""Events as they are read."""

from datetime import datetime
from uuid import UUID

import strawberry
from strawberry.scalars import JSON

from models.taxonomy import event_type
from resolvers import event as events
from resolvers.reader import AnyRow
from schema.enums import Category, Role
from schema.node import Info, Node, global_id


@strawberry.type(description="Something that happened, as it is kept.")
class ActivityEvent(Node):
    """The contract's ActivityEvent."""

    subject_key: strawberry.Private[UUID]
    row: strawberry.Private[AnyRow]
    event_id: UUID = strawberry.field(description="Which event it is, by the id that the client made.")
    type: str = strawberry.field(description="The taxonomy's name, such as quest_started, or a custom event's own.")
    category: Category = strawberry.field(description="What its type belongs to, such as QUEST.")
    occurred_at: datetime = strawberry.field(description="When it happened, by the client's clock.")
    received_at: datetime = strawberry.field(description="When it was received, by the server's clock.")
    session_id: UUID | None = strawberry.field(description="The session it was found to belong to; null until then.")
    page_path: str | None = strawberry.field(
        description="The path of the page that it happened on; null where none was told."
    )

    @strawberry.field(
        description="The browser it came from, for an admin and the user themself; null for everybody else."
    )
    def device_id(self, info: Info) -> UUID | None:
        viewer = info.context.viewer
        device: UUID | None = self.row.device_id
        return device if viewer.role is Role.ADMIN or viewer.user_id == self.row.user_id else None

    @strawberry.field(description="What was told with it, without the ids of people whom the viewer may not see.")
    async def data(self, info: Info) -> JSON:
        return JSON(await events.shown_data(info.context, self.row))

    @classmethod
    def of(cls, row: AnyRow) -> "ActivityEvent":
        """The row in this shape."""
        return cls(
            id=global_id("ActivityEvent", row.subject_key, row.event_id, row.occurred_at),
            subject_key=row.subject_key,
            row=row,
            event_id=row.event_id,
            type=row.event_type,
            category=event_type(row.event_type).category,
            occurred_at=row.occurred_at,
            received_at=row.received_at,
            session_id=row.session_id,
            page_path=row.page_path,
        )
