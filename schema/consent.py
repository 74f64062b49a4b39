"""Consents by which a learner's events are kept, and objections to it."""

from datetime import datetime

import strawberry

from resolvers.consent import ConsentDraft, Outcome
from resolvers.reader import AnyRow
from schema.connection import given
from schema.enums import ConsentBasis
from schema.guardianship import UserError
from schema.person import Person


@strawberry.type(description="A consent to keep a learner's events.")
class Consent:
    """The contract's Consent."""

    basis: ConsentBasis = strawberry.field(description="On whose word it stands.")
    method: str | None = strawberry.field(description="How it was given, such as a signed form.")
    given_by: Person | None = strawberry.field(description="Whoever gave it, where they are a user.")
    given_at: datetime = strawberry.field(description="When it was given.")
    notice_version: str = strawberry.field(description="The version of the privacy notice that it was given to.")
    revoked_at: datetime | None = strawberry.field(
        description="Since when it counts no more; null while it is in force."
    )

    @classmethod
    def of(cls, row: AnyRow) -> "Consent":
        """The row in this shape."""
        return cls(
            basis=ConsentBasis(row.basis),
            method=row.method,
            given_by=Person.of(row) if row.user_id else None,
            given_at=row.given_at,
            notice_version=row.notice_version,
            revoked_at=row.revoked_at,
        )


@strawberry.input(description="Who lets a learner's events be kept, and after reading which notice.")
class RecordConsentInput:
    """The contract's RecordConsentInput."""

    user_id: strawberry.ID = strawberry.field(description="The learner whose events may be kept.")
    basis: ConsentBasis = strawberry.field(description="On whose word it stands; from a parent: PARENT.")
    notice_version: str = strawberry.field(
        description="The version of the privacy notice that it was given to, 1 to 200 characters."
    )
    method: str | None = strawberry.field(
        default=strawberry.UNSET, description="How it was given, such as a signed form; 200 characters at most."
    )
    given_by_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Whoever gave it, where they are a user; from a parent: themself."
    )
    given_at: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="When it was given; left out or null: now."
    )

    def draft(self) -> ConsentDraft:
        """What was sent, for judging."""
        return ConsentDraft(
            self.user_id,
            self.basis,
            self.notice_version,
            given(self.method),
            given(self.given_by_id),
            given(self.given_at),
        )


@strawberry.input(description="Whose consents to revoke.")
class RevokeConsentInput:
    """The contract's RevokeConsentInput."""

    user_id: strawberry.ID = strawberry.field(description="The learner, of whom nothing more is kept then.")


@strawberry.type(description="Whom the consent is about, and whether it was recorded or revoked.")
class ConsentPayload:
    """The contract's ConsentPayload."""

    person: Person | None = strawberry.field(description="The learner, where the viewer may know of them.")
    user_errors: list[UserError] = strawberry.field(description="Why nothing was done.")

    @classmethod
    def of(cls, outcome: Outcome) -> "ConsentPayload":
        """What became of it, in this shape."""
        user, refusals = outcome
        return cls(person=user and Person.of(user), user_errors=[UserError.of(refusal) for refusal in refusals])


@strawberry.input(description="Whether somebody objects to tracking.")
class SetTrackingInput:
    """The contract's SetTrackingInput."""

    user_id: strawberry.ID = strawberry.field(description="Oneself, or a parent's child.")
    objected: bool = strawberry.field(
        description="true: nothing more is kept but milestones, sign-ins, safety flags, and errors without the person."
    )


@strawberry.type(description="Of whom it was noted.")
class SetTrackingPayload:
    """The contract's SetTrackingPayload."""

    person: Person | None = strawberry.field(description="Whoever it is about, where the viewer may know of them.")
    user_errors: list[UserError] = strawberry.field(description="Why nothing was done.")

    @classmethod
    def of(cls, outcome: Outcome) -> "SetTrackingPayload":
        """What became of it, in this shape."""
        user, refusals = outcome
        return cls(person=user and Person.of(user), user_errors=[UserError.of(refusal) for refusal in refusals])
