"""Consents: by which a learner's events may be kept, from whom, and until when."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Exists, ForeignKey, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from models.base import Base


class ConsentBasis(StrEnum):
    """On whose word it stands: the contract's `ConsentBasis`."""

    PARENT = "PARENT"
    SCHOOL = "SCHOOL"
    SELF = "SELF"


class Consent(Base):
    """One consent, which stays when it is revoked. `given_by_key` is whoever gave it, where they are a user."""

    __tablename__ = "consents"

    subject_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    consent_id: Mapped[UUID] = mapped_column(primary_key=True)
    basis: Mapped[str]
    method: Mapped[str | None]
    given_by_key: Mapped[UUID | None] = mapped_column(ForeignKey("users.subject_key", ondelete="SET NULL"))
    given_at: Mapped[datetime]
    notice_version: Mapped[str]
    revoked_at: Mapped[datetime | None]


def is_consented(subject_key: InstrumentedAttribute[UUID], birth_date: InstrumentedAttribute[date | None]) -> Exists:
    """Whether there is a consent for this subject that nobody revoked. Their own word counts only while their birth
    date is unknown: by a known one they are of age and need none, or are not and cannot give it."""
    given = select(Consent.consent_id).where(Consent.subject_key == subject_key, Consent.revoked_at.is_(None))
    return given.where(or_(Consent.basis != ConsentBasis.SELF, birth_date.is_(None))).exists()
