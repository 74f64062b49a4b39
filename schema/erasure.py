"""Erasing somebody, in the contract's shape."""

from datetime import datetime

import strawberry
from strawberry.scalars import JSON

from resolvers.erasure import Asked
from resolvers.reader import AnyRow
from schema.enums import TaskState
from schema.guardianship import UserError
from schema.node import Node, global_id


@strawberry.input(description="Whom to erase.")
class EraseUserInput:
    """The contract's EraseUserInput."""

    user_id: strawberry.ID = strawberry.field(description="The platform's own id of the user.")


@strawberry.type(description="Somebody is erased: for who asked, and for admins.")
class Erasure(Node):
    """The contract's Erasure."""

    state: TaskState = strawberry.field(description="How far it is; nothing of theirs is taken from the start.")
    requested_at: datetime = strawberry.field(description="When it was asked for.")
    finished_at: datetime | None = strawberry.field(description="When it was done.")
    receipt: JSON | None = strawberry.field(
        description="What was deleted and what was looked for, signed; it names nobody."
    )

    @classmethod
    def of(cls, row: AnyRow) -> "Erasure":
        """The row in this shape."""
        return cls(
            id=global_id("Erasure", row.erasure_id),
            state=TaskState(row.state),
            requested_at=row.requested_at,
            finished_at=row.finished_at,
            receipt=row.receipt and JSON(row.receipt),
        )


@strawberry.type(description="The erasure that has begun.")
class EraseUserPayload:
    """The contract's EraseUserPayload."""

    erasure: Erasure | None = strawberry.field(description="The erasure; null where nothing was done.")
    user_errors: list[UserError] = strawberry.field(description="Why nothing was done.")

    @classmethod
    def of(cls, asked: Asked) -> "EraseUserPayload":
        """What became of it, in this shape."""
        row, refusals = asked
        return cls(erasure=row and Erasure.of(row), user_errors=[UserError.of(refusal) for refusal in refusals])
