"""Who read whose data."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ForeignKey, Text, column, delete, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, aliased, mapped_column

from models.base import Base, unnest
from models.user import User

BOTH = "ARRAY(SELECT DISTINCT unnest(access_log.fields || excluded.fields) ORDER BY 1)"


class AccessLogEntry(Base):
    """That somebody read data of its subject in some hour (UTC), from when on, and which fields of the schema."""

    __tablename__ = "access_log"

    subject_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    access_id: Mapped[UUID] = mapped_column(primary_key=True)
    viewer_key: Mapped[UUID | None] = mapped_column(ForeignKey("users.subject_key", ondelete="SET NULL"))
    viewer_role: Mapped[str]
    hour: Mapped[datetime]
    at: Mapped[datetime]
    fields: Mapped[list[str]] = mapped_column(ARRAY(Text))


class Access(NamedTuple):
    """That a viewer, by user id and the role they asked in, read fields of a subject."""

    subject_key: UUID
    viewer_id: str
    viewer_role: str
    at: datetime
    fields: frozenset[str]


def hour_of(at: datetime) -> datetime:
    """The start of the hour, in UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


async def keep_accesses(connection: AsyncConnection, accesses: Sequence[Access]) -> None:
    """Keep who read whose data, one entry an hour for the two and the role; fields are added to those that it has.

    What somebody reads of themself is not kept, nor what is of nobody who is kept. Of a viewer who was erased there may
    be more entries, none of which names them. No two may be of one entry.
    """
    entry, viewer, subject = AccessLogEntry, aliased(User), aliased(User)
    rows = unnest(
        [
            entry.subject_key,
            entry.access_id,
            User.user_id,
            entry.viewer_role,
            entry.hour,
            entry.at,
            column("names", Text()),
        ],
        [
            (each.subject_key, uuid4(), each.viewer_id, each.viewer_role, hour_of(each.at), each.at, _packed(each))
            for each in accesses
        ],
    )
    # One order for everybody: two processes that keep the same never wait for each other in a circle.
    read = (
        select(
            rows.c.subject_key,
            rows.c.access_id,
            viewer.subject_key.label("viewer_key"),
            rows.c.viewer_role,
            rows.c.hour,
            rows.c.at,
            func.string_to_array(rows.c.names, " ").label("fields"),
        )
        .join(subject, subject.subject_key == rows.c.subject_key)
        .outerjoin(viewer, viewer.user_id == rows.c.user_id)
        .where(viewer.subject_key.is_distinct_from(rows.c.subject_key))
        .order_by(rows.c.subject_key, viewer.subject_key)
    )
    statement = insert(entry).from_select(read.selected_columns.keys(), read)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[entry.subject_key, entry.hour, entry.viewer_key, entry.viewer_role],
            set_={"fields": text(BOTH)},
            where=~entry.fields.contains(statement.excluded.fields),
        )
    )


def _packed(access: Access) -> str:
    """The fields as one text: PostgreSQL would unnest an array of arrays to the last."""
    return " ".join(sorted(access.fields))


async def forget_accesses(connection: AsyncConnection, until: datetime) -> int:
    """Delete the entries of that time and before, and say how many."""
    return (await connection.execute(delete(AccessLogEntry).where(AccessLogEntry.at <= until))).rowcount
