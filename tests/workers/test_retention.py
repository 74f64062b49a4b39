"""What is old tells of nobody any more, in no row and in no file, and every figure that stays is the same."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import Base, connect
from models.event import TrackedEvent, UserActivityEvent
from models.horizon import horizon, horizon_kept
from models.partition import rebuild_index, weeks
from models.retention import Policy, Step, due, mark_rewrite, oldest_identifiable, take_step
from models.session import UserSession
from models.taxonomy import CLEARED, EVENT_TYPES, CustomEvent, field_extras, marked
from models.viewer import Role, Viewer
from questlog.embedded import EmbeddedServers
from resolvers.reader import Reader
from tests import recomputation
from tests.histories import as_tracked
from tests.platform import Platform, new_api, until
from tests.recomputation import Event, History, differences
from tests.workers.storing import Storing
from workers.analytics import refresh
from workers.main import retain_daily, watch_retention
from workers.queue import encode_event
from workers.recompute import Scope, recompute
from workers.retention import Done, is_due, retain
from workers.rollup import roll_up

POLICY = Policy(90, 730)
NEVER = 2000
"""Days after which nothing in these tests is sealed."""
NOW = datetime.now(UTC)
MONDAY = horizon(NOW, 90) - timedelta(days=7)
"""Of the last week that is due."""
LONG_AGO = horizon(NOW, 730) - timedelta(days=7)
"""Of the last week that is over two years old."""
DUE_AT = MONDAY + timedelta(days=89, hours=2)
TICK = timedelta(microseconds=1)
WEEK, DAY, HOUR, MINUTE = timedelta(days=7), timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
TABLES = {
    "user_activity_events": "occurred_at",
    "error_events": "occurred_at",
    "user_sessions": "started_at",
    "daily_contributions": "day",
}
ADMIN = (Role.ADMIN, "the admin")
DEVICE, STRANGERS_DEVICE = uuid4(), uuid4()
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0 of-amelia"
PATH = "/profiles/amelia/4711081547"
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


@pytest.fixture
async def idle(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An installation without a worker, with the partitions of a week that is due."""
    async with new_api(servers, tmp_path) as running:
        await make_week(running, MONDAY)
        yield running


async def make_week(idle: Platform, monday: datetime) -> None:
    """Make the partitions of a week."""
    async with idle.superuser.begin() as connection:
        await connection.execute(text("SELECT make_partitions(:monday, :monday)"), {"monday": monday})


@pytest.fixture
async def old(idle: Platform) -> AsyncIterator[Storing]:
    """Its database, in which days of any age are stored and derived."""
    engine = connect(idle.logins.worker, pool_size=8, secret=idle.settings.erasure_key)
    yield Storing(engine, idle.superuser)
    await engine.dispose()


def happening(at: datetime, kind: str, **data: object) -> Event:
    return Event(uuid4(), at, kind, data, DEVICE, from_service=False, page_path=PATH, user_agent=AGENT)


def telling(event: Event, user_id: str | None = "amelia") -> TrackedEvent:
    """The event with all around it that can tell whose it is; without a user it is the device's."""
    return msgspec.structs.replace(
        as_tracked(event, user_id or ""),
        user_id=user_id,
        page_title="Amelia's page",
        referrer="https://school.example/of/amelia",
        ip_address="203.0.113.0",
    )


def a_day(start: datetime) -> list[Event]:
    """Something of whatever can name somebody."""
    maps: dict[str, object] = {"questId": "maps", "questTitle": "Maps"}
    happened: list[tuple[str, dict[str, object]]] = [
        ("login_success", {"method": "password"}),
        ("page_view", {"loadTimeMs": 120}),
        ("route_change", {"fromPath": "/profiles/amelia"}),
        ("quest_viewed", maps),
        ("quest_started", maps),
        ("evidence_uploaded", {"taskId": "draw", "questId": "maps", "studentId": "zoelle", "fileType": "png"}),
        ("task_completed", {"taskId": "draw", "taskTitle": "Draw", "questId": "maps", "xp": 5, "pillar": "Art"}),
        ("quest_completed", {**maps, "xp": 50, "pillar": "Art"}),
        ("connection_accepted", {"requesterId": "zoelle"}),
        ("profile_viewed", {"profileId": "zoelle"}),
        ("tutor_opened", {"conversationId": "amelias-talk"}),
        ("parent_dashboard_opened", {"childId": "zoelle"}),
        (
            "javascript_error",
            {"message": "no amelia here", "stack": "at amelia (app.js:1:2)", "fingerprint": "of-amelia"},
        ),
        ("api_error", {"message": "no amelia there", "endpoint": "/api/users/amelia/4711081547", "statusCode": 500}),
        ("custom", {"name": "danced", "data": {"with": "zoelle"}}),
        ("page_exit", {"visibleSeconds": 12.5}),
    ]
    return [happening(start + index * MINUTE, kind, **data) for index, (kind, data) in enumerate(happened)]


async def live(old: Storing, *batches: Sequence[TrackedEvent]) -> None:
    """Let all this be stored, derived and summed while it is young."""
    for batch in batches:
        stored = await old.store(batch, days=NEVER)
        assert stored.stored == len(batch)
    derived = 1
    while derived:
        async with old.engine.begin() as connection:
            derived = await roll_up(connection, NOW, anonymize_after_days=NEVER)
    while await old.rows("SELECT 1 FROM dirty_days LIMIT 1"):
        async with old.engine.begin() as connection:
            await refresh(connection, NOW, anonymize_after_days=NEVER)


async def run(idle: Platform, as_of: datetime = NOW, policy: Policy = POLICY) -> list[Done]:
    """One whole run."""
    queue, engine = idle.api.intake.queue, idle.worker_engine
    return [done async for done in retain(engine, queue, as_of, policy, wait=True)]


async def dumped(old: Storing) -> str:
    """All rows of the tables of events, errors, sessions and contributions, as text."""
    rows = [str(row) for table in TABLES for (row,) in await old.rows(f"SELECT {table}::text FROM {table}")]
    return "\n".join(rows)


async def on_disk(old: Storing) -> bytes:
    """Every file of the database, but for those of other tables."""
    async with old.superuser.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("CHECKPOINT"))
    ((folder, oid),) = await old.rows(
        "SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()"
    )
    others = await old.rows(
        "SELECT relfilenode FROM pg_class WHERE relkind IN ('r', 'i', 't', 'm', 'S') AND relfilenode > 0"
        " AND NOT relispartition AND NOT EXISTS ("
        "  SELECT FROM pg_class AS part WHERE part.relispartition AND part.reltoastrelid = pg_class.oid)"
        " AND NOT EXISTS (SELECT FROM pg_index JOIN pg_class AS part ON part.reltoastrelid = indrelid"
        "  WHERE indexrelid = pg_class.oid AND part.relispartition)"
    )
    left_out = {str(node) for (node,) in others}
    files = [file for file in Path(folder, "base", str(oid)).iterdir() if file.name.split(".")[0] not in left_out]
    assert files
    return b"".join(file.read_bytes() for file in files)


async def needles(old: Storing, events: Iterable[TrackedEvent]) -> set[str | UUID]:
    """Whatever tells of amelia."""
    keys = await old.rows(
        "SELECT subject_key FROM users WHERE user_id = 'amelia' UNION SELECT subject_key FROM devices"
    )
    sessions = await old.rows("SELECT session_id FROM user_sessions")
    ids = {key for (key,) in [*keys, *sessions]} | {event.event_id for event in events}
    texts = {"amelia", "Amelia", "zoelle", "203.0.113.0", "of-amelia", "4711081547", "school.example", AGENT}
    return ids | {DEVICE, STRANGERS_DEVICE} | texts


def found_in(wanted: Iterable[str | UUID], dump: str) -> set[str]:
    return {str(each) for each in wanted if str(each) in dump}


def found_on(wanted: Iterable[str | UUID], disk: bytes) -> set[str]:
    as_bytes = {each: each.bytes if isinstance(each, UUID) else each.encode() for each in wanted}
    return {str(each) for each, content in as_bytes.items() if content in disk or str(each).encode() in disk}


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


async def due_at(old: Storing, as_of: datetime, policy: Policy = POLICY) -> set[tuple[Step, str]]:
    async with old.engine.connect() as connection:
        found = await due(connection, as_of, policy)
    return {(step, part.name) for step, part in found}


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


@pytest.mark.parametrize("days", [16, 90, 365])
async def test_the_database_has_the_same_horizon(old: Storing, days: int) -> None:
    moments = [MONDAY + index * timedelta(hours=7, minutes=59, seconds=59) for index in range(40)]
    moments += [DUE_AT, DUE_AT - TICK, DUE_AT + TICK]
    for at in moments:
        assert await old.rows(f"SELECT retention_horizon(:at, {days})", at=at) == [(horizon(at, days),)]


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


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "/"),
        ("/quests/12/tasks/550e8400-e29b-41d4-a716-446655440000", "/quests/:id/tasks/:id"),
        ("/files/DEADBEEFdeadbeef0123/site_17", "/files/:id/site_:id"),
        ("/v2/quest-12", "/v2/quest-:id"),
        ("/profiles/amelia/of/maps", "/profiles/:id/of/:id"),
        ("/profiles/ameliax", "/profiles/ameliax"),
        (None, None),
    ],
)
async def test_a_path_keeps_its_pattern(old: Storing, path: str | None, pattern: str | None) -> None:
    await old.know("amelia")
    await old.rows("INSERT INTO catalogue (kind, name) VALUES ('QUEST', 'maps'), ('PAGE', 'profiles')")
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


@pytest.mark.parametrize("table", ["daily_contributions", "user_activity_events", "user_sessions"])
async def test_killed_in_the_middle_it_ends_right_when_run_again(idle: Platform, old: Storing, table: str) -> None:
    await old.know("amelia")
    batch = [telling(event) for event in a_day(MONDAY + DAY)]
    await live(old, batch)
    wanted = await needles(old, batch)
    async with reading(old, table):
        killed = await retention_process(idle)
        await until(lambda: waits_to_exchange(old, table))
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        await until(lambda: stands_still(old))
        assert found_in(wanted, await dumped(old))
    done = await run(idle)
    assert {(each.table, each.rows) for each in done if each.rows} >= {("user_sessions", 1)}
    assert not found_in(wanted, await dumped(old))
    assert not found_on(wanted, await on_disk(old))
    runs = await old.rows("SELECT finished_at IS NOT NULL FROM retention_runs ORDER BY started_at")
    assert runs == [(False,), (True,)]
    assert await old.rows("SELECT sum(anonymized) FROM retention_runs") == [(len(batch) + 2 + 1 + 1,)]


async def retention_process(idle: Platform, *options: str) -> asyncio.subprocess.Process:
    """`questlog retention` on that installation."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "questlog",
        "retention",
        *options,
        env=dict(os.environ) | idle.settings.environ(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def reading(old: Storing, table: str) -> AsyncIterator[None]:
    """Somebody reads the table for long, and so keeps its partitions from being exchanged."""
    async with old.superuser.connect() as connection:
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await connection.execute(text(f"SELECT count(*) FROM {table}"))
        yield


async def waits_to_exchange(old: Storing, table: str) -> bool:
    """Whether somebody has written a partition of the table anew, and waits until it may stand in its place."""
    rows = await old.rows(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        " AND relation = CAST(:name AS regclass)",
        name=table,
    )
    return bool(rows)


async def stands_still(old: Storing) -> bool:
    """Whether PostgreSQL has let go of who was killed."""
    return not await old.rows(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%FROM anonymize_old_activity_events%'"
        " AND state <> 'idle' AND pid <> pg_backend_pid()"
    )


async def test_two_at_once_do_it_once(idle: Platform, old: Storing) -> None:
    await old.know("amelia")
    batch = [telling(event) for event in a_day(MONDAY + DAY)]
    await live(old, batch)
    first, second = await asyncio.gather(retention_process(idle), retention_process(idle))
    told = [await each.communicate() for each in (first, second)]
    assert first.returncode == second.returncode == 0, told
    assert await old.rows("SELECT sum(anonymized) FROM retention_runs") == [(len(batch) + 2 + 1 + 1,)]
    assert await old.rows("SELECT count(*) FROM user_activity_events") == [(len(batch),)]


async def test_what_is_due_is_told_while_a_partition_is_exchanged(idle: Platform, old: Storing) -> None:
    """Whoever began to look before sees which partitions there were."""
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])

    async def told(connection: AsyncConnection) -> tuple[list[str], dict[str, list[date]]]:
        return [part.name for _, part in await due(connection, NOW, POLICY)], await weeks(connection)

    async with old.superuser.begin() as connection:
        before = await told(connection)
    assert len(before[0]) == len(before[1])
    async with old.superuser.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(text("SELECT"))  # sees from now on what is there now
        await run(idle)
        assert await told(connection) == before


@pytest.mark.parametrize("viewer", [Viewer(Role.ADMIN, "root"), Viewer(Role.STUDENT, "amelia")])
async def test_a_question_that_began_before_an_exchange_finds_all_there_is(
    idle: Platform, old: Storing, viewer: Viewer
) -> None:
    await old.know("amelia")
    recent = NOW.replace(microsecond=0) - 2 * DAY
    await live(old, [telling(event) for event in a_day(recent)])
    await run(idle)
    async with old.engine.begin() as connection:
        await mark_rewrite(connection, UserActivityEvent, [recent])
    reader = Reader(idle.api.databases, viewer)
    await reader.rows(text("SELECT user_id FROM users"))
    running = asyncio.create_task(run(idle))
    await until(lambda: waits_to_exchange(old, "user_activity_events"))
    assert await reader.rows(text("SELECT count(*) FROM user_activity_events")) == [(16,)]
    await reader.close()
    assert Step.REWRITE in {each.step for each in await running}


async def test_intake_and_roll_ups_go_on_meanwhile(idle: Platform, old: Storing) -> None:
    """Everything is stored and derived while a partition waits to be exchanged; what is too late is withdrawn."""
    await old.know("amelia")
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)])
    async with reading(old, "user_activity_events"):
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, "user_activity_events"))
        stored = await old.store([telling(event) for event in (*a_day(NOW - DAY), *a_day(MONDAY + DAY))], days=90)
        assert (stored.stored, stored.withdrawn) == (16, 16)
        await old.derive(NOW)
        assert not running.done()
    await running
    assert await old.rows("SELECT count(*) FROM user_activity_events") == [(32,)]
    assert await old.rows("SELECT events FROM daily_activity WHERE day = :day", day=(NOW - DAY).date()) == [(16,)]


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


async def test_nothing_is_exchanged_while_somebody_derives(idle: Platform, old: Storing) -> None:
    """Who began to derive a day as one that is not sealed finds its events to the end."""
    async with old.engine.begin() as connection:
        sealed_before = await horizon_kept(connection, NOW, 100)
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, "daily_contributions"))
        assert sealed_before <= MONDAY
        assert not running.done()
    await running
    async with old.engine.begin() as connection:
        assert await horizon_kept(connection, NOW, 100) == MONDAY + WEEK


async def test_what_is_erased_meanwhile_is_in_nothing_that_is_anonymised(idle: Platform, old: Storing) -> None:
    for who in ("amelia", "ben"):
        await old.know(who)
    await live(old, [telling(event) for event in a_day(MONDAY + DAY)], [telling(happening(MONDAY, "logout"), "ben")])
    async with reading(old, "user_activity_events"):
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, "user_activity_events"))
        await old.rows(ERASE, who="amelia")
    done = {each.table: each.rows for each in await running if each.step is Step.ANONYMIZE and each.rows}
    assert done["user_activity_events"] == 1
    assert await old.rows("SELECT event_type FROM user_activity_events") == [("logout",)]


ERASE = (
    "DELETE FROM user_activity_events USING users"
    " WHERE users.subject_key = user_activity_events.subject_key AND user_id = :who"
)


async def test_a_partition_is_written_anew_without_what_was_erased(idle: Platform, old: Storing) -> None:
    for who in ("amelia", "ben"):
        await old.know(who)
    day = NOW.replace(microsecond=0) - 2 * DAY
    batch = [telling(event) for event in a_day(day)]
    kept = happening(day, "route_change")
    await live(old, batch, [telling(kept, "ben")])
    wanted = {event.event_id for event in batch}
    async with old.engine.begin() as connection:
        await mark_rewrite(connection, UserActivityEvent, [event.occurred_at for event in batch])
    await old.rows(ERASE, who="amelia")
    assert found_on(wanted, await on_disk(old)) & {str(each) for each in wanted}
    done = await run(idle)
    assert [(each.step, each.rows) for each in done if each.step is Step.REWRITE] == [(Step.REWRITE, 1)]
    ours = await old.rows("SELECT event_id FROM user_activity_events")
    assert ours == [(kept.event_id,)]
    assert await due_at(old, NOW) == set()
    indexed = "SELECT count(*) FROM pg_index WHERE indrelid = CAST(:part AS regclass) AND indisvalid"
    week = day - day.weekday() * DAY
    same = [await old.rows(indexed, part=f"user_activity_events{at:_%Y%m%d}") for at in (week, week + 2 * WEEK)]
    assert same[0] == same[1] != [(0,)]


async def test_what_changes_while_a_week_is_written_anew_is_not_lost(idle: Platform, old: Storing) -> None:
    """What comes, changes and goes meanwhile does so in the new partition, too; what is erased goes with the next."""
    for who in ("amelia", "ben"):
        await old.know(who)
    await run(idle)
    start = (NOW - 2 * DAY).replace(hour=12, minute=0, second=0, microsecond=0)
    two_visits = [happening(start + minutes * MINUTE, "route_change") for minutes in (0, 40)]
    erased = happening(start, "logout")
    await live(old, [telling(event) for event in two_visits], [telling(erased, "ben")])
    joined_and_one_more = [happening(start + minutes * MINUTE, "route_change") for minutes in (20, 200)]
    async with held_up(idle, old, UserActivityEvent, start) as running:
        assert (await old.store([telling(event) for event in joined_and_one_more])).stored == 2
        async with old.engine.begin() as connection:
            await mark_rewrite(connection, UserActivityEvent, [start])
        await old.rows(ERASE, who="ben")
    assert [(each.table, each.rows) for each in await running if each.step is Step.REWRITE] == [
        ("user_activity_events", 3),
        ("user_activity_events", 4),
    ]
    stored = {event_id for (event_id,) in await old.rows("SELECT event_id FROM user_activity_events")}
    assert stored == {event.event_id for event in (*two_visits, *joined_and_one_more)}
    assert not found_on({erased.event_id}, await on_disk(old))
    sessions = "SELECT user_sessions FROM user_sessions ORDER BY started_at, session_id"
    before = await old.rows(sessions)
    async with held_up(idle, old, UserSession, start) as running:
        await old.derive(NOW)
        changed = await old.rows(sessions)
    await running
    assert await old.rows(sessions) == changed != before
    assert len(changed) == len(before) == 2


@asynccontextmanager
async def held_up(
    idle: Platform, old: Storing, table: type[Base], at: datetime
) -> AsyncIterator[asyncio.Task[list[Done]]]:
    """A run that has written a week of the table anew and cannot exchange it before the end."""
    async with old.engine.begin() as connection:
        await mark_rewrite(connection, table, [at])
    async with reading(old, table.__tablename__):
        running = asyncio.create_task(run(idle))
        await until(lambda: waits_to_exchange(old, table.__tablename__))
        yield running


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


async def test_what_is_set_aside_goes_too(idle: Platform, old: Storing) -> None:
    for event in (happening(MONDAY, "route_change"), happening(NOW - DAY, "route_change")):
        await old.rows(
            "INSERT INTO set_aside_events (reason, event) VALUES ('', :event)", event=encode_event(telling(event))
        )
    await run(idle)
    assert await old.rows("SELECT count(*) FROM set_aside_events") == [(1,)]
    assert await old.rows("SELECT sum(withdrawn) FROM intake_counts") == [(1,)]


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


@pytest.mark.parametrize(
    ("started", "now", "due"),
    [(-HOUR, -TICK, False), (-HOUR, timedelta(0), True), (timedelta(0), DAY - TICK, False), (timedelta(0), DAY, True)],
)
async def test_a_run_is_due_from_two_o_clock_on(old: Storing, started: timedelta, now: timedelta, due: bool) -> None:
    two = datetime(2026, 3, 29, 2, tzinfo=UTC)
    async with old.engine.connect() as connection:
        assert await is_due(connection, two + now)
        await old.rows("INSERT INTO retention_runs VALUES (:at, :at, :at, 0, 0)", at=two + started)
        assert await is_due(connection, two + now) is due


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
