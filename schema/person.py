"""Somebody by name."""

import strawberry

from resolvers.reader import AnyRow
from schema.enums import UserRole


@strawberry.type(description="Somebody named to a viewer who may not see more of them.")
class Person:
    """The contract's Person."""

    user_id: strawberry.ID = strawberry.field(description="The id that the platform itself gave them.")
    role: UserRole = strawberry.field(description="What they are on the platform.")
    display_name: str | None = strawberry.field(description="What they are called; null where that was never told.")

    @classmethod
    def of(cls, row: AnyRow) -> "Person":
        """The row in this shape."""
        return cls(user_id=strawberry.ID(row.user_id), role=UserRole(row.role), display_name=row.display_name)
