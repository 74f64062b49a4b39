"""Storing a batch: any number of times, by any number of workers, once."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.event import TrackedEvent
from models.horizon import horizon
from models.user import UserRole
from tests.histories import as_tracked
from tests.recomputation import Event
from tests.workers.storing import NOW, Storing, visit
from workers.event import Stored
from workers.queue import decode_batch, encode_batch

STUDENT = UserRole.STUDENT
CONCURRENT = 10


def crowd(name: str, people: int, events: int) -> list[TrackedEvent]:
    """Events of people whom nobody knows yet, as their own tokens send them."""
    return [
        as_tracked(visit(NOW - timedelta(minutes=index)), f"{name} {index % people}", STUDENT)
        for index in range(events)
    ]


async def kept(storing: Storing, name: str) -> list[tuple[UUID, datetime]]:
    """Event ids and times of all people of this name."""
    rows = await storing.rows(
        "SELECT event_id, occurred_at FROM user_activity_events JOIN users USING (subject_key)"
        " WHERE users.user_id LIKE :name ORDER BY 1, 2",
        name=f"{name} %",
    )
    return [(event_id, at) for event_id, at in rows]


def identities(batch: Sequence[TrackedEvent]) -> list[tuple[UUID, datetime]]:
    return sorted((event.event_id, event.occurred_at) for event in batch)


async def test_storing_a_batch_again_changes_nothing(storing: Storing) -> None:
    batch = crowd("again", 7, 100)
    assert await storing.store(batch) == Stored(100, 0, 0)
    before = await storing.rows("SELECT xmin, ctid, * FROM user_activity_events ORDER BY event_id")
    spans = await storing.rows("SELECT count(*) FROM dirty_spans")
    for _ in range(10):
        assert await storing.store(batch) == Stored(0, 100, 0)
    assert await storing.rows("SELECT xmin, ctid, * FROM user_activity_events ORDER BY event_id") == before
    assert await storing.rows("SELECT count(*) FROM dirty_spans") == spans
    assert await kept(storing, "again") == identities(batch)


async def test_an_event_twice_in_a_batch_is_kept_once_with_its_first_payload(storing: Storing) -> None:
    key = await storing.know("twice")
    first = visit(NOW, kind="quest_started", questId="first")
    again = Event(first.event_id, first.occurred_at, first.type, {"questId": "again"})
    assert await storing.store([as_tracked(first, "twice"), as_tracked(again, "twice")]) == Stored(1, 1, 0)
    assert await storing.store([as_tracked(again, "twice")]) == Stored(0, 1, 0)
    rows = await storing.rows("SELECT event_data FROM user_activity_events WHERE subject_key = :key", key=key)
    assert rows == [({"questId": "first"},)]


async def test_the_same_id_at_another_time_or_of_another_person_is_another_event(storing: Storing) -> None:
    for name in ("other 1", "other 2"):
        await storing.know(name)
    event = visit(NOW)
    later = Event(event.event_id, NOW + timedelta(milliseconds=1), event.type, {})
    batch = [as_tracked(event, "other 1"), as_tracked(later, "other 1"), as_tracked(event, "other 2")]
    assert await storing.store(batch) == Stored(3, 0, 0)


async def test_shuffled_overlapping_batches_of_new_people_stored_at_once_neither_deadlock_nor_double(
    storing: Storing,
) -> None:
    randomness = random.Random(1)
    everything = crowd("crowd", 40, 600)
    for size in (200, 400, 600):
        batches = [randomness.sample(everything, size) for _ in range(CONCURRENT)]
        known = set(await kept(storing, "crowd"))
        outcomes = await asyncio.gather(*(storing.store(batch) for batch in batches))
        new = {identity for batch in batches for identity in identities(batch)} - known
        assert sum(outcome.stored for outcome in outcomes) == len(new)
        assert all(outcome.stored + outcome.duplicate == size for outcome in outcomes)
    assert await kept(storing, "crowd") == identities(everything)
    people = await storing.rows("SELECT count(*), count(DISTINCT user_id) FROM users WHERE user_id LIKE 'crowd %'")
    assert people == [(40, 40)]


async def test_batches_that_bring_the_same_new_people_never_wait_in_a_circle(storing: Storing) -> None:
    first, second, third = [f"newcomer {letter}" for letter in "abc"]

    def arriving(*people: str) -> list[TrackedEvent]:
        return [
            as_tracked(visit(NOW - index * timedelta(minutes=1)), name, STUDENT) for index, name in enumerate(people)
        ]

    async with storing.superuser.connect() as holding:
        await holding.execute(
            text("INSERT INTO users VALUES (gen_random_uuid(), :name, 'STUDENT', NULL, 'UTC', NULL, now())"),
            {"name": second},
        )
        forth = asyncio.create_task(storing.store(arriving(first, second, third)))
        await storing.until_waiting(1)
        back = asyncio.create_task(storing.store(arriving(third, second, first)))
        await storing.until_waiting(2)
        await holding.rollback()
        assert await forth == await back == Stored(3, 0, 0)


async def test_a_batch_that_fails_leaves_nothing(storing: Storing) -> None:
    beyond = as_tracked(visit(NOW + timedelta(days=365)), "half 1", STUDENT)
    with pytest.raises(DBAPIError, match="no partition"):
        await storing.store([*crowd("half", 1, 10), beyond])
    assert await kept(storing, "half") == []
    assert await storing.rows("SELECT user_id FROM users WHERE user_id LIKE 'half %'") == []


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns"])
async def test_an_event_whose_day_was_sealed_while_it_waited_is_withdrawn(storing: Storing, zone: str) -> None:
    name = f"sealed in {zone}"
    key = await storing.know(name, zone)
    boundary = horizon(datetime.now(UTC), 30)
    there = boundary.astimezone(ZoneInfo(zone))
    # Day by day on the local calendar: a day on which the clock changes has 23 or 25 hours.
    midnights = [
        datetime.combine(there.date() + timedelta(days=days), time(0), there.tzinfo).astimezone(UTC) for days in (0, 1)
    ]
    first_open = min(midnight for midnight in midnights if midnight >= boundary)
    moments = [first_open - timedelta(milliseconds=1), first_open, boundary - timedelta(days=1)]
    batch = [as_tracked(visit(at), name) for at in moments]
    assert await storing.store(batch, days=30) == Stored(1, 0, 2)
    rows = await storing.rows("SELECT occurred_at FROM user_activity_events WHERE subject_key = :key", key=key)
    assert rows == [(first_open,)]
    spans = await storing.rows("SELECT first_at, last_at FROM dirty_spans WHERE subject_key = :key", key=key)
    assert spans == [(first_open, first_open)]


async def test_events_of_a_person_who_went_are_withdrawn_and_the_rest_is_kept(storing: Storing) -> None:
    await storing.know("stays")
    batch = [as_tracked(visit(NOW), "went"), as_tracked(visit(NOW), "stays")]
    assert await storing.store(batch) == Stored(1, 0, 1)
    assert await storing.store([as_tracked(visit(NOW), "went")]) == Stored(0, 0, 1)
    assert await storing.rows("SELECT user_id FROM users WHERE user_id = 'went'") == []


async def test_error_events_are_kept_beside_and_once(storing: Storing) -> None:
    key = await storing.know("unlucky")
    failed = Event(
        uuid4(),
        NOW,
        "api_error",
        {"message": "no", "endpoint": "/api/quests", "method": "GET", "statusCode": 503, "release": "r1"},
        page_path="/quests/7?tab=2",
    )
    broken = Event(uuid4(), NOW, "javascript_error", {"message": "x is undefined", "componentName": "Map"})
    batch = [as_tracked(event, "unlucky") for event in (failed, broken, visit(NOW))]
    for _ in range(2):
        await storing.store(batch)
    rows = await storing.rows(
        "SELECT event_id, occurred_at, error_type, status_code, message, component, endpoint, method, release,"
        " page_path FROM error_events WHERE subject_key = :key ORDER BY error_type",
        key=key,
    )
    assert rows == [
        (failed.event_id, NOW, "API_ERROR", 503, "no", None, "/api/quests", "GET", "r1", "/quests/7"),
        (broken.event_id, NOW, "JAVASCRIPT_ERROR", None, "x is undefined", "Map", None, None, None, None),
    ]


async def test_dirty_spans_cover_what_was_stored_and_nothing_that_was_there(storing: Storing) -> None:
    keys = {name: await storing.know(name) for name in ("span 1", "span 2")}
    hours = {"span 1": [0, 5, 40], "span 2": [7]}
    batch = {name: [as_tracked(visit(NOW - timedelta(hours=hour)), name) for hour in hours[name]] for name in hours}
    await storing.store([*batch["span 1"][1:], *batch["span 2"]])
    await storing.store([*batch["span 1"], *batch["span 2"]])
    spans = await storing.rows(
        "SELECT subject_key, first_at, last_at FROM dirty_spans WHERE subject_key = ANY (:keys) ORDER BY marked_at",
        keys=list(keys.values()),
    )
    ago = {hour: NOW - timedelta(hours=hour) for hour in (0, 5, 7, 40)}
    assert sorted(spans[:2], key=lambda span: span[1]) == [
        (keys["span 1"], ago[40], ago[5]),
        (keys["span 2"], ago[7], ago[7]),
    ]
    assert spans[2:] == [(keys["span 1"], ago[0], ago[0])]


def test_a_batch_goes_through_the_queue_unchanged() -> None:
    event = Event(uuid4(), NOW, "custom", {"name": "drawn", "data": {"deep": [1, 2.5, None, {"ü": True}]}})
    batch = [as_tracked(event, "somebody", STUDENT), *crowd("queue", 2, 3)]
    assert decode_batch(encode_batch(batch)) == batch
