"""What has to be derived again: a log of spans in which events changed, and how far around one must be read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Text, cast, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest
from models.horizon import midnight
from models.session import StoredEvent, quiet_after, quiet_before

DAY = timedelta(days=1)
UTC = ZoneInfo("UTC")


class DirtySpan(Base):
    """Events of the subject between the two times, both included, came or went.

    Appended only: to merge rows here would make intake wait for roll-ups. Instants, not local days, so that a
    change of time zone on the way cannot point at the wrong day.
    """

    __tablename__ = "dirty_spans"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    first_at: Mapped[datetime] = mapped_column(primary_key=True)
    last_at: Mapped[datetime] = mapped_column(primary_key=True)
    marked_at: Mapped[datetime]


async def mark_dirty(connection: AsyncConnection, spans: Iterable[Sequence[Any]]) -> None:
    """Append (subject, first time, last time) to the log."""
    rows = unnest([DirtySpan.subject_key, DirtySpan.first_at, DirtySpan.last_at], spans)
    await connection.execute(insert(DirtySpan).from_select(rows.c.keys(), rows.select()))


async def number_dirty(connection: AsyncConnection) -> int:
    """How many spans wait to be derived."""
    return await connection.scalar(select(func.count()).select_from(DirtySpan)) or 0


def lock_number(subject_key: ColumnElement[UUID]) -> ColumnElement[int]:
    """The advisory lock of a subject, which whoever writes their figures holds."""
    return func.hashtextextended(cast(subject_key, Text), 0)


def held(subject_key: ColumnElement[UUID]) -> ColumnElement[bool]:
    """Takes the subject's lock until the transaction ends; false where another holds it."""
    return func.pg_try_advisory_xact_lock(lock_number(subject_key))


@dataclass(frozen=True)
class Span:
    """All that is dirty of one subject, from the first to the last event time, both included."""

    subject_key: UUID
    zone: ZoneInfo
    first_at: datetime
    last_at: datetime

    @property
    def local_days(self) -> tuple[datetime, datetime]:
        """The local days it touches, half-open."""
        return _day_of(self.first_at, self.zone), day_after(self.last_at, self.zone)

    @property
    def utc_days(self) -> tuple[datetime, datetime]:
        """The UTC days it touches, half-open."""
        return _day_of(self.first_at, UTC), day_after(self.last_at, UTC)


@dataclass(frozen=True)
class Stretch:
    """Whole days whose figures a span can change, and all events from which they follow.

    `since` and `until` bound the local days, `utc_since` and `utc_until` the UTC days, half-open; the events hold
    them all, and reach on both sides to an instant at which no session was open.
    """

    span: Span
    since: datetime
    until: datetime
    utc_since: datetime
    utc_until: datetime
    events: Sequence[StoredEvent]


def stretch_around(
    span: Span, events: Sequence[StoredEvent], known_from: datetime, known_to: datetime
) -> Stretch | None:
    """The stretch around a span, of the subject's events in order of time; None where more must be read.

    A change can move the boundaries of every session up to the next break of half an hour on either side; a session
    counts on the local day it opened, and on the UTC days of its page views. So: out to the breaks, out to whole
    days, and out to breaks again.
    """
    visits = [event.occurred_at for event in events if event.is_on_device and not event.kind.passive]
    changed_from = quiet_before(visits, span.first_at, known_from)
    changed_to = quiet_after(visits, span.last_at + timedelta(milliseconds=1), known_to)
    if changed_from is None or changed_to is None:
        return None
    last_visit = max((time for time in visits if time < changed_to), default=span.last_at)
    changed = Span(span.subject_key, span.zone, min(changed_from, span.first_at), max(last_visit, span.last_at))
    (since, until), (utc_since, utc_until) = changed.local_days, changed.utc_days
    read_from = quiet_before(visits, min(since, utc_since), known_from)
    read_to = quiet_after(visits, max(until, utc_until), known_to)
    if read_from is None or read_to is None:
        return None
    read = [event for event in events if read_from <= event.occurred_at < read_to]
    return Stretch(span, since, until, utc_since, utc_until, read)


def first_unsealed(zone: ZoneInfo, sealed_before: datetime) -> datetime:
    """The first instant of the first local day that did not begin before the horizon."""
    start = _day_of(sealed_before, zone)
    return start if start >= sealed_before else day_after(sealed_before, zone)


def _day_of(at: datetime, zone: ZoneInfo) -> datetime:
    return midnight(at.astimezone(zone).date(), zone)


def day_after(at: datetime, zone: ZoneInfo) -> datetime:
    """The first instant of the day after the one that it is then, in that zone."""
    return midnight(at.astimezone(zone).date() + DAY, zone)
