"""Errors that pages reported, one row each, and the groups that they fall into."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

import orjson
from sqlalchemy import SmallInteger, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest
from models.event import TrackedEvent

GROUPING = 1
"""The version of `error_group`. It is kept with each error, whose group stays what it was."""
_NAMESPACE = UUID("5b0f6bb5-7c3c-4f5f-8f0e-3d1f4a4f7a52")
TOP_FRAMES = 3
# Chrome writes "    at name (place:1:2)"; Firefox and Safari "name@place:1:2", and what has no name as its place alone.
_CHROME = re.compile(r"^\s*at ")
_PLACE = re.compile(r"@|:\d+$")
_POSITION = re.compile(r"(?::\d+){1,2}(?=[),\s]|$)|\bline \d+\b")
# An apostrophe within a word is no quotation mark.
_CHANGING = re.compile(
    r"\"[^\"]*\"|`[^`]*`|(?<!\w)'.*?'(?!\w)"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b0x[0-9a-f]+\b|\b[0-9a-f]{8,}\b"
    r"|\d+(?:\.\d+)?",
    re.IGNORECASE,
)


class ErrorType(StrEnum):
    """The contract's ErrorType, in its order: an error's event type in capitals."""

    JAVASCRIPT_ERROR = "JAVASCRIPT_ERROR"
    API_ERROR = "API_ERROR"
    NETWORK_ERROR = "NETWORK_ERROR"


class ErrorEvent(Base):
    """An error event's own columns, beside its row among the events. `grouping` is the version that grouped it."""

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
    group_id: Mapped[UUID]
    grouping: Mapped[int] = mapped_column(SmallInteger)


class ErrorGroup(Base):
    """Errors that are the same, and when the first and the last of them happened; all else its events tell."""

    __tablename__ = "error_groups"

    group_id: Mapped[UUID] = mapped_column(primary_key=True)
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


def frames(stack: str | None) -> list[str]:
    """The frames of a stack as Chrome, Firefox and Safari write it, the top first, without line and column numbers."""
    lines = (stack or "").splitlines()
    chosen = [line for line in lines if _CHROME.match(line)] or [line for line in lines if _PLACE.search(line.strip())]
    return [_POSITION.sub("", line).strip() for line in chosen]


def error_group(error_type: str, payload: Mapping[str, Any]) -> UUID:
    """The group of an error: by its fingerprint where it has one; else by its type, component and the top three frames
    of its stack; else by its type, endpoint, status and message, without what changes from one error to the next."""
    parts: list[object]
    if fingerprint := payload.get("fingerprint"):
        parts = [fingerprint]
    elif top := frames(payload.get("stack"))[:TOP_FRAMES]:
        parts = [error_type, payload.get("componentName"), *top]
    else:
        texts = [_CHANGING.sub("…", payload.get(field) or "") for field in ("endpoint", "message")]
        parts = [error_type, payload.get("statusCode"), *texts]
    return uuid5(_NAMESPACE, orjson.dumps(parts).decode())


def culprit(component: str | None, stack: str | None, endpoint: str | None) -> str | None:
    """What is to blame: the component, else the top frame of the stack, else the endpoint."""
    return component or next((frame.removeprefix("at ") for frame in frames(stack)), None) or endpoint


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
            ErrorEvent.group_id,
            ErrorEvent.grouping,
            *_PAYLOAD,
        ],
        [
            (
                subject,
                event.event_id,
                event.occurred_at,
                event.event_type.upper(),
                event.page_path,
                error_group(event.event_type, event.payload),
                GROUPING,
                *map(event.payload.get, _PAYLOAD.values()),
            )
            for subject, event in events
        ],
    )
    await connection.execute(insert(ErrorEvent).from_select(rows.c.keys(), select(rows)).on_conflict_do_nothing())


async def note_groups(connection: AsyncConnection, spans: Sequence[tuple[UUID, datetime, datetime]]) -> None:
    """Widen when groups were first and last seen by the errors of these subjects between two times, both included."""
    if not spans:
        return
    error, group = ErrorEvent, ErrorGroup
    asked = unnest([error.subject_key, group.first_seen_at, group.last_seen_at], spans)
    seen = (
        select(error.group_id, func.min(error.occurred_at), func.max(error.occurred_at))
        .join(asked, error.subject_key == asked.c.subject_key)
        .where(error.occurred_at.between(asked.c.first_seen_at, asked.c.last_seen_at))
        .group_by(error.group_id)
        # One order for everybody: two roll-ups that see the same groups never wait for each other in a circle.
        .order_by(error.group_id)
    )
    statement = insert(group).from_select(["group_id", "first_seen_at", "last_seen_at"], seen)
    sent = statement.excluded
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[group.group_id],
            set_={
                "first_seen_at": func.least(group.first_seen_at, sent.first_seen_at),
                "last_seen_at": func.greatest(group.last_seen_at, sent.last_seen_at),
            },
            where=or_(sent.first_seen_at < group.first_seen_at, sent.last_seen_at > group.last_seen_at),
        )
    )
