"""Deriving figures from events, anew for whatever changed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import (
    Date,
    Text,
    TextClause,
    bindparam,
    case,
    cast,
    delete,
    func,
    null,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from models.base import unnest
from models.engagement import DailyActivity, DailyEventCount, Day, count_by_utc_day, find_days
from models.event import UserActivityEvent
from models.horizon import horizon
from models.journey import LearningJourneyEvent, milestone
from models.rollup import DirtySpan, Span, Stretch, first_unsealed, stretch_around
from models.session import Session, StoredEvent, UserSession, find_sessions
from models.taxonomy import EVENT_TYPES, PageExit, QuestViewed
from models.user import User

SUBJECTS_AT_ONCE = 25
# How much to read around a span: most people sleep, so the first is nearly always enough.
MARGINS = [timedelta(hours=6), timedelta(days=2), timedelta(days=14), timedelta(days=3650)]
WITH_PAYLOAD = [name for name, kind in EVENT_TYPES.items() if kind.milestone or kind in (PageExit, QuestViewed)]

Row = dict[str, Any]


async def roll_up(connection: AsyncConnection, now: datetime, *, anonymize_after_days: int) -> int:
    """Derive again, in the connection's transaction, what changed for up to 25 subjects; says for how many.

    Subjects that another roll-up holds are left to it: this never waits, and whatever is stored meanwhile stays
    marked for the next. Days sealed at `now` stay as they are.
    """
    spans = await _claim(connection)
    if spans:
        sealed_before = horizon(now, anonymize_after_days)
        stretches = await _stretches(connection, spans)
        await _write(connection, (rewrite for stretch in stretches for rewrite in derive(stretch, sealed_before)))
        await _note_seen(connection, stretches)
    return len(spans)


async def _claim(connection: AsyncConnection) -> list[Span]:
    # OFFSET 0 keeps the lock out of the grouping, where it would be taken for everybody who waits.
    oldest = (
        select(DirtySpan.subject_key, func.min(DirtySpan.marked_at).label("since"))
        .group_by(DirtySpan.subject_key)
        .order_by("since")
        .offset(0)
        .subquery()
    )
    lock = func.pg_try_advisory_xact_lock(func.hashtextextended(cast(oldest.c.subject_key, Text), 0))
    held = (await connection.scalars(select(oldest.c.subject_key).where(lock).limit(SUBJECTS_AT_ONCE))).all()
    if not held:
        return []
    dirty: dict[UUID, tuple[datetime, datetime]] = {}
    for key, first, last in await connection.execute(
        delete(DirtySpan)
        .where(DirtySpan.subject_key.in_(held))
        .returning(DirtySpan.subject_key, DirtySpan.first_at, DirtySpan.last_at)
    ):
        known = dirty.get(key, (first, last))
        dirty[key] = min(first, known[0]), max(last, known[1])
    zones = await connection.execute(select(User.subject_key, User.time_zone).where(User.subject_key.in_(dirty)))
    return [Span(key, ZoneInfo(zone), *dirty[key]) for key, zone in zones]


async def _stretches(connection: AsyncConnection, spans: Sequence[Span]) -> list[Stretch]:
    found: list[Stretch] = []
    for margin in MARGINS:
        wanted = {
            span: (
                min(span.local_days[0], span.utc_days[0]) - margin,
                max(span.local_days[1], span.utc_days[1]) + margin,
            )
            for span in spans
        }
        events = await _events(connection, wanted)
        stretches = {span: stretch_around(span, events[span.subject_key], *wanted[span]) for span in spans}
        found += [stretch for stretch in stretches.values() if stretch]
        spans = [span for span, stretch in stretches.items() if not stretch]
        if not spans:
            break
    return found


async def _events(
    connection: AsyncConnection, wanted: dict[Span, tuple[datetime, datetime]]
) -> dict[UUID, list[StoredEvent]]:
    ranges = unnest(
        [DirtySpan.subject_key, DirtySpan.first_at, DirtySpan.last_at],
        [(span.subject_key, since, until) for span, (since, until) in wanted.items()],
    )
    event = UserActivityEvent
    # OFFSET 0 keeps this a look-up for each subject, whatever the planner believes of the tables' sizes.
    theirs = (
        select(
            event.event_id,
            event.occurred_at,
            event.event_type,
            event.device_id,
            event.from_service,
            event.page_path,
            case((event.event_type.in_(WITH_PAYLOAD), event.event_data), else_=null()).label("data"),
        )
        .where(
            event.subject_key == ranges.c.subject_key,
            event.occurred_at >= ranges.c.first_at,
            event.occurred_at < ranges.c.last_at,
            event.occurred_at >= min(since for since, _ in wanted.values()),
            event.occurred_at < max(until for _, until in wanted.values()),
        )
        .order_by(event.occurred_at)
        .offset(0)
        .lateral("theirs")
    )
    found: dict[UUID, list[StoredEvent]] = {span.subject_key: [] for span in wanted}
    for key, *columns in await connection.execute(
        select(ranges.c.subject_key, theirs).select_from(ranges.join(theirs, true()))
    ):
        found[key].append(StoredEvent(*columns))
    return found


class Rewrite(NamedTuple):
    """What a table shall hold of a subject between two values of a column, half-open."""

    column: InstrumentedAttribute[Any]
    subject_key: UUID
    since: datetime | date
    until: datetime | date
    rows: list[Row]


def derive(stretch: Stretch, sealed_before: datetime) -> list[Rewrite]:
    """The figures of a stretch of days, but for those days that are sealed."""
    span = stretch.span
    since = max(stretch.since, first_unsealed(span.zone, sealed_before))
    if since >= stretch.until:
        return []
    first_day, last_day = (at.astimezone(span.zone).date() for at in (since, stretch.until))
    utc_since, utc_until = max(span.utc_days[0], sealed_before), span.utc_days[1]
    sessions = [session for session in find_sessions(stretch.events) if since <= session.started_at < stretch.until]
    events = [event for event in stretch.events if since <= event.occurred_at < stretch.until]
    utc_events = [event for event in stretch.events if utc_since <= event.occurred_at < utc_until]
    milestones = [milestone(event, event.occurred_at.astimezone(span.zone).date()) for event in events]
    days = find_days(events, sessions, span.zone)
    counts = count_by_utc_day(utc_events)
    return [
        Rewrite(column, span.subject_key, start, end, [{"subject_key": span.subject_key, **row} for row in rows])
        for column, start, end, rows in (
            (UserSession.started_at, since, stretch.until, [_session_row(span.subject_key, one) for one in sessions]),
            (LearningJourneyEvent.occurred_at, since, stretch.until, [made for made in milestones if made]),
            (DailyActivity.day, first_day, last_day, [_day_row(day, figures) for day, figures in days.items()]),
            (
                DailyEventCount.day,
                utc_since.date(),
                utc_until.date(),
                [{"day": day, "events_by_category": of_day} for day, of_day in counts.items()],
            ),
        )
    ]


def _session_row(subject_key: UUID, session: Session) -> Row:
    return {
        "session_id": session.session_id(subject_key),
        "started_at": session.started_at,
        "ended_at": session.ended_at,
        "open_until": session.open_until,
        "first_event_id": session.first.event_id,
        "last_event_id": session.last.event_id,
        "device_id": session.first.device_id,
        "page_views": session.page_views,
        "events": session.events,
        "is_bounce": session.is_bounce,
        "entry_path": session.entry_path,
        "exit_path": session.exit_path,
    }


def _day_row(day: date, figures: Day) -> Row:
    return {
        "day": day,
        "events": figures.events,
        "events_by_category": figures.events_by_category,
        "visited": figures.visited,
        "active": figures.active,
        "logins": figures.logins,
        "quests_viewed": sorted(figures.quests_viewed),
        "session_lengths": [
            (session.ended_at - session.started_at) // timedelta(milliseconds=1) for session in figures.sessions
        ],
        "sessions_open_until": [session.open_until for session in figures.sessions],
    }


async def _write(connection: AsyncConnection, rewrites: Iterable[Rewrite]) -> None:
    tables: defaultdict[InstrumentedAttribute[Any], list[Rewrite]] = defaultdict(list)
    for rewrite in rewrites:
        tables[rewrite.column].append(rewrite)
    for column, of_table in tables.items():
        ranges = [{"subject_key": one.subject_key, "since": one.since, "until": one.until} for one in of_table]
        rows = [row for one in of_table for row in one.rows]
        await connection.execute(_delete_statement(column), {"ranges": ranges, "rows": rows})
        if rows:
            await connection.execute(_upsert_statement(column), {"rows": rows})


@cache
def _delete_statement(column: InstrumentedAttribute[Any]) -> TextClause:
    table = column.class_.__table__
    kind = "date" if isinstance(column.type, Date) else "timestamptz"
    same = " AND ".join(f"fresh.{key.name} = kept.{key.name}" for key in table.primary_key)
    return text(
        f"DELETE FROM {table.name} AS kept"  # noqa: S608 - the names are the tables' own
        f" USING jsonb_to_recordset(:ranges) AS range (subject_key uuid, since {kind}, until {kind})"
        f" WHERE kept.subject_key = range.subject_key"
        f" AND kept.{column.key} >= range.since AND kept.{column.key} < range.until"
        f" AND NOT EXISTS (SELECT FROM jsonb_populate_recordset(NULL::{table.name}, :rows) AS fresh WHERE {same})"
    ).bindparams(bindparam("ranges", type_=JSONB), bindparam("rows", type_=JSONB))


@cache
def _upsert_statement(column: InstrumentedAttribute[Any]) -> TextClause:
    """Rows that are the same already are not written again: a figure read often is rewritten seldom."""
    table = column.class_.__table__
    names = [each.name for each in table.columns]
    values = [each.name for each in table.columns if not each.primary_key]
    return text(
        f"INSERT INTO {table.name} AS kept ({', '.join(names)})"  # noqa: S608 - the names are the tables' own
        f" SELECT {', '.join(names)} FROM jsonb_populate_recordset(NULL::{table.name}, :rows)"
        f" ON CONFLICT ({', '.join(key.name for key in table.primary_key)}) DO UPDATE"
        f" SET {', '.join(f'{name} = excluded.{name}' for name in values)}"
        f" WHERE ({', '.join(f'kept.{name}' for name in values)})"
        f" IS DISTINCT FROM ({', '.join(f'excluded.{name}' for name in values)})"
    ).bindparams(bindparam("rows", type_=JSONB))


async def _note_seen(connection: AsyncConnection, stretches: Iterable[Stretch]) -> None:
    seen = unnest(
        [User.subject_key, User.first_seen_at, User.last_seen_at],
        [
            (stretch.span.subject_key, stretch.events[0].occurred_at, stretch.events[-1].occurred_at)
            for stretch in stretches
            if stretch.events
        ],
    )
    widens = or_(
        User.first_seen_at.is_(None),
        User.first_seen_at > seen.c.first_seen_at,
        User.last_seen_at < seen.c.last_seen_at,
    )
    # In the order in which upserts lock people: the two never wait for each other in a circle.
    await connection.execute(
        select(User.subject_key)
        .join(seen, User.subject_key == seen.c.subject_key)
        .where(widens)
        .order_by(User.user_id)
        .with_for_update(of=User, key_share=True)
    )
    await connection.execute(
        update(User)
        .where(User.subject_key == seen.c.subject_key, widens)
        .values(
            first_seen_at=func.least(User.first_seen_at, seen.c.first_seen_at),
            last_seen_at=func.greatest(User.last_seen_at, seen.c.last_seen_at),
            known_since=func.least(User.known_since, seen.c.first_seen_at),
        )
    )
