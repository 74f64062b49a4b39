"""What is old tells of nobody any more, in no row and in no file, and every figure that stays is the same."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy.exc import DBAPIError

from models.event import UserActivityEvent
from models.horizon import horizon
from models.partition import rebuild_index
from models.retention import Policy, Step, oldest_identifiable, take_step
from models.taxonomy import CLEARED, EVENT_TYPES, CustomEvent, field_extras, marked
from models.viewer import Role
from tests import recomputation
from tests.platform import Platform, until
from tests.recomputation import History, differences
from tests.workers.retention.past import (
    ADMIN,
    DAY,
    HOUR,
    LONG_AGO,
    MINUTE,
    MONDAY,
    NOW,
    POLICY,
    STRANGERS_DEVICE,
    WEEK,
    a_day,
    due_at,
    dumped,
    found_in,
    found_on,
    happening,
    live,
    make_week,
    needles,
    on_disk,
    run,
    telling,
)
from tests.workers.storing import Storing
from workers.analytics import refresh
from workers.queue import encode_event
from workers.recompute import Scope, recompute

FIGURES = """
query ($userId: ID!) {
  user(userId: $userId) {
    firstSeenAt lastSeenAt
    engagement(days: 365) {
      days activeDays visitDays sessions medianSessionMinutes timeOnPlatformHours logins questsViewed questsStarted
      questsCompleted questsAbandoned tasksCompleted badgesEarned completionRate currentStreak longestStreak
      lastActiveOn daily { dates events activeMinutes questsCompleted xp }
    }
    eventCounts(days: 365) { category count }
    journey {
      firstQuestDate totalQuestsStarted totalQuestsCompleted currentStreak badgesEarned timeOnPlatformHours
      favoritePillar xpByPillar { pillar xp } totalXp rhythm
      recentCompletions { questId questTitle completedAt xp pillar }
      milestones(first: 100) { nodes { kind occurredAt questId badgeId title xp pillar } }
    }
  }
  eventCounts(days: 365) { category count }
  pageViews(days: 365, first: 100) {
    nodes {
      path views uniqueUsers sessions bounceRate medianLoadTimeMs p95LoadTimeMs medianTimeOnPageSeconds
      daily { dates views uniqueUsers }
    }
  }
  popularQuests(days: 365) { questId questTitle views starts completions completionRate popularity }
  popularBadges(days: 365) { badgeId badgeName views claims earned claimRate }
  errors(days: 365) {
    totalErrors countsByType { errorType count }
    groups(first: 100) { nodes { errorType count usersAffected firstSeen lastSeen } }
  }
}
"""


async def test_no_row_and_no_file_tells_of_anybody(idle: Platform, old: Storing) -> None:
    await old.know("amelia")
    batch = [telling(event) for event in a_day(MONDAY + DAY)]
    device = [telling(event, None) for event in a_day(MONDAY + 2 * DAY)[-4:]]
    device = [msgspec.structs.replace(event, device_id=STRANGERS_DEVICE) for event in device]
    await live(old, batch, device)
    wanted = await needles(old, [*batch, *device])
    assert found_in(wanted, await dumped(old)) == found_on(wanted, await on_disk(old)) == {str(each) for each in wanted}
    ends = await old.rows("SELECT count(*) FROM user_activity_events")
    done = await run(idle)
    assert {(each.table, each.rows) for each in done if each.rows and each.step is Step.ANONYMIZE} == {
        ("user_activity_events", len(batch) + len(device)),
        ("error_events", 4),
        ("user_sessions", 2),
        ("daily_contributions", 2),
    }
    assert not found_in(wanted, await dumped(old))
    assert not found_on(wanted, await on_disk(old))
    assert await old.rows("SELECT count(*) FROM user_activity_events") == ends
    assert await old.rows("SELECT count(*) FROM devices") == [(0,)]


async def test_figures_are_the_same_before_and_after(idle: Platform, old: Storing) -> None:
    await old.know("amelia", "Europe/London", since=MONDAY)
    first = [*a_day(MONDAY + DAY), *a_day(MONDAY + 3 * DAY), *a_day(MONDAY + WEEK - 8 * MINUTE)]
    recent = a_day(NOW.replace(microsecond=0) - 2 * DAY)
    await live(old, [telling(event) for event in (*first, *recent)])
    before = await idle.data(FIGURES, ADMIN, userId="amelia")
    await run(idle)
    after = await idle.data(FIGURES, ADMIN, userId="amelia")
    assert after == before
    history = History("amelia", "Europe/London", MONDAY, [*first, *recent])
    now = datetime.now(UTC)
    user = after["user"]
    user["journey"]["milestones"] = user["journey"]["milestones"]["nodes"]
    assert not differences(recomputation.engagement(history, now, 365), user["engagement"])
    assert not differences(recomputation.journey(history, now), user["journey"])
    assert not differences(recomputation.event_counts(history, now, 365), user["eventCounts"])
    pages = [
        {name: value for name, value in page.items() if "LoadTime" not in name}
        for page in recomputation.page_views([history], now, 365)
    ]
    told = [{name: page[name] for name in pages[0]} for page in after["pageViews"]["nodes"]]
    assert not differences(pages, told)
    assert not differences(recomputation.popular_quests([history], now, 365), after["popularQuests"])


async def test_after_two_years_there_is_nothing(idle: Platform, old: Storing) -> None:
    await make_week(idle, LONG_AGO)
    for who in ("amelia", "ben"):
        await old.know(who, since=LONG_AGO)
    gone, kept = a_day(LONG_AGO + DAY), a_day(NOW.replace(microsecond=0) - 2 * DAY)
    await live(old, [telling(event) for event in gone], [telling(event, "ben") for event in (*a_day(LONG_AGO), *kept)])
    # Seen last just over two years ago: 730 days before now.
    await old.rows(
        "UPDATE users SET last_seen_at = :at WHERE user_id = 'amelia'", at=NOW - timedelta(days=730, seconds=1)
    )
    done = await run(idle)
    assert sum(each.rows for each in done if each.table == "user_activity_events" and each.step is Step.DELETE) == 32
    owners = "SELECT DISTINCT user_id FROM {} JOIN users USING (subject_key)"
    for table in ("daily_activity", "learning_journey_events"):
        assert await old.rows(owners.format(table)) == [("ben",)]
    assert await old.rows("SELECT count(*) FROM user_activity_events") == [(16,)]
    assert not await due_at(old, NOW)


async def test_who_was_seen_within_two_years_keeps_their_record(idle: Platform, old: Storing) -> None:
    await make_week(idle, LONG_AGO)
    await old.know("amelia", since=LONG_AGO)
    await live(old, [telling(event) for event in a_day(LONG_AGO)])
    await old.rows("UPDATE users SET last_seen_at = :at", at=NOW - timedelta(days=730) + timedelta(seconds=1))
    before = await old.rows("SELECT * FROM learning_journey_events ORDER BY event_id")
    await run(idle)
    assert await old.rows("SELECT * FROM learning_journey_events ORDER BY event_id") == before != []


async def test_milestones_find_nothing_but_themselves(idle: Platform, old: Storing) -> None:
    """Whoever joins a learner's own record with what is anonymised learns what that record says, and no more."""
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])
    await run(idle)
    joined = await old.rows(
        "SELECT event.*, milestone.kind, milestone.task_id, milestone.title, milestone.pillar"
        " FROM learning_journey_events AS milestone JOIN user_activity_events AS event"
        " ON event.occurred_at = date_trunc('hour', milestone.occurred_at)"
        " AND (event.event_data->>'questId' = milestone.quest_id OR event.event_data->>'taskId' = milestone.task_id)"
    )
    assert joined
    names = [column.name for column in UserActivityEvent.__table__.columns]
    order = [
        name
        for (name,) in await old.rows(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'user_activity_events'::regclass AND attnum > 0"
            " AND NOT attisdropped ORDER BY attnum"
        )
    ]
    for row in joined:
        event = dict(zip(order, row, strict=False))
        assert event["event_type"] in ("quest_started", "task_completed", "quest_completed")
        assert all(
            event[name] is None for name in names if name.startswith(("page_", "user_", "device_", "ref", "ip_"))
        )
    lengths = "SELECT count(*) FROM user_sessions WHERE ended_at > started_at OR events > 0 OR page_views > 0"
    assert await old.rows(lengths) == [(0,)]
    assert await old.rows("SELECT DISTINCT device_type, browser, os FROM user_sessions") == [("OTHER", None, None)]


async def test_what_a_payload_keeps_follows_from_the_taxonomy(idle: Platform, old: Storing) -> None:
    """Each type with all its fields: what is marked goes, and what names a quest, task or badge but in a milestone."""
    await old.know("amelia")
    named = {"questId", "questTitle", "taskId", "taskTitle", "badgeId", "badgeName"}
    expected = {}
    rows = []
    for name, kind in EVENT_TYPES.items():
        fields = set(field_extras(kind))
        lost = marked(kind, CLEARED) | {"fromPath", "endpoint", "fingerprint"} | (set() if kind.milestone else named)
        expected[name] = set() if kind is CustomEvent else fields - lost
        rows.append((uuid4(), name, dict.fromkeys(fields, "x")))
    for event_id, name, data in rows:
        await old.rows(
            "INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, from_service,"
            " event_type, event_data) VALUES (:id, :id, :at, :at, false, :name, cast(:data AS jsonb))",
            id=event_id,
            at=MONDAY + HOUR,
            name=name,
            data=msgspec.json.encode(data).decode(),
        )
    await run(idle)
    kept = await old.rows("SELECT event_type, event_data FROM user_activity_events")
    assert {name: set(data) for name, data in kept} == expected


async def test_a_path_keeps_its_pattern(old: Storing) -> None:
    await old.know("amelia")
    await old.rows("INSERT INTO catalogue (kind, name) VALUES ('QUEST', 'maps'), ('PAGE', 'profiles')")
    patterns = {
        "/": "/",
        "/quests/12/tasks/550e8400-e29b-41d4-a716-446655440000": "/quests/:id/tasks/:id",
        "/files/DEADBEEFdeadbeef0123/site_17": "/files/:id/site_:id",
        "/v2/quest-12": "/v2/quest-:id",
        "/profiles/amelia/of/maps": "/profiles/:id/of/:id",
        "/profiles/ameliax": "/profiles/ameliax",
        None: None,
    }
    for path, pattern in patterns.items():
        assert await old.rows("SELECT path_pattern(:path)", path=path) == [(pattern,)]


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Pacific/Auckland"])
async def test_what_comes_late_is_derived_as_before_after_the_last_sealed_session(
    idle: Platform, old: Storing, zone: str
) -> None:
    """A session that reaches over the horizon is known to end there, also once it is nobody's."""
    edge = horizon(NOW, 90)
    await old.know("amelia", zone)
    over = [happening(edge + minutes * MINUTE, "route_change") for minutes in (-70, -45, -20, 5, 30)]
    await live(old, [telling(event) for event in over])
    key = (await old.rows("SELECT subject_key FROM users"))[0][0]
    later = edge + timedelta(hours=50)
    late = [
        telling(happening(edge + 20 * MINUTE, "quest_started", questId="late")),
        telling(happening(later, "logout")),
    ]
    days = "SELECT * FROM daily_activity WHERE subject_key = :key AND day < :day ORDER BY day"
    day = later.astimezone(ZoneInfo(zone)).date()
    before = await old.rows(days, key=key, day=day)
    assert await run(idle)
    assert await old.rows("SELECT subject_key, ended_at FROM sealed_sessions") == [(key, over[-1].occurred_at)]
    await old.store(late, days=90)
    await old.derive(NOW)
    sessions = await old.rows("SELECT started_at FROM user_sessions WHERE subject_key = :key", key=key)
    assert sessions == []
    if zone != "Pacific/Auckland":
        assert await old.rows(days, key=key, day=edge.date()) == [row for row in before if row[1] < edge.date()]
    assert not [done for done in await run(idle, NOW) if done.part]
    async with old.engine.begin() as connection:
        while await take_step(connection, Step.ANONYMIZE, edge + WEEK + 89 * DAY + 2 * HOUR, POLICY):
            pass
    assert await old.rows("SELECT * FROM sealed_sessions") == []


async def test_no_event_gets_into_what_is_anonymised(idle: Platform, old: Storing) -> None:
    await run(idle)
    with pytest.raises(DBAPIError, match="anonymised"):
        await old.rows(
            "INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, from_service,"
            " event_type, event_data) VALUES (:key, :id, :at, :at, false, 'route_change', '{}')",
            key=uuid4(),
            id=uuid4(),
            at=MONDAY + DAY,
        )


async def test_what_is_anonymised_stays_sealed_when_the_days_are_raised(idle: Platform, old: Storing) -> None:
    """The installation's setting is 90 days, and its past was anonymised after 30."""
    monday = horizon(NOW, 30) - timedelta(days=7)
    await make_week(idle, monday)
    key = await old.know("amelia", since=monday)
    recent = a_day(NOW.replace(microsecond=0) - 2 * DAY)
    await live(old, [telling(event) for event in (*a_day(monday + DAY), *recent)])
    before = without_users_by_day(await idle.data(FIGURES, ADMIN, userId="amelia"))
    users = "{ pageViews(days: 80) { nodes { uniqueUsers } } }"
    assert await idle.data(users, ADMIN) == {"pageViews": {"nodes": [{"uniqueUsers": 1}]}}
    await run(idle, policy=Policy(30, 730))
    late = [telling(happening(monday + DAY + HOUR, "quest_viewed", questId="late"))]
    assert await old.store(late, days=90) == (0, 0, 1)
    await old.mark(key, [monday + DAY, NOW - 2 * DAY])
    await old.rows("INSERT INTO dirty_days SELECT :day", day=(monday + DAY).date())
    await old.derive(NOW)
    async with old.engine.begin() as connection:
        assert await refresh(connection, NOW, anonymize_after_days=90)
    differing = [step.differing.total() async for step in recompute(old.engine, Scope(), NOW, anonymize_after_days=90)]
    assert sum(differing) == 0
    assert without_users_by_day(await idle.data(FIGURES, ADMIN, userId="amelia")) == before
    assert await idle.data(users, ADMIN) == {"pageViews": {"nodes": [{"uniqueUsers": None}]}}
    async with old.engine.connect() as connection:
        assert await oldest_identifiable(connection, horizon(NOW, 90)) == recent[0].occurred_at


def without_users_by_day(figures: Any) -> Any:
    """The figures without what is null for days that are sealed."""
    for page in figures["pageViews"]["nodes"]:
        del page["daily"]["uniqueUsers"]
    return figures


async def test_indexes_of_what_is_anonymised_are_not_built_again(old: Storing, idle: Platform) -> None:
    await old.rows(
        "INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, device_id, from_service,"
        " event_type, event_data) SELECT gen_random_uuid(), gen_random_uuid(), :at, :at, gen_random_uuid(), false,"
        " 'route_change', '{}' FROM generate_series(1, 2000)",
        at=MONDAY + DAY,
    )
    async with old.engine.begin() as connection:
        assert await rebuild_index(connection, NOW)
    await run(idle)
    async with old.engine.begin() as connection:
        assert not await rebuild_index(connection, NOW)


async def test_valkeys_files_hold_no_event_that_left_the_queue(empty_platform: Platform) -> None:
    queue = empty_platform.api.intake.queue
    event = {
        "eventId": str(uuid4()),
        "occurredAt": NOW.isoformat(),
        "event": {"routeChange": {"fromPath": "/of/amelia"}},
    }
    assert not (await empty_platform.track([event], (Role.STUDENT, "amelia")))["userErrors"]
    await empty_platform.settle()
    folder = Path((await queue.config_get("dir"))["dir"], (await queue.config_get("appenddirname"))["appenddirname"])

    async def tells_of_it() -> bool:
        try:
            return any(b"/of/amelia" in file.read_bytes() for file in folder.iterdir())
        except FileNotFoundError:  # written anew in this moment
            return True

    assert await tells_of_it()
    await run(empty_platform)

    async def is_gone() -> bool:
        return not await tells_of_it()

    await until(is_gone)


async def test_what_is_set_aside_goes_too(idle: Platform, old: Storing) -> None:
    for event in (happening(MONDAY, "route_change"), happening(NOW - DAY, "route_change")):
        await old.rows(
            "INSERT INTO set_aside_events (reason, event) VALUES ('', :event)", event=encode_event(telling(event))
        )
    await run(idle)
    assert await old.rows("SELECT count(*) FROM set_aside_events") == [(1,)]
    assert await old.rows("SELECT sum(withdrawn) FROM intake_counts") == [(1,)]
