"""When a run is due, what it does by then, and how it is told of."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from models.horizon import horizon
from models.retention import Policy, Step, take_step
from tests.platform import Platform
from tests.workers.retention.past import (
    ADMIN,
    DAY,
    DUE_AT,
    HOUR,
    MONDAY,
    NEVER,
    NOW,
    POLICY,
    TABLES,
    TICK,
    WEEK,
    a_day,
    due_at,
    dumped,
    live,
    make_week,
    retention_process,
    run,
    telling,
)
from tests.workers.storing import Storing
from workers.main import retain_daily, watch_retention
from workers.retention import is_due

NOTHING = timedelta(0)


def parts(week: datetime) -> set[str]:
    return {f"{table}{week:_%Y%m%d}" for table in TABLES}


@pytest.mark.parametrize(("step", "days"), [(Step.ANONYMIZE, 90), (Step.DELETE, 730)])
@pytest.mark.parametrize("month", [2, 9])
async def test_one_second_before_and_after(idle: Platform, old: Storing, step: Step, days: int, month: int) -> None:
    """Also where clocks change between a week and the moment at which it has to be done."""
    monday = horizon(datetime(NOW.year - 1, month, 28, tzinfo=UTC) - (days - 90) * DAY, 1)
    await make_week(idle, monday)
    at = monday + timedelta(days=days - 1, hours=2)
    names = {(step, name) for name in parts(monday)}
    policy = POLICY if step is Step.DELETE else Policy(90, NEVER)
    assert not names & await due_at(old, at - TICK, policy)
    assert names <= await due_at(old, at, policy)
    async with old.engine.begin() as connection:
        done = {part.name for _ in range(8) if (part := await take_step(connection, step, at - TICK, policy))}
        assert not done & parts(monday)
        done = {part.name for _ in range(8) if (part := await take_step(connection, step, at, policy))}
        assert done >= parts(monday)
        assert await take_step(connection, step, at, policy) is None


async def test_the_database_has_the_same_horizon(old: Storing) -> None:
    moments = [MONDAY + index * timedelta(hours=7, minutes=59, seconds=59) for index in range(40)]
    moments += [DUE_AT, DUE_AT - TICK, DUE_AT + TICK]
    for at, days in product(moments, (16, 90, 365)):
        assert await old.rows(f"SELECT retention_horizon(:at, {days})", at=at) == [(horizon(at, days),)]


async def test_an_admin_sees_how_it_stands(idle: Platform, old: Storing) -> None:
    await old.know("amelia")
    first, second = a_day(MONDAY + DAY), a_day(NOW.replace(microsecond=0) - DAY)
    await live(old, [telling(event) for event in (*first, *second)])
    asked = """{ retentionStatus {
      anonymizeAfterDays deleteAfterDays oldestIdentifiable oldestKept
      lastRun { startedAt finishedAt anonymized deleted }
    } }"""
    before = (await idle.data(asked, ADMIN))["retentionStatus"]
    assert (before["anonymizeAfterDays"], before["deleteAfterDays"], before["lastRun"]) == (90, 730, None)
    await run(idle)
    after = (await idle.data(asked, ADMIN))["retentionStatus"]
    # A day's contribution begins where the day does.
    assert [datetime.fromisoformat(each["oldestIdentifiable"]) for each in (before, after)] == [
        MONDAY + DAY,
        second[0].occurred_at,
    ]
    assert datetime.fromisoformat(after["oldestKept"]) == first[0].occurred_at.replace(minute=0, second=0)
    last = after["lastRun"]
    assert NOW <= datetime.fromisoformat(last["startedAt"]) <= datetime.fromisoformat(last["finishedAt"])
    # Events, errors, a session, a contribution.
    assert (int(last["anonymized"]), int(last["deleted"])) == (16 + 2 + 1 + 1, 0)


async def test_a_clock_that_is_a_year_ahead_makes_nothing_old(idle: Platform, old: Storing) -> None:
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(NOW.replace(microsecond=0) - 2 * DAY)])
    before = await dumped(old)
    await run(idle, NOW + 365 * DAY)
    assert await dumped(old) == before
    assert await old.rows("SELECT count(*) FROM user_activity_events") == [(16,)]


async def test_the_worker_begins_the_run_of_the_day_once(idle: Platform, old: Storing) -> None:
    ctx: dict[str, Any] = {"engine": old.engine, "redis": idle.api.intake.queue, "policy": POLICY, "beside": {}}

    async def look() -> list[Any]:
        await retain_daily(ctx)
        await ctx["beside"].popitem()[1]
        return await old.rows("SELECT finished_at IS NOT NULL FROM retention_runs ORDER BY started_at")

    assert await look() == [(True,)]
    assert await look() == [(True,)]
    assert not await due_at(old, NOW)
    await old.rows("UPDATE retention_runs SET finished_at = NULL")
    assert await look() == [(False,), (True,)]
    await old.rows("UPDATE retention_runs SET as_of = as_of - interval '1 day'")
    async with old.engine.connect() as connection:
        assert await is_due(connection, datetime.now(UTC))


async def test_a_run_as_of_an_earlier_day_is_not_the_day_s(idle: Platform, old: Storing) -> None:
    for as_of, is_left in ((datetime.now(UTC) - DAY, True), (datetime.now(UTC), False)):
        await run(idle, as_of)
        async with old.engine.connect() as connection:
            assert await is_due(connection, datetime.now(UTC)) is is_left


async def test_a_run_is_due_from_two_o_clock_on(old: Storing) -> None:
    two = datetime(2026, 3, 29, 2, tzinfo=UTC)
    cases = [(-HOUR, -TICK, False), (-HOUR, NOTHING, True), (NOTHING, DAY - TICK, False), (NOTHING, DAY, True)]
    async with old.engine.connect() as connection:
        for started, now, is_left in cases:
            assert await is_due(connection, two + now)
            await old.rows("INSERT INTO retention_runs VALUES (:at, :at, :at, 0, 0)", at=two + started)
            assert await is_due(connection, two + now) is is_left
            await old.rows("DELETE FROM retention_runs")


async def test_a_broken_promise_is_logged(old: Storing, caplog: pytest.LogCaptureFixture) -> None:
    await old.know("amelia")
    ctx: dict[str, Any] = {"engine": old.engine, "policy": Policy(90, 730)}
    await watch_retention(ctx)
    assert not caplog.messages
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])
    late = ctx | {"policy": Policy((NOW - MONDAY).days - 3, 730)}
    await watch_retention(late)
    assert caplog.messages == ["rows that name somebody are kept for longer than promised: see `questlog retention`"]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
async def test_the_command_line_says_what_it_does(idle: Platform, old: Storing, options: list[str]) -> None:
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])
    process = await retention_process(idle, *options)
    told, wrong = await process.communicate()
    assert process.returncode == 0, wrong
    done = "to be anonymised" if options else "anonymised"
    assert f"user_activity_events: 16 rows {done}" in told.decode()
    assert ("amelia" in await dumped(old)) is bool(options)


async def test_only_a_dry_run_looks_ahead(idle: Platform, old: Storing) -> None:
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + WEEK + DAY)])
    told = {}
    for as_of in (DUE_AT + WEEK - TICK, DUE_AT + WEEK):
        process = await retention_process(idle, "--dry-run", "--as-of", as_of.isoformat())
        told[as_of], _ = await process.communicate()
    week = f"user_activity_events{MONDAY + WEEK:_%Y%m%d}: 16 rows to be anonymised"
    assert [week in each.decode() for each in told.values()] == [False, True]
    process = await retention_process(idle, "--as-of", (NOW + DAY).isoformat())
    _, wrong = await process.communicate()
    assert process.returncode == 1
    assert b"still to come" in wrong
