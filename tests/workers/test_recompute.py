"""Deriving again: what was broken is right afterwards, and what was right is not touched."""

import asyncio
import re
from collections import Counter
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from models.horizon import horizon
from tests.histories import as_tracked, histories
from tests.recomputation import Event, first_seen, last_seen
from tests.workers.storing import DAYS, DERIVED, NOW, Storing, visit
from workers import recompute as recomputing
from workers.recompute import Scope, count_subjects, recompute

NUMBERS = count()
PLACE = "tableoid::text || ctid::text"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = NOW.replace(hour=0, minute=0, second=0)
some_examples = settings(
    max_examples=5,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# What may go wrong with a row of each derived table, by hand; each breaks one row.
BREAKING = {
    "user_sessions": "events = events + 7, browser = 'Mosaic'",
    "learning_journey_events": "xp = xp + 1",
    "daily_activity": "visited = NOT visited, quests_viewed = '{none}'",
    "daily_contributions": "events_by_category[1] = 1000",
}


async def learner(storing: Storing, *events: Event, zone: str = "UTC") -> UUID:
    """Somebody new with these events, whose figures are derived."""
    name = f"learner {next(NUMBERS)}"
    key = await storing.know(name, zone)
    await storing.store([as_tracked(event, name) for event in events])
    await storing.derive()
    return key


async def again(storing: Storing, scope: Scope, now: datetime = NOW) -> dict[str, int]:
    """Recompute all of the scope: how many rows of each table were wrong, tables without any left out."""
    differing: Counter[str] = Counter()
    async for done in recompute(storing.engine, scope, now, anonymize_after_days=DAYS):
        differing += done.differing
    return dict(differing)


async def everything(storing: Storing, key: UUID, columns: str = "*") -> dict[str, list[tuple[Any, ...]]]:
    """All that is kept of a subject and follows from events."""
    seen = await storing.rows(f"SELECT {columns} FROM users WHERE subject_key = :key", key=key)
    return {**await storing.derived(key, columns), "users": seen}


def day_with_everything(day: datetime = TODAY - 2 * DAY) -> list[Event]:
    """Events that make a row in each table."""
    return [
        visit(day + HOUR, kind="page_view"),
        visit(day + HOUR + timedelta(minutes=1), kind="quest_started", questId="q"),
        visit(day + HOUR + timedelta(minutes=2), kind="quest_completed", questId="q", xp=5),
    ]


@some_examples
@given(history=histories(NOW), data=st.data())
async def test_broken_rows_are_put_right_and_counted(storing: Storing, history: Any, data: st.DataObject) -> None:
    key = await learner(storing, *history.events, zone=history.time_zone)
    right = await everything(storing, key)
    broken: Counter[str] = Counter()
    for table, how in BREAKING.items():
        for (place,) in await storing.rows(f"SELECT {PLACE} FROM {table} WHERE subject_key = :key", key=key):
            if data.draw(st.booleans()):
                change = data.draw(st.sampled_from((f"UPDATE {table} SET {how}", f"DELETE FROM {table}")))
                await storing.rows(f"{change} WHERE {PLACE} = :place", place=place)
                broken[table] += 1
    if history.events and data.draw(st.booleans()):
        await storing.rows("UPDATE users SET first_seen_at = NULL WHERE subject_key = :key", key=key)
        broken["users"] += 1
    assert await again(storing, Scope(key)) == dict(broken)
    assert await everything(storing, key) == right
    seen = await storing.rows("SELECT first_seen_at, last_seen_at FROM users WHERE subject_key = :key", key=key)
    assert seen == [(first_seen(history), last_seen(history))]


async def test_what_follows_from_no_event_is_deleted(storing: Storing) -> None:
    key = await learner(storing, *day_with_everything())
    right = await everything(storing, key)
    for table in DERIVED:
        columns = ", ".join(name for (name,) in await storing.rows(COLUMNS, table=table))
        stray = re.sub("(started_at|occurred_at)", r"\1 - interval '3 days'", columns, count=1)
        stray = re.sub(r"\bday\b", "day - 3", stray)
        await storing.rows(
            f"INSERT INTO {table} ({columns}) SELECT {stray} FROM {table} WHERE subject_key = :key", key=key
        )
    # Two milestones, and one row of each of the others.
    assert await again(storing, Scope(key)) == {**dict.fromkeys(DERIVED, 1), "learning_journey_events": 2}
    assert await everything(storing, key) == right


COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = :table ORDER BY ordinal_position
"""


async def test_of_somebody_without_events_nothing_is_left(storing: Storing) -> None:
    key = await learner(storing, *day_with_everything())
    await storing.rows("DELETE FROM user_activity_events WHERE subject_key = :key", key=key)
    assert await again(storing, Scope(key)) == {**dict.fromkeys(DERIVED, 1), "learning_journey_events": 2, "users": 1}
    assert await storing.derived(key) == {table: [] for table in DERIVED}
    assert await storing.rows("SELECT first_seen_at, last_seen_at FROM users WHERE subject_key = :key", key=key) == [
        (None, None)
    ]


@some_examples
@given(history=histories(NOW))
async def test_what_is_right_is_not_written_again(storing: Storing, history: Any) -> None:
    key = await learner(storing, *history.events, zone=history.time_zone)
    before = await everything(storing, key, "*, ctid, xmin::text")
    assert await again(storing, Scope(key)) == {}
    assert await everything(storing, key, "*, ctid, xmin::text") == before


async def test_seen_wrongly_is_one_row_and_known_since_follows_an_earlier_event(storing: Storing) -> None:
    events = day_with_everything()
    key = await learner(storing, *events)
    await storing.rows(
        "UPDATE users SET first_seen_at = first_seen_at - interval '1 hour', last_seen_at = now(), known_since = now()"
        " WHERE subject_key = :key",
        key=key,
    )
    assert await again(storing, Scope(key)) == {"users": 1}
    assert await storing.rows(
        "SELECT first_seen_at, last_seen_at, known_since FROM users WHERE subject_key = :key", key=key
    ) == [(events[0].occurred_at, events[-1].occurred_at, events[0].occurred_at)]


async def test_days_before_the_horizon_and_imported_milestones_stay(storing: Storing) -> None:
    later = NOW + timedelta(days=60)
    sealed = horizon(later, DAYS)
    key = await learner(storing, *day_with_everything(sealed - 3 * DAY), *day_with_everything(sealed + 3 * DAY))
    for table, how in BREAKING.items():
        await storing.rows(f"UPDATE {table} SET {how} WHERE subject_key = :key", key=key)
    await storing.rows(IMPORTED, key=key, event=uuid4(), at=NOW - HOUR)
    before = await everything(storing, key)
    unsealed = {**dict.fromkeys(DERIVED, 1), "learning_journey_events": 2}
    assert await again(storing, Scope(key), later) == unsealed
    after = await everything(storing, key)
    assert {table: len(set(map(repr, before[table])) - set(map(repr, rows))) for table, rows in after.items()} == {
        **unsealed,
        "users": 0,
    }
    assert await storing.rows("SELECT first_seen_at FROM users WHERE subject_key = :key", key=key) == [
        (sealed - 3 * DAY + HOUR,)
    ]


IMPORTED = """
INSERT INTO learning_journey_events (subject_key, event_id, occurred_at, day, kind, xp, imported)
VALUES (:key, :event, :at, '2020-01-01', 'QUEST_STARTED', 0, true)
"""


async def test_an_event_of_the_same_identity_leaves_an_imported_milestone_as_it_is(storing: Storing) -> None:
    [_, started, _] = events = day_with_everything()
    name = f"learner {next(NUMBERS)}"
    key = await storing.know(name)
    await storing.rows(IMPORTED, key=key, event=started.event_id, at=started.occurred_at)
    await storing.store([as_tracked(event, name) for event in events])
    await storing.derive()
    assert await again(storing, Scope(key)) == {}
    assert await storing.rows(
        "SELECT imported FROM learning_journey_events WHERE subject_key = :key ORDER BY occurred_at", key=key
    ) == [(True,), (False,)]


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [(None, None, {4, 3, 2}), (3, 3, {3}), (3, None, {3, 2}), (None, 3, {4, 3}), (1, None, set()), (None, 5, set())],
)
async def test_days_are_the_learners_own_with_both_ends(
    storing: Storing, first: int | None, last: int | None, days: set[int]
) -> None:
    """In Kathmandu a day begins at 18:15 the day before."""
    at = {ago: TODAY - ago * DAY - timedelta(hours=5, minutes=30) for ago in (4, 3, 2)}
    key = await learner(storing, *(visit(when) for when in at.values()), zone="Asia/Kathmandu")
    await storing.rows("UPDATE daily_activity SET events = 9 WHERE subject_key = :key", key=key)
    bounds = [None if ago is None else (TODAY - ago * DAY).date() for ago in (first, last)]
    scope = Scope(key, *bounds)
    assert await again(storing, scope) == ({"daily_activity": len(days)} if days else {})
    right = await storing.rows("SELECT day FROM daily_activity WHERE subject_key = :key AND events = 1", key=key)
    assert {(TODAY.date() - day).days for (day,) in right} == days


async def test_events_are_held_in_portions(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputing, "EVENTS_AT_ONCE", 4)
    busy = [visit(TODAY - 20 * DAY + step * timedelta(minutes=29)) for step in range(400)]
    key = await learner(storing, *busy)
    right = await everything(storing, key)
    await storing.rows("UPDATE daily_activity SET events = 0 WHERE subject_key = :key", key=key)
    await storing.rows("DELETE FROM user_sessions WHERE subject_key = :key", key=key)
    wrong = {"daily_activity": len(right["daily_activity"]), "user_sessions": len(right["user_sessions"])}
    assert await again(storing, Scope(key)) == wrong
    assert await everything(storing, key) == right


@pytest.mark.long
async def test_broken_off_it_is_done_by_the_next(storing: Storing) -> None:
    keys = [await learner(storing, *day_with_everything()) for _ in range(60)]
    await again(storing, Scope())
    await storing.rows("UPDATE daily_activity SET events = 9 WHERE subject_key = ANY (:keys)", keys=keys)
    async with storing.engine.connect() as connection:
        everybody = await count_subjects(connection, Scope())
    steps = recompute(storing.engine, Scope(), NOW, anonymize_after_days=DAYS)
    first = await anext(steps)
    await steps.aclose()
    rest = await again(storing, Scope())
    assert first.subjects < everybody
    assert first.differing["daily_activity"] + rest["daily_activity"] == 60
    assert await again(storing, Scope()) == {}


async def test_beside_roll_ups_and_stores_figures_end_right(storing: Storing) -> None:
    """Two recomputations, roll-ups and new events at once: nobody waits in a circle, and nothing is lost."""
    people = [f"learner {next(NUMBERS)}" for _ in range(8)]
    keys = [await storing.know(name) for name in people]
    await storing.derive()

    async def store_some() -> None:
        for step in range(12):
            at = TODAY - DAY + step * timedelta(minutes=25)
            await storing.store([as_tracked(visit(at), name) for name in people])

    async def derive_some() -> None:
        for _ in range(30):
            await storing.roll_up()

    async with asyncio.timeout(60):
        await asyncio.gather(store_some(), derive_some(), derive_some(), *(again(storing, Scope()) for _ in range(2)))
    await storing.derive()
    for key in keys:
        assert await storing.rows("SELECT events FROM user_sessions WHERE subject_key = :key", key=key) == [(12,)]
    assert await again(storing, Scope()) == {}


@pytest.mark.long
async def test_numbers_of_the_platform_are_put_right_and_counted(storing: Storing) -> None:
    page = Event(uuid4(), TODAY - 2 * DAY, "page_view", {}, UUID(int=1), page_path="/maps")
    await learner(storing, page, *day_with_everything())
    await again(storing, Scope())
    right = {table: await storing.rows(f"SELECT *, xmin::text FROM {table} ORDER BY 1, 2") for table in SUMS}
    assert await again(storing, Scope()) == {}
    assert {table: await storing.rows(f"SELECT *, xmin::text FROM {table} ORDER BY 1, 2") for table in SUMS} == right
    day = (TODAY - 2 * DAY).date()
    for statement in (
        "UPDATE page_view_analytics SET views = views + 7 WHERE day = :day",
        "DELETE FROM quest_analytics WHERE day = :day",
        "INSERT INTO badge_analytics SELECT :day, max(number) + 1, 1, 1, 1 FROM catalogue",
    ):
        await storing.rows(statement, day=day)
    pages, quests = [
        len([row for row in right[table] if row[0] == day]) for table in ("page_view_analytics", "quest_analytics")
    ]
    assert pages
    assert quests
    before = Scope(last_day=day - DAY)
    assert await again(storing, before) == {}
    assert await again(storing, Scope()) == {
        "page_view_analytics": pages,
        "quest_analytics": quests,
        "badge_analytics": 1,
    }
    for table in SUMS:
        rows = [row[:-1] for row in await storing.rows(f"SELECT *, xmin::text FROM {table} ORDER BY 1, 2")]
        assert rows == [row[:-1] for row in right[table]]


SUMS = ("page_view_analytics", "quest_analytics", "badge_analytics")


async def test_numbers_of_sealed_days_stay(storing: Storing) -> None:
    later = NOW + timedelta(days=60)
    sealed = horizon(later, DAYS).date()
    await again(storing, Scope(), later)
    wrong = "INSERT INTO badge_analytics SELECT :day, 1000000, 1, 1, 1"
    for day in (sealed - DAY, sealed):
        await storing.rows(wrong, day=day)
    assert await again(storing, Scope(), later) == {"badge_analytics": 1}
    assert await storing.rows("DELETE FROM badge_analytics WHERE badge = 1000000 RETURNING day") == [(sealed - DAY,)]


async def test_whoever_was_dirty_is_assessed_soon(storing: Storing) -> None:
    name = f"learner {next(NUMBERS)}"
    key = await storing.know(name)
    await storing.rows("UPDATE assessments_due SET due_at = :at WHERE subject_key = :key", at=NOW + DAY, key=key)
    assert await again(storing, Scope(key)) == {}
    due = "SELECT due_at <= now() FROM assessments_due WHERE subject_key = :key"
    assert await storing.rows(due, key=key) == [(False,)]
    await storing.store([as_tracked(visit(NOW - HOUR), name)])
    assert await again(storing, Scope(key)) == {}
    assert await storing.rows(due, key=key) == [(True,)]


async def test_figures_of_a_device_are_derived_again_too(storing: Storing) -> None:
    device = uuid4()
    await storing.store([replace(as_tracked(visit(NOW - HOUR, device), ""), user_id=None)])
    await storing.derive()
    [(key,)] = await storing.rows("SELECT subject_key FROM devices WHERE device_id = :device", device=device)
    await storing.rows("UPDATE user_sessions SET events = 9 WHERE subject_key = :key", key=key)
    assert await again(storing, Scope(key)) == {"user_sessions": 1}
    assert await storing.rows("SELECT events FROM user_sessions WHERE subject_key = :key", key=key) == [(1,)]
