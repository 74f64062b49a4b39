"""Deriving: never stale, never waiting, and the same whatever came when."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from models.event import insert_events
from models.horizon import horizon
from models.user import UserRole
from resolvers.user import ZONES_APART
from tests.histories import as_tracked, deliveries, histories
from tests.platform import Platform
from tests.recomputation import Event, History
from tests.workers.storing import DAYS, NOW, Rows, Storing, visit
from workers.main import Rounds, roll_up_all
from workers.rollup import SUBJECTS_AT_ONCE, roll_up

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MONDAY = (NOW - timedelta(days=NOW.weekday() + 7)).replace(hour=0, minute=0, second=0)
NUMBERS = count()
some_examples = settings(
    max_examples=5,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


async def learner(storing: Storing, zone: str = "UTC") -> tuple[str, UUID]:
    """Somebody new: their user id and key."""
    name = f"learner {next(NUMBERS)}"
    return name, await storing.know(name, zone)


async def all_at_once(storing: Storing, key: UUID) -> Rows:
    """The derived tables after everything was forgotten and derived again in one go."""
    await storing.wipe(key)
    await storing.rows(
        "INSERT INTO dirty_spans SELECT subject_key, min(occurred_at), max(occurred_at)"
        " FROM user_activity_events WHERE subject_key = :key GROUP BY 1",
        key=key,
    )
    await storing.derive()
    return await storing.derived(key)


async def sessions(storing: Storing, key: UUID) -> list[tuple[datetime, datetime]]:
    """Start and end of each session, oldest first."""
    rows = await storing.rows(
        "SELECT started_at, ended_at FROM user_sessions WHERE subject_key = :key ORDER BY 1", key=key
    )
    return [(start, end) for start, end in rows]


async def send(storing: Storing, name: str, *batches: Sequence[Event]) -> None:
    """Store each batch, and derive after each."""
    for batch in batches:
        await storing.store([as_tracked(event, name) for event in batch])
        await storing.derive()


# ------------------------------------------------------------------------------------------ in any order


@some_examples
@given(data=st.data())
async def test_whatever_comes_when_the_figures_are_those_of_deriving_all_at_once(
    storing: Storing, data: st.DataObject
) -> None:
    """Several learners an example, whose batches arrive turn by turn with a roll-up after each turn."""
    sent: list[tuple[History, str, UUID, list[list[Event]]]] = []
    for history in data.draw(st.lists(histories(NOW), min_size=6, max_size=10)):
        name, key = await learner(storing, history.time_zone)
        sent.append((history, name, key, data.draw(deliveries(history))))
    for turn in range(max(len(batches) for *_, batches in sent)):
        for _, name, _, batches in sent:
            if turn < len(batches):
                await storing.store([as_tracked(event, name) for event in batches[turn]])
        await storing.derive()
    for _, _, key, _ in sent:
        derived = await storing.derived(key)
        assert derived == await all_at_once(storing, key)


@some_examples
@given(data=st.data())
async def test_any_part_marked_in_any_order_derives_the_whole_and_rewrites_nothing(
    storing: Storing, data: st.DataObject
) -> None:
    """The events are there, unmarked; then each is marked, some of them in each turn."""
    marked: list[tuple[UUID, list[list[Event]]]] = []
    for history in data.draw(st.lists(histories(NOW), min_size=6, max_size=10)):
        name, key = await learner(storing, history.time_zone)
        async with storing.engine.begin() as connection:
            await insert_events(connection, [(key, as_tracked(event, name)) for event in history.events])
        marked.append((key, data.draw(deliveries(history))))
    for turn in range(max(len(parts) for _, parts in marked)):
        for key, parts in marked:
            if turn < len(parts):
                await storing.mark(key, (event.occurred_at for event in parts[turn]))
        await storing.derive()
    for key, parts in marked:
        derived = await storing.derived(key)
        assert derived == await all_at_once(storing, key)
        written = await storing.derived(key, "*, ctid, xmin::text")
        await storing.mark(key, (event.occurred_at for part in parts for event in part))
        await storing.derive()
        assert await storing.derived(key, "*, ctid, xmin::text") == written


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "gaps",
    [
        pytest.param([20 * MINUTE] * 9, id="one session, made of parts that late events join"),
        pytest.param([29 * MINUTE] * 110, id="more than two days without a break"),
        pytest.param([25 * MINUTE, 40 * MINUTE, 5 * MINUTE, 30 * MINUTE, 10 * MINUTE], id="breaks and no breaks"),
    ],
)
@pytest.mark.parametrize(
    ("zone", "start"),
    [
        pytest.param("UTC", MONDAY - HOUR, id="over the week's edge"),
        pytest.param("America/New_York", MONDAY + timedelta(days=2, hours=3), id="over a local midnight"),
        pytest.param("Asia/Kathmandu", MONDAY - timedelta(days=49, hours=2), id="far back"),
    ],
)
async def test_late_events_move_sessions_wherever_they_lie(
    storing: Storing, zone: str, start: datetime, gaps: list[timedelta], seed: int
) -> None:
    name, key = await learner(storing, zone)
    times = [start]
    for gap in gaps:
        times.append(times[-1] + gap)
    events = [visit(at) for at in times]
    random.Random(seed).shuffle(events)
    third = len(events) // 3
    await send(storing, name, events[:third], events[third : 2 * third], events[2 * third :])
    derived = await storing.derived(key)
    opened = [times[0]]
    for before, at in pairwise(times):
        if at - before >= 30 * MINUTE or at - opened[-1] >= DAY:
            opened.append(at)
    assert [row[0] for row in await sessions(storing, key)] == opened
    assert derived == await all_at_once(storing, key)


async def test_one_late_event_merges_two_sessions_over_midnight_and_a_logout_splits_them_again(
    storing: Storing,
) -> None:
    name, key = await learner(storing)
    await send(storing, name, [visit(MONDAY - 20 * MINUTE)], [visit(MONDAY + 20 * MINUTE), visit(MONDAY + 40 * MINUTE)])
    first, last = MONDAY - 20 * MINUTE, MONDAY + 40 * MINUTE
    assert await sessions(storing, key) == [(first, first), (MONDAY + 20 * MINUTE, last)]
    await send(storing, name, [visit(MONDAY)])
    assert await sessions(storing, key) == [(first, last)]
    days = await storing.rows(
        "SELECT day, events, session_lengths FROM daily_activity WHERE subject_key = :key ORDER BY 1", key=key
    )
    assert days == [((MONDAY - DAY).date(), 1, [60 * 60_000]), (MONDAY.date(), 3, [])]
    await send(storing, name, [visit(MONDAY + MINUTE, kind="logout")])
    assert await sessions(storing, key) == [(first, MONDAY + MINUTE), (MONDAY + 20 * MINUTE, last)]
    assert await storing.derived(key) == await all_at_once(storing, key)


@pytest.mark.parametrize("days", [1.5, 4.5, 16])
async def test_a_visit_without_a_break_for_days_is_read_to_its_ends(storing: Storing, days: float) -> None:
    name, key = await learner(storing)
    start = MONDAY - timedelta(days=20)
    times = [start + step * 29 * MINUTE for step in range(int(timedelta(days=days) / (29 * MINUTE)))]
    middle = times[len(times) // 2]
    await send(storing, name, [visit(at) for at in times if at != middle])
    await send(storing, name, [visit(middle)])
    starts = [at for at, _ in await sessions(storing, key)]
    expected = [start]
    for at in times:
        if at - expected[-1] >= DAY:
            expected.append(at)
    assert starts == expected


# ------------------------------------------------------------------------------------------ at the same time


async def test_roll_ups_and_stores_at_the_same_time_end_with_fresh_figures(storing: Storing) -> None:
    people = [await learner(storing, zone) for zone in ("UTC", "Asia/Kathmandu", "America/New_York") * 2]
    randomness = random.Random(2)

    async def store_some(rounds: int) -> None:
        for _ in range(rounds):
            batch = [
                as_tracked(visit(NOW - randomness.randrange(3 * 24 * 60) * MINUTE), name)
                for name, _ in people
                for _ in range(4)
            ]
            await storing.store(batch)

    async def derive_some(rounds: int) -> None:
        for _ in range(rounds):
            await storing.roll_up()

    async with asyncio.timeout(60):
        await asyncio.gather(store_some(15), store_some(15), *(derive_some(25) for _ in range(4)))
    await storing.derive()
    for _, key in people:
        derived = await storing.derived(key)
        assert derived == await all_at_once(storing, key)


async def test_a_roll_up_leaves_to_another_whom_that_one_holds_and_intake_waits_for_neither(
    storing: Storing,
) -> None:
    name, key = await learner(storing)
    other, other_key = await learner(storing)
    await storing.store([as_tracked(visit(MONDAY), name)])
    async with storing.engine.begin() as holding:
        assert await roll_up(holding, NOW, anonymize_after_days=DAYS) == 1
        own_token = as_tracked(visit(MONDAY + 10 * MINUTE), name, UserRole.STUDENT)
        await storing.store([own_token, as_tracked(visit(MONDAY), other)])
        assert await storing.roll_up() == 1
        assert await sessions(storing, other_key) == [(MONDAY, MONDAY)]
        assert await storing.roll_up() == 0
        assert await sessions(storing, key) == []
    assert await sessions(storing, key) == [(MONDAY, MONDAY)]
    assert await storing.roll_up() == 1
    assert await sessions(storing, key) == [(MONDAY, MONDAY + 10 * MINUTE)]


async def test_what_a_transaction_stores_while_a_roll_up_runs_is_derived_by_the_next(storing: Storing) -> None:
    name, key = await learner(storing)
    await storing.store([as_tracked(visit(MONDAY), name)])
    async with storing.engine.begin() as late:
        await insert_events(late, [(key, as_tracked(visit(MONDAY + 10 * MINUTE), name))])
        await late.execute(
            text("INSERT INTO dirty_spans (subject_key, first_at, last_at) VALUES (:key, :at, :at)"),
            {"key": key, "at": MONDAY + 10 * MINUTE},
        )
        assert await storing.roll_up() == 1
        assert await sessions(storing, key) == [(MONDAY, MONDAY)]
    assert await storing.roll_up() == 1
    assert await sessions(storing, key) == [(MONDAY, MONDAY + 10 * MINUTE)]


async def test_a_roll_up_that_is_rolled_back_leaves_its_work_to_the_next(storing: Storing) -> None:
    name, key = await learner(storing)
    await storing.store([as_tracked(visit(MONDAY), name)])
    async with storing.engine.connect() as giving_up:
        assert await roll_up(giving_up, NOW, anonymize_after_days=DAYS) == 1
    assert await sessions(storing, key) == []
    await storing.derive()
    assert await sessions(storing, key) == [(MONDAY, MONDAY)]


async def test_roll_ups_at_the_same_time_share_the_people_and_hold_no_more_than_they_derive(
    storing: Storing,
) -> None:
    await storing.derive()
    people = [await learner(storing) for _ in range(3 * SUBJECTS_AT_ONCE)]
    await storing.store([as_tracked(visit(MONDAY), name) for name, _ in people])
    async with storing.engine.begin() as one, storing.engine.begin() as other:
        assert await roll_up(one, NOW, anonymize_after_days=DAYS) == SUBJECTS_AT_ONCE
        held = await storing.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert held == [(SUBJECTS_AT_ONCE,)]
        assert await roll_up(other, NOW, anonymize_after_days=DAYS) == SUBJECTS_AT_ONCE
    assert await storing.roll_up() == SUBJECTS_AT_ONCE
    assert await storing.roll_up() == 0
    keys = [key for _, key in people]
    rows = await storing.rows("SELECT count(*) FROM user_sessions WHERE subject_key = ANY (:keys)", keys=keys)
    assert rows == [(len(people),)]


async def test_whoever_has_waited_longest_comes_first_but_a_crowded_day_waits_behind_others(storing: Storing) -> None:
    await storing.derive()
    (crowded, crowded_key), (first, _), (second, second_key) = [await learner(storing) for _ in range(3)]
    await storing.store([as_tracked(visit(MONDAY + n * timedelta(seconds=1)), crowded) for n in range(400)])
    await storing.derive()
    for name in (crowded, first, second):
        await storing.store([as_tracked(visit(MONDAY), name)])

    async def waiting() -> set[UUID]:
        return {key for (key,) in await storing.rows("SELECT subject_key FROM dirty_spans")}

    left = []
    while await waiting():
        async with storing.engine.begin() as connection:
            assert await roll_up(connection, NOW, anonymize_after_days=DAYS, subjects=1) == 1
        left.append(await waiting())
    assert left == [{crowded_key, second_key}, {crowded_key}, set()]


@pytest.mark.parametrize("order", range(4))
async def test_a_roll_up_and_an_upsert_of_the_same_people_never_wait_in_a_circle(
    storing: Storing, idle: Platform, order: int
) -> None:
    """The upsert holds the first and waits for the second; the roll-up must not hold the third and wait for the first.

    In which order rows are found is up to their random keys: several tries show several.
    """
    first, second, third = [f"circle {order} {letter}" for letter in "abc"]
    await storing.derive()
    keys = {name: await storing.know(name) for name in (third, second, first)}
    await storing.store([as_tracked(visit(MONDAY), name) for name in (third, first)])
    async with storing.superuser.connect() as holding, storing.engine.begin() as deriving:
        await holding.execute(text("SELECT FROM users WHERE subject_key = :key FOR UPDATE"), {"key": keys[second]})
        upserting = asyncio.create_task(
            idle.upsert(*({"userId": name, "role": "STUDENT"} for name in (first, second, third)))
        )
        await storing.until_waiting(1)
        rolling_up = asyncio.create_task(roll_up(deriving, NOW, anonymize_after_days=DAYS))
        await storing.until_waiting(2)
        await holding.rollback()
        await upserting
        assert await rolling_up == 2


# ------------------------------------------------------------------------------------------ what is sealed


@some_examples
@given(history=histories(NOW), later=st.integers(30, 80))
async def test_sealed_days_stay_as_they_are(storing: Storing, history: History, later: int) -> None:
    name, key = await learner(storing, history.time_zone)
    await send(storing, name, history.events)
    then = NOW + timedelta(days=later)
    boundary = horizon(then, DAYS)
    await storing.rows(
        "UPDATE daily_activity SET events = events + 1000 WHERE subject_key = :key AND day < :day",
        key=key,
        day=(boundary - timedelta(hours=14)).date(),
    )
    await storing.rows(
        "UPDATE user_sessions SET events = events + 1000 WHERE subject_key = :key AND started_at < :until",
        key=key,
        until=boundary - timedelta(hours=38),
    )
    await storing.rows(
        "UPDATE daily_contributions SET events_by_category[1] = 1000 WHERE subject_key = :key AND day < :day",
        key=key,
        day=boundary.date(),
    )
    before = await storing.derived(key, "*, ctid, xmin::text")
    await storing.mark(key, [boundary - timedelta(days=60), NOW + ZONES_APART])
    await storing.derive(then)
    assert await storing.derived(key, "*, ctid, xmin::text") == before


async def test_seen_is_from_the_earliest_to_the_latest_event(storing: Storing) -> None:
    name, key = await learner(storing)
    earliest, latest = MONDAY - timedelta(days=30), MONDAY
    await send(storing, name, [visit(latest)], [visit(latest - DAY)], [visit(earliest)])
    rows = await storing.rows(
        "SELECT first_seen_at, last_seen_at, known_since FROM users WHERE subject_key = :key", key=key
    )
    assert rows == [(earliest, latest, earliest)]


async def test_a_session_that_opened_on_a_sealed_day_is_not_found_again_in_its_rest(storing: Storing) -> None:
    name, key = await learner(storing)
    later = NOW + timedelta(days=30)
    boundary = horizon(later, DAYS)
    times = [boundary + minutes * MINUTE for minutes in (-10, 10, 30, 50)]
    await send(storing, name, [visit(at) for at in times])
    assert await sessions(storing, key) == [(times[0], times[-1])]
    before = await storing.derived(key)
    await storing.rows(
        "DELETE FROM user_activity_events WHERE subject_key = :key AND occurred_at < :at", key=key, at=boundary
    )
    await storing.mark(key, times[1:])
    await storing.derive(later)
    assert await storing.derived(key) == before


async def test_what_comes_late_after_a_sealed_session_opens_one_of_its_own(storing: Storing) -> None:
    name, key = await learner(storing)
    later = NOW + timedelta(days=30)
    boundary = horizon(later, DAYS)
    await send(storing, name, [visit(boundary - 10 * MINUTE)])
    late = boundary + 5 * MINUTE
    await storing.store([as_tracked(visit(late), name)])
    await storing.derive(later)
    assert await sessions(storing, key) == [(boundary - 10 * MINUTE, boundary - 10 * MINUTE), (late, late)]


async def test_a_subject_that_fails_holds_up_nobody_else(
    storing: Storing, idle: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    broken, _ = await learner(storing)
    await storing.rows("UPDATE users SET time_zone = 'Mars/Olympus' WHERE user_id = :id", id=broken)
    good, key = await learner(storing)
    for name in (broken, good):
        await storing.rows(
            "INSERT INTO dirty_spans SELECT subject_key, now(), now() FROM users WHERE user_id = :id", id=name
        )
    at = datetime.now(UTC) - MINUTE
    await storing.store([as_tracked(visit(at.replace(microsecond=0)), good)])
    ctx = {
        "engine": storing.engine,
        "redis": idle.api.intake.queue,
        "anonymize_after_days": DAYS,
        "rounds": Rounds(),
    }
    for _ in range(4):
        await roll_up_all(ctx)
    assert len(await sessions(storing, key)) == 1
    assert "could not be derived" in caplog.text
    assert "Mars" not in caplog.text
    await storing.rows("UPDATE users SET time_zone = 'UTC' WHERE user_id = :id", id=broken)
    await roll_up_all(ctx)
    assert await storing.rows("SELECT 1 FROM dirty_spans") == []
