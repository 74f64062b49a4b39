"""Who read whose data."""

from datetime import datetime
from uuid import UUID

import strawberry

from resolvers import access_log as accesses
from resolvers.reader import AnyRow
from schema.enums import Role
from schema.node import Info, Node, global_id
from schema.person import Person


@strawberry.type(description="That somebody read a user's data in some hour, however often.")
class Access(Node):
    """The contract's Access."""

    subject_key: strawberry.Private[UUID]
    access_id: strawberry.Private[UUID]
    viewer_role: Role = strawberry.field(description="The role that they asked in.")
    fields: list[str] = strawberry.field(
        description="What they read, by the names that the schema has for it, such as User.engagement."
    )
    at: datetime = strawberry.field(description="When they did so first, of the full hour in UTC.")

    @strawberry.field(description="Who it was; null where the account is gone.")
    async def viewer(self, info: Info) -> Person | None:
        row = await info.context.load(accesses.viewers, (self.subject_key, self.access_id), None)
        return row and Person.of(row)

    @classmethod
    def of(cls, row: AnyRow) -> "Access":
        """The row in this shape."""
        return cls(
            id=global_id("Access", row.subject_key, row.access_id),
            subject_key=row.subject_key,
            access_id=row.access_id,
            viewer_role=Role(row.viewer_role),
            fields=row.fields,
            at=row.at,
        )
