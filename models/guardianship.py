"""Who is whose guardian, and until when."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, ForeignKey, func, or_
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Guardianship(Base):
    """One link: the child is its subject, the guardian the one who may look."""

    __tablename__ = "guardianships"

    subject_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    guardian_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    linked_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


def in_force() -> ColumnElement[bool]:
    """Whether a link still counts at the transaction's time; one that expires now does not."""
    return or_(Guardianship.expires_at.is_(None), Guardianship.expires_at > func.now())
