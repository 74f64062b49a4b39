"""Assessing: again when a learner's days change and after each local midnight, as of then and no other time."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from models.horizon import midnight
from models.user import UserRole
from tests import recomputation
from tests.histories import ZONES, as_tracked, deliveries, histories
from tests.platform import Platform
from tests.recomputation import Event, History
from tests.workers.storing import DAYS, NOW, Storing, visit
from workers.main import Rounds, assess_all
from workers.risk import PEOPLE_AT_ONCE, assess_due
from workers.rollup import roll_up

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
WINDOWS = (7, 14, 30, 90)
NUMBERS = count()
some_examples = settings(
    max_examples=6,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


async def learner(
    storing: Storing, zone: str = "UTC", role: UserRole = UserRole.STUDENT, since: datetime = NOW - 100 * DAY
) -> tuple[str, UUID]:
    """Somebody new: their user id and key."""
    name = f"assessed {next(NUMBERS)}"
    return name, await storing.know(name, zone, role, since)


async def send(storing: Storing, name: str, *events: Event) -> None:
    """Store the events, and derive."""
    await storing.store([as_tracked(event, name) for event in events])
    await storing.derive()


async def assess(storing: Storing, now: datetime) -> int:
    """Assess until nobody is due; says how many were."""
    people = 0
    while some := await assess_some(storing, now):
        people += some
    return people


async def assess_some(storing: Storing, now: datetime, people: int = PEOPLE_AT_ONCE) -> int:
    async with storing.engine.begin() as connection:
        return await assess_due(connection, now, people=people)


async def said(storing: Storing, key: UUID) -> dict[int, dict[str, Any]]:
    """What is kept of somebody by the window, as the contract has it."""
    rows = await storing.rows(
        "SELECT days, score, factors, model, assessed_at FROM risk_assessments WHERE subject_key = :key", key=key
    )
    return {
        days: {
            "score": score,
            "factors": [
                {"name": name, "weight": factors[name][0], "value": factors[name][1]} for name in recomputation.WEIGHTS
            ],
            "model": model,
            "assessedAt": assessed_at.isoformat(),
        }
        for days, score, factors, model, assessed_at in rows
    }


async def due_at(storing: Storing, key: UUID) -> datetime:
    ((at,),) = await storing.rows("SELECT due_at FROM assessments_due WHERE subject_key = :key", key=key)
    assert isinstance(at, datetime)
    return at


async def forget_everybody(storing: Storing) -> None:
    """Let nobody be due whom another test left."""
    await storing.derive()
    await storing.rows("UPDATE assessments_due SET due_at = 'infinity'")


async def listed(storing: Storing, days: int, threshold: float, among: Sequence[str]) -> list[str]:
    rows = await storing.rows(
        "SELECT user_id FROM risk_assessments WHERE days = :days AND rank <= :rank AND user_id = ANY (:among)"
        " ORDER BY rank, user_id",
        days=days,
        rank=-threshold,
        among=list(among),
    )
    return [user_id for (user_id,) in rows]


def wrong(history: History, now: datetime, found: dict[int, dict[str, Any]]) -> list[str]:
    """Where what is said differs from the recomputation as of `now`."""
    return [
        line
        for days in WINDOWS
        for line in recomputation.differences(recomputation.risk(history, now, days), found.get(days), f"{days} days")
    ]


# ------------------------------------------------------------------------------------------ what is said


@some_examples
@given(data=st.data())
async def test_whatever_comes_when_it_is_what_the_recomputation_says_then_and_after_each_midnight(
    storing: Storing, data: st.DataObject
) -> None:
    """Batches arrive turn by turn; then days pass in which nobody does anything."""
    sent: list[tuple[History, UUID, list[list[Event]]]] = []
    for history in data.draw(st.lists(histories(NOW), min_size=4, max_size=8)):
        name, key = await learner(storing, history.time_zone, since=history.upserted_at)
        sent.append((replace(history, user_id=name), key, data.draw(deliveries(history))))
    for turn in range(max(len(batches) for *_, batches in sent)):
        for history, _, batches in sent:
            if turn < len(batches):
                await storing.store([as_tracked(event, history.user_id) for event in batches[turn]])
        await storing.derive(NOW)
        await assess(storing, NOW)
    later = NOW + data.draw(
        st.sampled_from((timedelta(0), MINUTE, 31 * MINUTE)) | st.timedeltas(timedelta(hours=1), timedelta(days=140))
    )
    await assess(storing, later)
    for history, key, _ in sent:
        passed = recomputation.local_day(history, later) != recomputation.local_day(history, NOW)
        assert wrong(history, later if passed else NOW, await said(storing, key)) == []
    await storing.rows("UPDATE assessments_due SET due_at = :at", at=later)
    await assess(storing, later)
    everybody = [history for history, *_ in sent]
    among = [history.user_id for history in everybody]
    for days, threshold in ((7, 0), (14, 0.3), (30, 0.7), (90, 0.8)):
        assert await listed(storing, days, threshold, among) == recomputation.at_risk(everybody, later, days, threshold)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "about",
    [
        pytest.param(datetime(2026, 3, 8, tzinfo=UTC), id="New York's and St John's day of 23 hours"),
        pytest.param(datetime(2026, 11, 1, tzinfo=UTC), id="their day of 25 hours"),
        pytest.param(datetime(2026, 2, 15, tzinfo=UTC), id="Casablanca's clocks before Ramadan"),
        pytest.param(datetime(2026, 3, 22, tzinfo=UTC), id="and after"),
        pytest.param(datetime(2011, 12, 30, tzinfo=UTC), id="the day that Apia left out"),
    ],
)
async def test_who_does_nothing_is_assessed_again_at_each_local_midnight_and_not_before(
    storing: Storing, zone: str, about: datetime
) -> None:
    await forget_everybody(storing)
    start = about - 36 * timedelta(hours=1)
    name, key = await learner(storing, zone, since=start - 30 * DAY)
    history = History(name, zone, start - 30 * DAY, [])
    assert await assess(storing, start) == 1
    now = start
    for _ in range(4):
        assert wrong(history, now, await said(storing, key)) == []
        then = await due_at(storing, key)
        today, tomorrow = (at.astimezone(ZoneInfo(zone)).date() for at in (now, then))
        assert now < then
        assert (then - TICK).astimezone(ZoneInfo(zone)).date() == today != tomorrow
        assert await assess(storing, then - TICK) == 0
        assert await assess(storing, then) == 1
        now = then


async def test_a_session_that_ends_by_itself_counts_from_the_next_assessment_on(storing: Storing) -> None:
    name, key = await learner(storing)
    at = NOW - 10 * MINUTE
    events = [visit(at), visit(at + 5 * MINUTE)]
    await send(storing, name, *events)
    history = History(name, "UTC", NOW - 100 * DAY, events)
    await assess(storing, NOW)
    assert wrong(history, NOW, await said(storing, key)) == []
    assert (await said(storing, key))[7]["factors"][3]["value"] is None
    await assess(storing, midnight(NOW.date() + DAY, ZoneInfo("UTC")) + DAY)
    assert (await said(storing, key))[7]["factors"][3]["value"] == 0.75


# ------------------------------------------------------------------------------------------ when it is said


async def test_whose_days_change_is_assessed_again_and_nobody_else(storing: Storing) -> None:
    name, key = await learner(storing)
    _, other_key = await learner(storing)
    await forget_everybody(storing)
    await storing.rows(
        "UPDATE assessments_due SET due_at = :at WHERE subject_key = ANY (:keys)", at=NOW, keys=[key, other_key]
    )
    assert await assess(storing, NOW) == 2
    assert await assess(storing, NOW) == 0
    await send(storing, name, visit(NOW - DAY))
    assert await assess(storing, datetime.now(UTC)) == 1
    assert (await said(storing, key))[30]["factors"][0]["value"] == 1 / 14
    assert (await said(storing, other_key))[30]["assessedAt"] == NOW.isoformat()


async def test_whoever_becomes_known_is_due_at_once(storing: Storing) -> None:
    name = f"by token {next(NUMBERS)}"
    await send(storing, name)
    await storing.store([as_tracked(visit(NOW - MINUTE), name, UserRole.STUDENT)])
    ((key, due),) = await storing.rows(
        "SELECT subject_key, due_at FROM users JOIN assessments_due USING (subject_key) WHERE user_id = :name",
        name=name,
    )
    assert due <= datetime.now(UTC)
    await storing.derive()
    await assess(storing, datetime.now(UTC))
    assert {row["score"] for row in (await said(storing, key)).values()} == {None}


async def test_whoever_is_no_student_any_more_is_no_longer_listed(storing: Storing, idle: Platform) -> None:
    name, key = await learner(storing, since=NOW - 50 * DAY)
    await assess(storing, NOW)
    assert await listed(storing, 30, 0.9, [name]) == [name]
    await idle.upsert({"userId": name, "role": "PARENT"})
    await storing.derive()
    await assess(storing, datetime.now(UTC))
    assert await listed(storing, 30, 0, [name]) == []
    assert (await said(storing, key))[30]["score"] == 1
    await idle.upsert({"userId": name, "role": "STUDENT"})
    await storing.derive()
    await assess(storing, datetime.now(UTC))
    assert await listed(storing, 30, 0.9, [name]) == [name]


async def test_a_changed_time_zone_changes_when_the_day_is_over(storing: Storing, idle: Platform) -> None:
    name, key = await learner(storing)
    await assess(storing, NOW)
    await idle.upsert({"userId": name, "role": "STUDENT", "timeZone": "Asia/Kathmandu"})
    await storing.derive()
    now = datetime.now(UTC)
    await assess(storing, now)
    zone = ZoneInfo("Asia/Kathmandu")
    assert await due_at(storing, key) == midnight(now.astimezone(zone).date() + DAY, zone)


# ------------------------------------------------------------------------------------------ at the same time


async def test_assessing_is_shared_and_waits_for_nobody(storing: Storing) -> None:
    await forget_everybody(storing)
    people = [await learner(storing) for _ in range(6)]
    name, key = people[0]
    await storing.store([as_tracked(visit(NOW - DAY), name)])
    async with storing.engine.begin() as deriving, storing.engine.begin() as one, storing.engine.begin() as other:
        assert await roll_up(deriving, NOW, anonymize_after_days=DAYS) == 1
        assert await assess_due(one, NOW, people=4) + await assess_due(other, NOW, people=6) == 5
    assert await assess(storing, NOW) == 1
    assert (await said(storing, key))[30]["factors"][0]["value"] == 1 / 14


async def test_roll_ups_and_assessments_at_the_same_time_end_with_what_was_derived_last(storing: Storing) -> None:
    people = [await learner(storing) for _ in range(8)]

    async def derive_some(part: int) -> None:
        for ago in range(6):
            await storing.store(
                [
                    as_tracked(visit(NOW - (3 * ago + part) * DAY - number * MINUTE), name)
                    for number, (name, _) in enumerate(people)
                ]
            )
            await storing.roll_up()

    async def assess_many() -> None:
        for _ in range(40):
            await assess_some(storing, datetime.now(UTC), people=5)

    async with asyncio.timeout(60):
        await asyncio.gather(derive_some(0), derive_some(1), assess_many(), assess_many())
    await storing.derive()
    now = datetime.now(UTC)
    await assess(storing, now)
    for name, key in people:
        ((events,),) = await storing.rows(
            "SELECT array_agg(occurred_at) FROM user_activity_events WHERE subject_key = :key", key=key
        )
        history = History(name, "UTC", NOW - 100 * DAY, [visit(at) for at in events])
        found = await said(storing, key)
        assert wrong(history, datetime.fromisoformat(found[30]["assessedAt"]), found) == []


async def test_somebody_who_fails_holds_up_nobody_else(
    storing: Storing, idle: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    await forget_everybody(storing)
    broken, broken_key = await learner(storing, since=NOW - 101 * DAY)
    await storing.rows("UPDATE users SET time_zone = 'Mars/Olympus' WHERE user_id = :id", id=broken)
    good = [await learner(storing) for _ in range(3)]
    ctx = {
        "engine": storing.engine,
        "redis": idle.api.intake.queue,
        "anonymize_after_days": DAYS,
        "assessing": Rounds(subjects_at_once=PEOPLE_AT_ONCE),
    }
    for _ in range(3):
        await assess_all(ctx)
    assert all([await said(storing, key) for _, key in good])
    assert await due_at(storing, broken_key) > datetime.now(UTC)
    assert "could not be assessed" in caplog.text
    assert "Mars" not in caplog.text
    await storing.rows("UPDATE users SET time_zone = 'UTC' WHERE user_id = :id", id=broken)


# ------------------------------------------------------------------------------------------ how it is found


async def test_who_is_due_and_who_is_at_risk_are_found_by_an_index(storing: Storing) -> None:
    statements = {
        "assessments_due_due_at_idx": """
            SELECT subject_key FROM assessments_due WHERE due_at <= now() ORDER BY due_at LIMIT 9""",
        "risk_assessments_days_rank_user_id_idx": """
            SELECT user_id FROM risk_assessments WHERE days = 30 AND rank <= -0.7 AND (rank, user_id) > (-0.9, 'm')
            ORDER BY rank, user_id LIMIT 9""",
    }
    async with storing.superuser.begin() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        await connection.execute(text("SET LOCAL enable_sort = off"))
        for index, statement in statements.items():
            plan = "\n".join((await connection.scalars(text(f"EXPLAIN {statement}"))).all())
            assert index in plan
            assert "Sort" not in plan
