"""Consents: by which a learner's events may be kept, from whom, and until when."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Exists, ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from models.base import Base

# The advisory lock that everybody shares who stores events.
STORING = func.hashtextextended("storing", 0)
SHARED, ALONE = select(func.pg_advisory_xact_lock_shared(STORING)), select(func.pg_advisory_xact_lock(STORING))


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


def is_consented(subject_key: InstrumentedAttribute[UUID]) -> Exists:
    """Whether there is a consent for this subject that nobody revoked."""
    return select(Consent.consent_id).where(Consent.subject_key == subject_key, Consent.revoked_at.is_(None)).exists()


async def begin_storing(connection: AsyncConnection) -> None:
    """To be called before a transaction looks whose events it may store: what is withdrawn meanwhile waits for it."""
    await connection.execute(SHARED)


async def outlast_storing(connection: AsyncConnection) -> None:
    """To be called last in a transaction that withdraws a permission: it ends after all that are storing by it, and
    before any other begins. Raises DBAPIError where that takes longer than two seconds."""
    await connection.execute(select(func.set_config("lock_timeout", "2s", True)))
    await connection.execute(ALONE)
