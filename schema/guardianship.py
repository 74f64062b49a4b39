"""Linking guardians and children."""

from datetime import datetime
from enum import StrEnum

import strawberry

from resolvers.guardianship import Link
from resolvers.user import Refusal
from schema.enums import enum
from schema.person import Person


class UserErrorCode(StrEnum):
    """The contract's UserErrorCode."""

    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    FORBIDDEN = "FORBIDDEN"
    ALREADY_DONE = "ALREADY_DONE"


enum(
    UserErrorCode,
    "What is wrong with a part of what was sent.",
    INVALID="A value is out of its range, or does not fit the others.",
    NOT_FOUND="There is nobody, or nothing, of this id.",
    FORBIDDEN="Whoever sent it may not do this.",
    ALREADY_DONE="Things are as asked for already; nothing was changed.",
)


@strawberry.type(description="Why a part of what was sent was not taken.")
class UserError:
    """The contract's UserError."""

    field: list[str] = strawberry.field(
        description="What is at fault, as the names of the fields that lead to it from the input down."
    )
    code: UserErrorCode = strawberry.field(description="What is wrong, for a program to act on.")
    message: str = strawberry.field(description="What is wrong, for people to read.")

    @classmethod
    def of(cls, refusal: Refusal) -> "UserError":
        """The refusal in this shape."""
        return cls(field=refusal.field, code=UserErrorCode(refusal.code), message=refusal.message)


@strawberry.input(
    description="Which guardian may see which child, and until when; where they are linked already, until when."
)
class LinkGuardianInput:
    """The contract's LinkGuardianInput."""

    guardian_id: strawberry.ID = strawberry.field(description="Who may look: the id of a user with role PARENT.")
    child_id: strawberry.ID = strawberry.field(description="Whom they may see: the id of a user with role STUDENT.")
    expires_at: datetime | None = strawberry.field(
        default=strawberry.UNSET,
        description="When the guardian stops seeing the child by itself; left out or null: never.",
    )


@strawberry.input(description="Which guardian shall no longer see which child.")
class UnlinkGuardianInput:
    """The contract's UnlinkGuardianInput."""

    guardian_id: strawberry.ID = strawberry.field(description="Who shall no longer look: that user's id.")
    child_id: strawberry.ID = strawberry.field(description="Whom they shall no longer see: that user's id.")


@strawberry.type(description="Who is linked now, or is no more.")
class GuardianshipPayload:
    """The contract's GuardianshipPayload."""

    guardian: Person | None = strawberry.field(description="Who looks; null where there is no such user.")
    child: Person | None = strawberry.field(description="Whom they see; null where there is no such user.")
    user_errors: list[UserError] = strawberry.field(description="Why nothing was changed; empty where it was.")

    @classmethod
    def of(cls, link: Link) -> "GuardianshipPayload":
        """What became of a link, in this shape."""
        guardian, child, refusals = link
        return cls(
            guardian=guardian and Person.of(guardian),
            child=child and Person.of(child),
            user_errors=[UserError.of(refusal) for refusal in refusals],
        )
