"""Errors that pages reported, one row each."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest
from models.event import TrackedEvent


class ErrorEvent(Base):
    """An error event's own columns, beside its row among the events."""

    __tablename__ = "error_events"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    error_type: Mapped[str]
    status_code: Mapped[int | None]
    message: Mapped[str | None]
    stack: Mapped[str | None]
    component: Mapped[str | None]
    endpoint: Mapped[str | None]
    method: Mapped[str | None]
    release: Mapped[str | None]
    fingerprint: Mapped[str | None]
    page_path: Mapped[str | None]


_PAYLOAD = {
    ErrorEvent.status_code: "statusCode",
    ErrorEvent.message: "message",
    ErrorEvent.stack: "stack",
    ErrorEvent.component: "componentName",
    ErrorEvent.endpoint: "endpoint",
    ErrorEvent.method: "method",
    ErrorEvent.release: "release",
    ErrorEvent.fingerprint: "fingerprint",
}


async def insert_errors(connection: AsyncConnection, events: Sequence[tuple[UUID, TrackedEvent]]) -> None:
    """Keep what error events told of their errors; one that is kept already stays as it is."""
    if not events:
        return
    rows = unnest(
        [
            ErrorEvent.subject_key,
            ErrorEvent.event_id,
            ErrorEvent.occurred_at,
            ErrorEvent.error_type,
            ErrorEvent.page_path,
            *_PAYLOAD,
        ],
        [
            (
                subject,
                event.event_id,
                event.occurred_at,
                event.event_type.upper(),
                event.page_path,
                *map(event.payload.get, _PAYLOAD.values()),
            )
            for subject, event in events
        ],
    )
    await connection.execute(insert(ErrorEvent).from_select(rows.c.keys(), select(rows)).on_conflict_do_nothing())
