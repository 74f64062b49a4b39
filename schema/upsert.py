"""Telling who the users are."""

from datetime import date
from typing import Any

import strawberry

from resolvers.user import KEEP, Refusal, UserDraft
from schema.enums import UserRole
from schema.guardianship import UserError
from schema.person import Person


@strawberry.input(description="A user: a field that is left out keeps what is kept, null clears it.")
class UserInput:
    """The contract's UserInput."""

    user_id: strawberry.ID = strawberry.field(description="The platform's own id, 1 to 200 characters.")
    role: UserRole = strawberry.field(description="Whether they learn, look after learners, or run the platform.")
    display_name: str | None = strawberry.field(
        default=strawberry.UNSET, description="What they are called, 200 characters at most."
    )
    time_zone: str | None = strawberry.field(
        default=strawberry.UNSET, description="The IANA zone that their days are counted in."
    )
    birth_date: date | None = strawberry.field(
        default=strawberry.UNSET, description="From which their age follows; unknown counts as of age."
    )

    def draft(self) -> UserDraft:
        """What was sent, for judging."""
        return UserDraft(
            str(self.user_id), self.role, _kept(self.display_name), _kept(self.time_zone), _kept(self.birth_date)
        )


def _kept(value: Any) -> Any:
    return KEEP if value is strawberry.UNSET else value


@strawberry.input(description="Users to make known or to change.")
class UpsertUsersInput:
    """The contract's UpsertUsersInput."""

    users: list[UserInput] = strawberry.field(description="Who they are; 1 to 1,000 of them, each judged by itself.")


@strawberry.type(description="Who was taken, and who was not.")
class UpsertUsersPayload:
    """The contract's UpsertUsersPayload."""

    users: list[Person] = strawberry.field(description="The users as they are kept now.")
    user_errors: list[UserError] = strawberry.field(description="Why others were not taken; empty where all were.")

    @classmethod
    def of(cls, kept: list[dict[str, Any]], refusals: list[Refusal]) -> "UpsertUsersPayload":
        """What became of the users, in this shape."""
        return cls(
            users=[
                Person(user_id=row["user_id"], role=UserRole(row["role"]), display_name=row["display_name"])
                for row in kept
            ],
            user_errors=[UserError.of(refusal) for refusal in refusals],
        )
