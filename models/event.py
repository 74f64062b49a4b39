"""Events as they are kept: one row each, in weekly partitions, never changed."""

from collections.abc import Iterable
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
import orjson
from sqlalchemy import ColumnElement, func, literal_column
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from models.base import Base, async_url
from models.taxonomy import EventType, event_type
from models.user import UserRole

# As they stand in the index's definition, and no parameters: PostgreSQL would not know them for the same.
MINUTE: ColumnElement[Any] = literal_column("interval '1 minute'")
SOME_MINUTE: ColumnElement[Any] = literal_column("timestamptz '2000-01-01 00:00Z'")


class UserActivityEvent(Base):
    """What happened, under whose key, and what was known of the page and the browser."""

    __tablename__ = "user_activity_events"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    received_at: Mapped[datetime]
    device_id: Mapped[UUID | None]
    from_service: Mapped[bool]
    event_type: Mapped[str]
    page_path: Mapped[str | None]
    page_title: Mapped[str | None]
    referrer: Mapped[str | None]
    user_agent: Mapped[str | None]
    ip_address: Mapped[str | None]
    event_data: Mapped[dict[str, Any]]


def minute_of(at: ColumnElement[datetime] | InstrumentedAttribute[datetime]) -> ColumnElement[datetime]:
    """The minute in which it is, by which an index has events: one that had the times themselves would be four times as
    large."""
    return func.date_bin(MINUTE, at, SOME_MINUTE)


EventKey = tuple[UUID, UUID, datetime]
"""Subject, event id and event time: the same again is a duplicate."""


class TrackedEvent(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An event that was judged and taken, on its way to the table.

    `user_id` is None where nobody signed the event: then it is the device's, and `device_id` says which.
    `role` is the role that the user's own token gave, by which they become known; None where a SERVICE speaks of
    somebody. `unjudged` events could not be held against what the database knows of people: whoever stores them must.
    `event_type` is the name it is stored under, `data` its payload as it was sent (camel case), as JSON: it is written
    once, and nobody on the way has to read it.
    Fields are added at the end, with a default: an older worker then leaves such events to a newer one, and a newer one
    reads those of an older API.
    """

    event_id: UUID
    occurred_at: datetime
    received_at: datetime
    event_type: str
    user_id: str | None
    role: UserRole | None
    from_service: bool
    data: str
    device_id: UUID | None = None
    page_path: str | None = None
    page_title: str | None = None
    referrer: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    unjudged: bool = False

    @property
    def kind(self) -> type[EventType]:
        """What the taxonomy says of its type."""
        return event_type(self.event_type)

    @property
    def payload(self) -> dict[str, Any]:
        """Its payload, read."""
        payload: dict[str, Any] = orjson.loads(self.data)
        return payload


# As asyncpg takes it: SQLAlchemy would look at each value of each array.
_DIALECT = async_url("postgresql://").get_dialect()()
_COLUMNS = {column.name: column.type.compile(dialect=_DIALECT) for column in UserActivityEvent.__table__.columns}
_INSERT = (
    f"INSERT INTO user_activity_events ({', '.join(_COLUMNS)})"  # noqa: S608 - the names are the table's own
    f" SELECT * FROM unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(_COLUMNS.values(), 1))})"
    " ON CONFLICT DO NOTHING RETURNING subject_key, event_id, occurred_at"
)


async def insert_events(connection: AsyncConnection, events: Iterable[tuple[UUID, TrackedEvent]]) -> set[EventKey]:
    """Keep the events under these subject keys, and say which were new. Of two that are the same, the first stays."""
    # One order for everybody: two batches that share events never wait for each other in a circle.
    ordered = sorted(events, key=lambda each: (each[0], each[1].occurred_at, each[1].event_id))
    rows = [(subject, *_values(event)) for subject, event in ordered]
    columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
    inserted = await connection.exec_driver_sql(_INSERT, tuple(map(list, columns)))
    return {(row.subject_key, row.event_id, row.occurred_at) for row in inserted}


_values = attrgetter(*(name if name != "event_data" else "data" for name in _COLUMNS if name != "subject_key"))
