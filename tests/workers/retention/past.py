"""A week that is due, what happened in it, and what can still be found of whom it was about."""

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text

from models.event import TrackedEvent
from models.horizon import horizon
from models.retention import Policy, Step, due
from models.viewer import Role
from tests.files import of_each
from tests.histories import as_tracked
from tests.platform import Platform
from tests.recomputation import Event
from tests.workers.storing import Storing
from workers.analytics import refresh
from workers.retention import Done, retain
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


async def make_week(idle: Platform, monday: datetime) -> None:
    """Make the partitions of a week."""
    async with idle.superuser.begin() as connection:
        await connection.execute(text("SELECT make_partitions(:monday, :monday)"), {"monday": monday})


async def run(idle: Platform, as_of: datetime = NOW, policy: Policy = POLICY) -> list[Done]:
    """One whole run."""
    queue, engine = idle.api.intake.queue, idle.worker_engine
    return [done async for done in retain(engine, queue, as_of, policy, wait=True)]


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
    return b"".join(content for _, content in of_each(files, Path.read_bytes))


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


async def due_at(old: Storing, as_of: datetime, policy: Policy = POLICY) -> set[tuple[Step, str]]:
    async with old.engine.connect() as connection:
        found = await due(connection, as_of, policy)
    return {(step, part.name) for step, part in found}
