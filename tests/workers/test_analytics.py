"""The platform's figures are those that a slow recomputation finds, whoever sent what, when, and in which order."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from models.event import TrackedEvent
from models.horizon import horizon
from models.viewer import Role
from questlog.demo.course import TIME_ZONE
from tests import recomputation
from tests.histories import as_tracked, deliveries, histories
from tests.platform import Platform
from tests.recomputation import Event, History, differences
from tests.walks.test_figures import as_event, course_of
from tests.workers.storing import DAYS, NOW, Storing, visit
from workers.analytics import refresh
from workers.main import refresh_all
from workers.rollup import roll_up

ADMIN = (Role.ADMIN, "the admin")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
MIDNIGHT = (NOW - timedelta(days=NOW.weekday() + 7)).replace(hour=0, minute=0, second=0)
"""Between two UTC days and two weeks' partitions."""
QUESTION = """
query ($days: Int!, $type: ErrorType) {
  pageViews(days: $days, first: 100) {
    nodes {
      path views uniqueUsers sessions bounceRate medianLoadTimeMs p95LoadTimeMs medianTimeOnPageSeconds
      daily { dates views uniqueUsers }
    }
  }
  popularQuests(days: $days, limit: 100) { questId questTitle views starts completions completionRate popularity }
  popularBadges(days: $days, limit: 100) { badgeId badgeName views claims earned claimRate }
  errors(days: $days, errorType: $type) {
    totalErrors
    countsByType { errorType count }
    groups(first: 100) {
      nodes { errorType message count usersAffected firstSeen lastSeen sample { occurredAt message } }
    }
  }
}
"""
TABLES = (
    "users, guardianships, devices, user_activity_events, error_events, error_groups, user_sessions, daily_activity,"
    " daily_contributions, learning_journey_events, page_view_analytics, quest_analytics, badge_analytics, catalogue,"
    " dirty_spans, dirty_days, risk_assessments, assessments_due"
)
WRITTEN = (
    "SELECT *, xmin::text FROM daily_contributions ORDER BY subject_key, day",
    "SELECT *, xmin::text FROM page_view_analytics ORDER BY day, page",
    "SELECT *, xmin::text FROM quest_analytics ORDER BY day, quest",
    "SELECT *, xmin::text FROM badge_analytics ORDER BY day, badge",
    "SELECT *, xmin::text FROM error_groups ORDER BY group_id",
)
"""The rows of each table, and which transaction wrote each."""


async def summed(storing: Storing, now: datetime | None = None) -> None:
    """Derive all that is dirty, and sum all days that changed."""
    await storing.derive(now)
    while await storing.rows("SELECT 1 FROM dirty_days LIMIT 1"):
        async with storing.engine.begin() as connection:
            await refresh(connection, now or datetime.now(UTC), anonymize_after_days=DAYS)


async def someone(storing: Storing, history: History) -> History:
    """The history as that of a user of their own, whom it makes known."""
    name = f"learner {uuid4()}"
    await storing.know(name, history.time_zone)
    return replace(history, user_id=name)


def somebodys_device(history: History) -> History:
    """What of the history a single device could have sent without a token."""
    device = uuid4()
    events = [replace(event, device_id=device) for event in history.events if not event.from_service]
    return replace(history, user_id="", time_zone="UTC", events=events)


def tracked(event: Event, history: History) -> TrackedEvent:
    """As intake hands it on: without a user where the history is a device's."""
    of_user = as_tracked(event, history.user_id)
    return of_user if history.user_id else TrackedEvent(**{**_fields(of_user), "user_id": None})


def _fields(event: TrackedEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in TrackedEvent.__struct_fields__}


def wrong(sent: Sequence[History], days: int, error_type: str | None, answer: dict[str, Any]) -> list[str]:
    """Where the answer is not what was recomputed: load times within 1%, groups of errors by what tells them apart."""
    now, people = datetime.now(UTC), list(sent)
    pages = recomputation.page_views(people, now, days)[:100]
    expected = recomputation.errors(people, now, days, error_type)
    groups = answer["errors"]["groups"]["nodes"]
    last_seen = [datetime.fromisoformat(group["lastSeen"]) for group in groups]
    assert last_seen == sorted(last_seen, reverse=True) or error_type
    return [
        *differences(in_order(expected.pop("groups")), in_order(groups), "groups"),
        *differences(expected, {key: answer["errors"][key] for key in expected}, "errors"),
        *differences(recomputation.popular_quests(people, now, days), answer["popularQuests"], "quests"),
        *differences(recomputation.popular_badges(people, now, days), answer["popularBadges"], "badges"),
        *(
            f"{page['path']}: {figure} is {got[figure]} where {page[figure]} was recomputed"
            for page, got in zip(pages, answer["pageViews"]["nodes"], strict=True)
            for figure in ("medianLoadTimeMs", "p95LoadTimeMs")
            if not is_near(page.pop(figure), got.pop(figure))
        ),
        *differences(pages, answer["pageViews"]["nodes"], "pages"),
    ]


def is_near(value: float | None, sketched: float | None) -> bool:
    """Whether a sketch may say so: within 1% of the value."""
    if value is None or sketched is None:
        return value is sketched
    return abs(value - sketched) <= value / 100 + 1e-9


def in_order(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In an order that both sides share."""

    def key(group: dict[str, Any]) -> str:
        times = [
            time if isinstance(time, datetime) else datetime.fromisoformat(time)
            for time in (group["firstSeen"], group["lastSeen"], group["sample"]["occurredAt"])
        ]
        return str([times, *(group[name] for name in ("errorType", "message", "count", "usersAffected"))])

    return sorted(groups, key=key)


@settings(
    max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(data=st.data())
async def test_random_histories_of_many(storing: Storing, idle: Platform, data: st.DataObject) -> None:
    await storing.rows(f"TRUNCATE {TABLES} CASCADE")
    sent: list[tuple[History, list[list[Event]]]] = []
    for number, drawn in enumerate(data.draw(st.lists(histories(datetime.now(UTC)), min_size=4, max_size=8))):
        history = somebodys_device(drawn) if number % 4 == 3 else await someone(storing, drawn)
        sent.append((history, data.draw(deliveries(history))))
    for turn in range(max(len(batches) for _, batches in sent)):
        for history, batches in sent:
            if turn < len(batches):
                await storing.store([tracked(event, history) for event in batches[turn]])
        await storing.derive()
        if turn % 2:
            await summed(storing)
    await summed(storing)
    for days, error_type in ((1, None), (7, "API_ERROR"), (30, None), (365, None)):
        answer = await idle.data(QUESTION, ADMIN, days=days, type=error_type)
        assert wrong([history for history, _ in sent], days, error_type, answer) == []
    await nothing_is_written_again(storing)


@pytest.mark.long
async def test_some_of_the_course_in_no_order_and_some_of_it_twice(storing: Storing, idle: Platform) -> None:
    await storing.rows(f"TRUNCATE {TABLES} CASCADE")
    sent = []
    for user_id, events in course_of("some", every=16).items():
        await storing.know(user_id, TIME_ZONE)
        sent.append(History(user_id, TIME_ZONE, NOW, [as_event(event) for event in events]))
    everything = [as_tracked(event, history.user_id) for history in sent for event in history.events]
    random = Random("shuffled")
    everything += random.sample(everything, len(everything) // 10)
    random.shuffle(everything)
    for start in range(0, len(everything), 500):
        await storing.store(everything[start : start + 500])
        await storing.derive()
    await summed(storing)
    for days in (7, 80):
        assert wrong(sent, days, None, await idle.data(QUESTION, ADMIN, days=days, type=None)) == []


async def nothing_is_written_again(storing: Storing) -> None:
    """To derive and to sum all once more changes no row."""
    written = [await storing.rows(rows) for rows in WRITTEN]
    await storing.rows(
        "INSERT INTO dirty_spans SELECT subject_key, min(occurred_at), max(occurred_at) FROM user_activity_events"
        " GROUP BY 1"
    )
    await storing.rows("INSERT INTO dirty_days SELECT DISTINCT day FROM daily_contributions")
    await summed(storing)
    assert [await storing.rows(rows) for rows in WRITTEN] == written


# ------------------------------------------------------------------------------------------ over a UTC midnight


@pytest.fixture
async def child(storing: Storing) -> History:
    """Somebody of New York, alone on the platform."""
    await storing.rows(f"TRUNCATE {TABLES} CASCADE")
    return await someone(storing, History("", "America/New_York", NOW, []))


def view(at: datetime, path: str = "/", **data: object) -> Event:
    return replace(visit(at, None, "page_view", **data), page_path=path)


async def store(storing: Storing, history: History, *events: Event) -> None:
    await storing.store([as_tracked(event, history.user_id) for event in events])
    await summed(storing)


async def by_day(storing: Storing) -> dict[tuple[str, int], tuple[int, ...]]:
    """Views, sessions, entries and bounces of each path, by how many days after MIDNIGHT."""
    rows = await storing.rows(
        "SELECT name, day - CAST(:midnight AS date), views, sessions, entries, bounces"
        " FROM page_view_analytics JOIN catalogue ON number = page",
        midnight=MIDNIGHT.date(),
    )
    return {(path, day): tuple(counts) for path, day, *counts in rows}


async def test_a_session_counts_on_the_day_of_its_first_view_and_of_a_page_on_that_of_the_first_view_of_it(
    storing: Storing, child: History
) -> None:
    await store(
        storing, child, visit(MIDNIGHT - 20 * MINUTE), view(MIDNIGHT + MINUTE), view(MIDNIGHT + 2 * MINUTE, "/a")
    )
    assert await by_day(storing) == {("/", 0): (1, 1, 1, 0), ("/a", 0): (1, 1, 0, 0)}
    await store(storing, child, view(MIDNIGHT - MINUTE, "/a"))
    assert await by_day(storing) == {("/a", -1): (1, 1, 1, 0), ("/", 0): (1, 1, 0, 0), ("/a", 0): (1, 0, 0, 0)}


async def test_what_comes_late_on_one_day_changes_the_bounce_of_the_day_before(
    storing: Storing, child: History
) -> None:
    await store(storing, child, view(MIDNIGHT - 10 * MINUTE))
    assert await by_day(storing) == {("/", -1): (1, 1, 1, 1)}
    late = visit(MIDNIGHT + 10 * MINUTE, kind="page_exit", visibleSeconds=11)
    await store(storing, child, late)
    assert await by_day(storing) == {("/", -1): (1, 1, 1, 0)}


async def test_what_comes_late_on_one_day_moves_an_entry_from_the_day_after(storing: Storing, child: History) -> None:
    await store(storing, child, view(MIDNIGHT - 15 * MINUTE), view(MIDNIGHT + 15 * MINUTE))
    assert await by_day(storing) == {("/", -1): (1, 1, 1, 1), ("/", 0): (1, 1, 1, 1)}
    await store(storing, child, visit(MIDNIGHT - 5 * MINUTE))
    assert await by_day(storing) == {("/", -1): (1, 1, 1, 0), ("/", 0): (1, 0, 0, 0)}
    await store(storing, child, visit(MIDNIGHT - 4 * MINUTE, kind="logout"))
    assert await by_day(storing) == {("/", -1): (1, 1, 1, 1), ("/", 0): (1, 1, 1, 1)}


# ------------------------------------------------------------------------------------------ sealed, and side by side


async def test_sealed_days_stay_and_so_does_a_day_that_a_sealed_session_reaches_into(
    storing: Storing, child: History
) -> None:
    later = NOW + timedelta(days=60)
    edge = horizon(later, DAYS)
    await store(storing, child, view(edge - 10 * MINUTE), view(edge + 10 * MINUTE, "/a"), view(edge + DAY, "/b"))
    kept = [await storing.rows(rows) for rows in WRITTEN[:2]]
    assert [len(rows) for rows in kept] == [3, 3]
    # What is anonymised tells no more of the session that began before.
    await storing.rows("DELETE FROM user_activity_events WHERE occurred_at < :edge", edge=edge)
    await storing.rows("INSERT INTO dirty_spans SELECT subject_key, :edge, :now FROM users", edge=edge, now=NOW)
    await storing.rows("INSERT INTO dirty_days SELECT day FROM daily_contributions")
    await summed(storing, later)
    assert [await storing.rows(rows) for rows in WRITTEN[:2]] == kept


async def test_numbers_of_sealed_days_stay_where_contributions_are_gone(storing: Storing, child: History) -> None:
    await store(storing, child, view(MIDNIGHT))
    await storing.rows("DELETE FROM daily_contributions")
    await storing.rows("INSERT INTO dirty_days VALUES (:day)", day=MIDNIGHT.date())
    await summed(storing, MIDNIGHT + timedelta(days=DAYS + 7))
    assert await by_day(storing) == {("/", 0): (1, 1, 1, 1)}
    await storing.rows("INSERT INTO dirty_days VALUES (:day)", day=MIDNIGHT.date())
    await summed(storing)
    assert await by_day(storing) == {}


async def test_only_one_sums_at_a_time_the_latest_day_first(storing: Storing, child: History) -> None:
    await storing.store([as_tracked(view(NOW - ago * DAY), child.user_id) for ago in range(3)])
    await storing.derive()
    days = [(NOW - ago * DAY).date() for ago in range(3)]
    async with storing.engine.begin() as one, storing.engine.begin() as other:
        assert await refresh(one, NOW, anonymize_after_days=DAYS) == days[0]
        assert await refresh(other, NOW, anonymize_after_days=DAYS) is None
    async with storing.engine.begin() as connection:
        assert await refresh(connection, NOW, anonymize_after_days=DAYS, before=days[1]) == days[2]
        assert await refresh(connection, NOW, anonymize_after_days=DAYS) == days[1]
        assert await refresh(connection, NOW, anonymize_after_days=DAYS) is None


async def test_a_worker_sums_each_day_that_changed(storing: Storing, idle: Platform, child: History) -> None:
    await storing.store([as_tracked(view(NOW - ago * DAY), child.user_id) for ago in range(3)])
    await storing.derive()
    await refresh_all({"engine": storing.engine, "redis": idle.api.intake.queue, "anonymize_after_days": DAYS})
    assert await storing.rows("SELECT count(*) FROM page_view_analytics") == [(3,)]
    assert await storing.rows("SELECT 1 FROM dirty_days") == []


async def test_roll_ups_at_the_same_time_number_and_name_the_same_things_once(storing: Storing, child: History) -> None:
    other = await someone(storing, child)
    at = NOW - DAY
    for history, title in ((child, "Maps"), (other, "Atlas")):
        quests = [visit(at, kind="quest_viewed", questId=f"q{n}", questTitle=title) for n in range(20)]
        await storing.store([as_tracked(event, history.user_id) for event in (*quests, view(at))])
    async with storing.engine.begin() as one, storing.engine.begin() as other_one:
        assert await roll_up(one, NOW, anonymize_after_days=DAYS, subjects=1) == 1
        second = asyncio.create_task(roll_up(other_one, NOW, anonymize_after_days=DAYS, subjects=1))
        await storing.until_waiting(1)
        await one.commit()
        assert await second == 1
    found = await storing.rows("SELECT kind, count(*), min(title), max(title) FROM catalogue GROUP BY 1 ORDER BY 1")
    assert found == [("PAGE", 1, None, None), ("QUEST", 20, "Maps", "Maps")]


async def test_a_device_that_nobody_signs_in_on_is_a_user_of_its_own(storing: Storing, idle: Platform) -> None:
    await storing.rows(f"TRUNCATE {TABLES} CASCADE")
    signed = await someone(storing, History("", "UTC", NOW, []))
    device = UUID(int=9)
    for history in (signed, somebodys_device(replace(signed, events=[]))):
        await storing.store([tracked(replace(view(NOW - DAY), device_id=device), history)])
    await summed(storing)
    answer = await idle.data("{ pageViews { nodes { views uniqueUsers } } }", ADMIN)
    assert answer["pageViews"]["nodes"] == [{"views": 2, "uniqueUsers": 2}]
