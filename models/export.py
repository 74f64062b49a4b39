"""Exports: an archive of all that is kept of one person, for whoever asked, for seven days."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

OFFERED_FOR = timedelta(days=7)


class DataExport(Base):
    """One archive, or the wish for it. `asked_as` is the role in which it was asked for, whose view others' ids are
    shown by. It goes with whom it tells of, and with who asked."""

    __tablename__ = "data_exports"

    subject_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    export_id: Mapped[UUID] = mapped_column(primary_key=True)
    asked_by_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"))
    asked_as: Mapped[str]
    state: Mapped[str]
    requested_at: Mapped[datetime]
    tries: Mapped[int]
    expires_at: Mapped[datetime | None]
    size: Mapped[int | None]


class DataExportPart(Base):
    """So many bytes of an archive: in the database, since every process reaches it and an erasure finds it there."""

    __tablename__ = "data_export_parts"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    export_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]
