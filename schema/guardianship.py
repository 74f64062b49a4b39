"""Linking guardians and children."""

from datetime import datetime
from enum import StrEnum

import strawberry

from resolvers.guardianship import Link
from resolvers.user import Refusal
from schema.user import Person


@strawberry.enum(description="What is wrong with a part of what was sent.")
class UserErrorCode(StrEnum):
    """The contract's UserErrorCode."""

    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    FORBIDDEN = "FORBIDDEN"
    ALREADY_DONE = "ALREADY_DONE"


@strawberry.type(description="Why a part of what was sent was not taken.")
class UserError:
    """The contract's UserError."""

    field: list[str] = strawberry.field(description="The field at fault, from the input down.")
    code: UserErrorCode = strawberry.field(description="What is wrong with it.")
    message: str = strawberry.field(description="The same in words.")

    @classmethod
    def of(cls, refusal: Refusal) -> "UserError":
        """The refusal in this shape."""
        return cls(field=refusal.field, code=UserErrorCode(refusal.code), message=refusal.message)


@strawberry.input(description="A link to make, or to change the end of.")
class LinkGuardianInput:
    """The contract's LinkGuardianInput."""

    guardian_id: strawberry.ID = strawberry.field(description="A user with role PARENT.")
    child_id: strawberry.ID = strawberry.field(description="A user with role STUDENT.")
    expires_at: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="When it ends by itself; left out or null: never."
    )


@strawberry.input(description="A link to end.")
class UnlinkGuardianInput:
    """The contract's UnlinkGuardianInput."""

    guardian_id: strawberry.ID = strawberry.field(description="The guardian.")
    child_id: strawberry.ID = strawberry.field(description="The child.")


@strawberry.type(description="Who is linked now, or is no more.")
class GuardianshipPayload:
    """The contract's GuardianshipPayload."""

    guardian: Person | None = strawberry.field(description="The guardian, where they are kept.")
    child: Person | None = strawberry.field(description="The child, where they are kept.")
    user_errors: list[UserError] = strawberry.field(description="Why nothing was done.")

    @classmethod
    def of(cls, link: Link) -> "GuardianshipPayload":
        """What became of a link, in this shape."""
        guardian, child, refusals = link
        return cls(
            guardian=guardian and Person.of(guardian),
            child=child and Person.of(child),
            user_errors=[UserError.of(refusal) for refusal in refusals],
        )
