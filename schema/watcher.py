"""Who can see the viewer."""

from datetime import datetime

import strawberry

from schema.enums import Role
from schema.person import Person


@strawberry.type(description="Somebody who can see the viewer.")
class Watcher:
    """The contract's Watcher."""

    person: Person | None = strawberry.field(description="A guardian by name; null for all admins together.")
    role: Role = strawberry.field(description="The role in which they see the viewer.")
    sees: list[str] = strawberry.field(description="What they see: fields of User, dotted where one lies deeper.")
    until: datetime | None = strawberry.field(
        description="When it ends by itself: as the link expires, or as the viewer becomes 18, whichever is first."
    )
