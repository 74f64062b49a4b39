"""Events as they are kept: one row each, in weekly partitions, never changed."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest
from models.user import UserRole


class UserActivityEvent(Base):
    """What happened, under whose key, and what was known of the page and the browser."""

    __tablename__ = "user_activity_events"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    received_at: Mapped[datetime]
    device_id: Mapped[UUID | None]
    from_service: Mapped[bool]
    event_type: Mapped[str]
    event_category: Mapped[str]
    user_id: Mapped[str | None]
    page_path: Mapped[str | None]
    page_title: Mapped[str | None]
    referrer: Mapped[str | None]
    user_agent: Mapped[str | None]
    ip_address: Mapped[str | None]
    event_data: Mapped[dict[str, Any]]


EventKey = tuple[UUID, UUID, datetime]
"""Subject, event id and event time: the same again is a duplicate."""


class TrackedEvent(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An event that was judged and taken, on its way to the table.

    `user_id` is None where nobody signed the event: then it is the device's, and `device_id` says which.
    `role` is the role that the user's own token gave, by which they become known; None where a SERVICE speaks of
    somebody. `unjudged` events could not be held against what the database knows of people: whoever stores them must.
    `event_type` is the name it is stored under, `data` its payload as it was sent (camel case).
    Fields are added at the end, with a default: an older worker then leaves such events to a newer one, and a newer one
    reads those of an older API.
    """

    event_id: UUID
    occurred_at: datetime
    received_at: datetime
    event_type: str
    event_category: str
    user_id: str | None
    role: UserRole | None
    from_service: bool
    data: dict[str, Any]
    device_id: UUID | None = None
    page_path: str | None = None
    page_title: str | None = None
    referrer: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    unjudged: bool = False


_COLUMNS = [
    UserActivityEvent.subject_key,
    UserActivityEvent.event_id,
    UserActivityEvent.occurred_at,
    UserActivityEvent.received_at,
    UserActivityEvent.device_id,
    UserActivityEvent.from_service,
    UserActivityEvent.event_type,
    UserActivityEvent.event_category,
    UserActivityEvent.user_id,
    UserActivityEvent.page_path,
    UserActivityEvent.page_title,
    UserActivityEvent.referrer,
    UserActivityEvent.user_agent,
    UserActivityEvent.ip_address,
    UserActivityEvent.event_data,
]
_FIELDS = [column.key for column in _COLUMNS[1:-1]]


async def insert_events(connection: AsyncConnection, events: Iterable[tuple[UUID, TrackedEvent]]) -> set[EventKey]:
    """Keep the events under these subject keys, and say which were new. Of two that are the same, the first stays."""
    # One order for everybody: two batches that share events never wait for each other in a circle.
    ordered = sorted(events, key=lambda each: (each[0], each[1].event_id, each[1].occurred_at))
    rows = unnest(
        _COLUMNS,
        [(subject, *(getattr(event, field) for field in _FIELDS), event.data) for subject, event in ordered],
    )
    inserted = await connection.execute(
        insert(UserActivityEvent)
        .from_select(rows.c.keys(), select(rows))
        .on_conflict_do_nothing()
        .returning(UserActivityEvent.subject_key, UserActivityEvent.event_id, UserActivityEvent.occurred_at)
    )
    return {(row.subject_key, row.event_id, row.occurred_at) for row in inserted}
