"""Storing a batch of events: one transaction, which may run any number of times and changes nothing after the first."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from models.device import TIME_ZONE, keys_of_devices
from models.error import insert_errors
from models.event import TrackedEvent, insert_events
from models.guardianship import Pair, children_of, names_people, stranger_in
from models.horizon import LEAST_DAYS, LONGER_THAN_A_DAY, horizon, horizon_kept, is_sealed
from models.ledger import set_aside
from models.naming import NAMERS, named_in, without
from models.permission import FREE, USUAL, ConsentRule
from models.rollup import mark_dirty
from models.storing import begin_storing
from models.taxonomy import Category
from models.tombstone import erased_among
from models.user import Arrival, Subject, make_known, subjects_of
from workers.queue import encode_event


class Stored(NamedTuple):
    """What became of a batch: events kept now, there already, and no longer to be kept."""

    stored: int
    duplicate: int
    withdrawn: int


async def store(
    connection: AsyncConnection,
    batch: Sequence[TrackedEvent],
    *,
    anonymize_after_days: int,
    consent_rule: ConsentRule = USUAL,
) -> Stored:
    """Keep the batch in the connection's transaction, and mark what has to be derived from it.

    Withdrawn are events whose day was sealed, whose person objected or was erased, or whose consent is missing, by the
    time they are stored; what others did is kept without naming whoever was erased. Set aside, and in none of the
    counts, are those that would have been refused had the database been there when they came.
    """
    await begin_storing(connection)
    await make_known(
        connection,
        [Arrival(event.user_id, event.role, event.received_at) for event in batch if event.user_id and event.role],
    )
    users = await subjects_of(connection, sorted({event.user_id for event in batch if event.user_id}))
    there = await _without_erased(connection, batch, users)
    now = datetime.now(UTC)
    allowed = _allowed(there, users, consent_rule, now)
    judged = await _judged(connection, allowed, users)
    whose = await _subjects(connection, judged, users)
    sealed_before = await _sealed_before(connection, judged, now, anonymize_after_days)
    keep = [
        (subject.key, event)
        for event in judged
        if (subject := whose.get(event.user_id or event.device_id))
        and not is_sealed(event.occurred_at, ZoneInfo(subject.time_zone), sealed_before)
    ]
    withdrawn = len(batch) - len(allowed) + len(judged) - len(keep)
    if not keep:
        return Stored(0, 0, withdrawn)
    inserted = await insert_events(connection, keep)
    new = [(key, event) for key, event in keep if (key, event.event_id, event.occurred_at) in inserted]
    await insert_errors(connection, [(key, event) for key, event in new if event.kind.category is Category.ERROR])
    await mark_dirty(connection, _spans(new))
    return Stored(len(inserted), len(keep) - len(inserted), withdrawn)


class Whose(NamedTuple):
    """Under which key an event is kept, and the IANA zone its days are counted in."""

    key: UUID
    time_zone: str


async def _without_erased(
    connection: AsyncConnection, batch: Sequence[TrackedEvent], users: Mapping[str, Subject]
) -> Sequence[TrackedEvent]:
    """The batch without the events of people who were erased, and without what names them in those of others."""
    unknown = {event.user_id for event in batch if event.user_id and event.user_id not in users}
    naming = {id(event): named_in(event.kind, event.payload) for event in batch if event.event_type in NAMERS}
    erased = await erased_among(connection, unknown.union(*naming.values()) - users.keys())
    if not erased:
        return batch
    return [
        _without(erased, event) if erased & naming.get(id(event), set()) else event
        for event in batch
        if event.user_id not in erased
    ]


def _without(people: Collection[str], event: TrackedEvent) -> TrackedEvent:
    payload = without(people, event.kind, event.payload)
    return msgspec.structs.replace(event, data=orjson.dumps(payload).decode())


def _allowed(
    batch: Sequence[TrackedEvent], users: Mapping[str, Subject], rule: ConsentRule, now: datetime
) -> Sequence[TrackedEvent]:
    """The events that may be kept, as they may be."""
    restricted = {
        user_id: standing for user_id, subject in users.items() if (standing := rule.standing(subject, now)) != FREE
    }
    if not restricted:
        return batch
    standings = [(event, restricted.get(event.user_id or "", FREE)) for event in batch]
    return [standing.kept(event) for event, standing in standings if not standing.refusal(event.kind)]


async def _judged(
    connection: AsyncConnection, batch: Sequence[TrackedEvent], users: Mapping[str, Subject]
) -> Sequence[TrackedEvent]:
    """The batch without the events that are refused only now, and set aside."""
    unjudged = [event for event in batch if event.unjudged]
    if not unjudged:
        return batch
    guardians = {event.user_id for event in unjudged if event.user_id and names_people(event.payload)}
    children = await children_of(connection, sorted(guardians))
    refused = {id(event): reason for event in unjudged if (reason := _refusal(event, users, children))}
    await set_aside(connection, [(refused[id(each)], encode_event(each)) for each in unjudged if id(each) in refused])
    return [event for event in batch if id(event) not in refused]


def _refusal(event: TrackedEvent, users: Mapping[str, Subject], children: Collection[Pair]) -> str | None:
    user = users.get(event.user_id or "")
    if event.user_id and not user:
        return "UNKNOWN_USER"
    role = user.role if user and event.from_service else event.role
    field = stranger_in(event.payload, event.user_id, role, children)
    return f"FORBIDDEN: {field} is no child of the user's" if field else None


async def _subjects(
    connection: AsyncConnection, batch: Sequence[TrackedEvent], users: Mapping[str, Subject]
) -> dict[str | UUID | None, Whose]:
    """By user id, and by device id of events that nobody signed."""
    unsigned = {event.device_id for event in batch if event.device_id and not event.user_id}
    devices = await keys_of_devices(connection, unsigned)
    return {
        **{user_id: Whose(subject.key, subject.time_zone) for user_id, subject in users.items()},
        **{device_id: Whose(key, TIME_ZONE) for device_id, key in devices.items()},
    }


async def _sealed_before(
    connection: AsyncConnection, batch: Sequence[TrackedEvent], now: datetime, anonymize_after_days: int
) -> datetime:
    # Younger ones lie after it in any case, and nearly all are.
    latest = horizon(now, LEAST_DAYS) + LONGER_THAN_A_DAY
    if all(event.occurred_at >= latest for event in batch):
        return horizon(now, anonymize_after_days)
    return await horizon_kept(connection, now, anonymize_after_days)


def _spans(events: Sequence[tuple[UUID, TrackedEvent]]) -> list[tuple[UUID, datetime, datetime]]:
    spans: dict[UUID, tuple[datetime, datetime]] = {}
    for key, event in events:
        first, last = spans.get(key, (event.occurred_at, event.occurred_at))
        spans[key] = min(first, event.occurred_at), max(last, event.occurred_at)
    return [(key, first, last) for key, (first, last) in spans.items()]
