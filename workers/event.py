"""Storing a batch of events: one transaction, which may run any number of times and changes nothing after the first."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from models.device import TIME_ZONE, keys_of_devices
from models.error import insert_errors
from models.event import TrackedEvent, insert_events
from models.horizon import horizon, is_sealed
from models.rollup import mark_dirty
from models.taxonomy import Category
from models.user import Arrival, make_known, subjects_of


class Stored(NamedTuple):
    """What became of a batch: events kept now, there already, and no longer to be kept."""

    stored: int
    duplicate: int
    withdrawn: int


async def store(connection: AsyncConnection, batch: Sequence[TrackedEvent], *, anonymize_after_days: int) -> Stored:
    """Keep the batch in the connection's transaction, and mark what has to be derived from it.

    Withdrawn are events whose day was sealed, or whose person went, while they waited.
    """
    await make_known(
        connection,
        [Arrival(event.user_id, event.role, event.received_at) for event in batch if event.user_id and event.role],
    )
    whose = await _subjects(connection, batch)
    sealed_before = horizon(datetime.now(UTC), anonymize_after_days)
    keep = [
        (subject.key, event)
        for event in batch
        if (subject := whose.get(event.user_id or event.device_id))
        and not is_sealed(event.occurred_at, ZoneInfo(subject.time_zone), sealed_before)
    ]
    if not keep:
        return Stored(0, 0, len(batch))
    inserted = await insert_events(connection, keep)
    new = [(key, event) for key, event in keep if (key, event.event_id, event.occurred_at) in inserted]
    await insert_errors(connection, [(key, event) for key, event in new if event.event_category == Category.ERROR])
    await mark_dirty(connection, _spans(new))
    return Stored(len(inserted), len(keep) - len(inserted), len(batch) - len(keep))


class Whose(NamedTuple):
    """Under which key an event is kept, and the IANA zone its days are counted in."""

    key: UUID
    time_zone: str


async def _subjects(connection: AsyncConnection, batch: Sequence[TrackedEvent]) -> dict[str | UUID | None, Whose]:
    """By user id, and by device id of events that nobody signed."""
    users = await subjects_of(connection, sorted({event.user_id for event in batch if event.user_id}))
    unsigned = {event.device_id for event in batch if event.device_id and not event.user_id}
    devices = await keys_of_devices(connection, unsigned)
    return {
        **{user_id: Whose(subject.key, subject.time_zone) for user_id, subject in users.items()},
        **{device_id: Whose(key, TIME_ZONE) for device_id, key in devices.items()},
    }


def _spans(events: Sequence[tuple[UUID, TrackedEvent]]) -> list[tuple[UUID, datetime, datetime]]:
    spans: dict[UUID, tuple[datetime, datetime]] = {}
    for key, event in events:
        first, last = spans.get(key, (event.occurred_at, event.occurred_at))
        spans[key] = min(first, event.occurred_at), max(last, event.occurred_at)
    return [(key, first, last) for key, (first, last) in spans.items()]
