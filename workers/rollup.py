"""Deriving figures from events, anew for whatever changed."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import (
    Date,
    Select,
    TextClause,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from models.analytics import mark_days
from models.base import among, unnest
from models.catalogue import Item, Title, note_titles, numbers_of
from models.contribution import KINDS, VIEWS, DailyContribution, find_contributions, find_titles
from models.device import TIME_ZONE, Device
from models.engagement import DailyActivity, Day, find_days, without_end
from models.error import note_groups
from models.event import UserActivityEvent
from models.horizon import horizon_kept
from models.journey import LearningJourneyEvent, milestone
from models.retention import SealedSession
from models.rollup import (
    UTC,
    DirtySpan,
    Span,
    Stretch,
    day_after,
    first_unsealed,
    held,
    mark_dirty,
    stretch_around,
)
from models.session import LONGEST, Session, StoredEvent, UserSession, find_sessions
from models.taxonomy import EVENT_TYPES, BadgeViewed, Category, Logout, PageExit, PageView, QuestViewed
from models.user import User
from models.user_agent import describe
from workers.risk import assess_soon

SUBJECTS_AT_ONCE = 25
MARKS_AT_ONCE = 10_000
WAIT_AN_EVENT = timedelta(milliseconds=50)
# How much to read around a span: most people sleep, so the first is nearly always enough.
MARGINS = [timedelta(hours=6), timedelta(days=2), timedelta(days=14), timedelta(days=3650)]
TOLD_OF = (PageView, PageExit, QuestViewed, BadgeViewed)
WITH_PAYLOAD = [name for name, kind in EVENT_TYPES.items() if kind.milestone or kind in TOLD_OF]

Row = dict[str, Any]


async def roll_up(
    connection: AsyncConnection, now: datetime, *, anonymize_after_days: int, subjects: int = SUBJECTS_AT_ONCE
) -> int:
    """Derive again, in the connection's transaction, what changed for so many subjects; says for how many.

    Subjects that another roll-up holds are left to it: this never waits, and whatever is stored meanwhile stays
    marked for the next. Days sealed at `now` stay as they are.
    """
    spans = await _claim(connection, subjects)
    if spans:
        await derive_again(connection, spans, await horizon_kept(connection, now, anonymize_after_days))
    await assess_soon(connection, [span.subject_key for span in spans], now)
    return len(spans)


async def derive_again(connection: AsyncConnection, spans: Sequence[Span], sealed_before: datetime) -> Counter[str]:
    """Derive again what the spans can change; gives by table how many rows were not as they should be.

    The connection's transaction must hold the subjects' locks, and have one span at most of each.
    """
    if not spans:
        return Counter()
    stretches = await _stretches(connection, spans)
    sealed = await _sealed_until(connection, stretches, sealed_before)
    # In a thread, so that the storing of batches goes on beside it.
    rewrites = await asyncio.to_thread(_derive_all, stretches, sealed_before, sealed)
    await _give_numbers(connection, rewrites)
    written = await _write(connection, rewrites)
    await note_titles(connection, _titles(stretches))
    await note_groups(connection, _with_errors(stretches, sealed_before))
    await _note_seen(connection, stretches)
    return written


async def postpone(connection: AsyncConnection) -> None:
    """Put the subject whose turn it is behind all others."""
    spans = await connection.execute(
        delete(DirtySpan)
        .where(DirtySpan.subject_key == _in_turn().limit(1).scalar_subquery())
        .returning(DirtySpan.subject_key, DirtySpan.first_at, DirtySpan.last_at)
    )
    await mark_dirty(connection, spans)


async def _claim(connection: AsyncConnection, subjects: int) -> list[Span]:
    # OFFSET 0 keeps the lock out of the ordering, where it would be taken for everybody who waits.
    in_turn = _in_turn().offset(0).subquery()
    free = select(in_turn.c.subject_key).where(held(in_turn.c.subject_key)).limit(subjects)
    return await claimed_spans(connection, (await connection.scalars(free)).all())


def _in_turn() -> Select[UUID]:
    """Whoever has been dirty for longest comes first, and later the more events the days hold that are to be derived:
    where there are too many for all to be fresh, it is those whose figures cost most that wait."""
    # Not all marks: where many wait, each look at them would cost more than what it is for.
    marks = select(DirtySpan).order_by(DirtySpan.marked_at).limit(MARKS_AT_ONCE).subquery()
    dirty = (
        select(
            marks.c.subject_key,
            func.min(marks.c.marked_at).label("since"),
            cast(func.min(marks.c.first_at), Date).label("first_day"),
            cast(func.max(marks.c.last_at), Date).label("last_day"),
        )
        .group_by(marks.c.subject_key)
        .subquery()
    )
    events = (
        select(func.coalesce(func.sum(DailyActivity.events), 0))
        .where(
            DailyActivity.subject_key == dirty.c.subject_key,
            DailyActivity.day.between(dirty.c.first_day - 1, dirty.c.last_day + 1),
        )
        .scalar_subquery()
    )
    return select(dirty.c.subject_key).order_by(dirty.c.since + events * WAIT_AN_EVENT)


async def claimed_spans(connection: AsyncConnection, subject_keys: Collection[UUID]) -> list[Span]:
    """Take what is dirty of these subjects, whose locks the connection's transaction holds."""
    if not subject_keys:
        return []
    dirty: dict[UUID, tuple[datetime, datetime]] = {}
    for key, first, last in await connection.execute(
        delete(DirtySpan)
        .where(among(DirtySpan.subject_key, subject_keys))
        .returning(DirtySpan.subject_key, DirtySpan.first_at, DirtySpan.last_at)
    ):
        known = dirty.get(key, (first, last))
        dirty[key] = min(first, known[0]), max(last, known[1])
    zones = await connection.execute(
        union_all(
            select(User.subject_key, User.time_zone).where(among(User.subject_key, dirty)),
            select(Device.subject_key, literal(TIME_ZONE)).where(among(Device.subject_key, dirty)),
        )
    )
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
            event.user_agent,
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


Sealed = dict[tuple[UUID, UUID | None], datetime]
"""By subject and device, the end of the last session that opened on a sealed day."""


async def _sealed_until(connection: AsyncConnection, stretches: Sequence[Stretch], sealed_before: datetime) -> Sealed:
    reaching = {
        stretch.span.subject_key: unsealed
        for stretch in stretches
        if min(stretch.since, stretch.utc_since)
        <= (unsealed := first_unsealed(stretch.span.zone, sealed_before)) + LONGEST
    }
    if not reaching:
        return {}
    last_ones = select(
        UserSession.subject_key, UserSession.device_id, UserSession.started_at, UserSession.ended_at
    ).where(
        among(UserSession.subject_key, reaching),
        UserSession.started_at >= sealed_before - LONGEST,
        UserSession.started_at < max(reaching.values()),
    )
    anonymised = select(
        SealedSession.subject_key,
        SealedSession.device_id,
        literal(sealed_before - LONGEST).label("started_at"),
        SealedSession.ended_at,
    ).where(among(SealedSession.subject_key, reaching))
    rows = await connection.execute(union_all(last_ones, anonymised).order_by("ended_at"))
    return {(key, device): ended_at for key, device, started_at, ended_at in rows if started_at < reaching[key]}


def _derive_all(stretches: Sequence[Stretch], sealed_before: datetime, sealed: Sealed) -> list[Rewrite]:
    return [rewrite for stretch in stretches for rewrite in derive(stretch, sealed_before, sealed)]


def derive(stretch: Stretch, sealed_before: datetime, sealed: Sealed) -> list[Rewrite]:
    """The figures of a stretch of days, but for those that are sealed; sessions begin after the last sealed one, and so
    do the UTC days."""
    span = stretch.span
    key, zone = span.subject_key, span.zone
    unsealed = first_unsealed(zone, sealed_before)
    since, until = max(stretch.since, unsealed), stretch.until
    if since >= until:
        return []
    first_day, end_day = (at.astimezone(zone).date() for at in (since, until))
    last_sealed = max((end for (subject_key, _), end in sealed.items() if subject_key == key), default=None)
    utc_since = max(stretch.utc_since, sealed_before, *([day_after(last_sealed, UTC)] if last_sealed else []))
    utc_until = stretch.utc_until
    found = find_sessions(
        event
        for event in stretch.events
        if event.occurred_at >= unsealed
        and not ((end := sealed.get((key, event.device_id))) and event.occurred_at <= end)
    )
    sessions = [session for session in found if since <= session.started_at < until]
    events = [event for event in stretch.events if since <= event.occurred_at < until]
    milestones = [milestone(event, event.occurred_at.astimezone(zone).date()) for event in events]
    days = find_days(events, sessions, zone)
    contributions = find_contributions(
        (event for event in stretch.events if utc_since <= event.occurred_at < utc_until), found
    )
    return [
        Rewrite(column, key, start, end, [{"subject_key": key, **row} for row in rows])
        for column, start, end, rows in (
            (UserSession.started_at, since, until, [_session_row(key, session) for session in sessions]),
            (LearningJourneyEvent.occurred_at, since, until, [made for made in milestones if made]),
            (DailyActivity.day, first_day, end_day, [_day_row(day, figures) for day, figures in days.items()]),
            (
                DailyContribution.day,
                utc_since.date(),
                utc_until.date(),
                [{"day": day, **contribution.row()} for day, contribution in contributions.items()],
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
        "logout_id": session.last.event_id if session.last.kind is Logout else None,
        "device_id": session.first.device_id,
        "page_views": session.page_views,
        "events": session.events,
        "is_bounce": session.is_bounce,
        "entry_path": session.entry_path,
        "exit_path": session.exit_path,
        **describe(session.user_agent)._asdict(),
    }


def _day_row(day: date, figures: Day) -> Row:
    return {
        "day": day,
        "events": figures.events,
        "events_by_category": without_end(figures.events_by_category),
        "visited": figures.visited,
        "active": figures.active,
        "logins": figures.logins,
        "quests_viewed": sorted(figures.quests_viewed) or None,
        "session_lengths": [
            (session.ended_at - session.started_at) // timedelta(milliseconds=1) for session in figures.sessions
        ],
        "sessions_open_until": [session.open_until for session in figures.sessions],
    }


async def _give_numbers(connection: AsyncConnection, rewrites: Iterable[Rewrite]) -> None:
    """Put the catalogue's numbers in the place of names."""
    rows = [row for rewrite in rewrites if rewrite.column is DailyContribution.day for row in rewrite.rows]
    items = {Item(kind, name) for row in rows for column, kind in KINDS.items() for name in row[column] or ()}
    numbers = await numbers_of(connection, items)
    for row in rows:
        for column, kind in KINDS.items():
            row[column] = row[column] and [numbers[Item(kind, name)] for name in row[column]]
        if views := row.pop("views"):
            row["page_views"] = [VIEWS * page + view for page, view in zip(row["page_views"], views, strict=True)]


async def _write(connection: AsyncConnection, rewrites: Iterable[Rewrite]) -> Counter[str]:
    written: Counter[str] = Counter()
    tables: defaultdict[InstrumentedAttribute[Any], dict[UUID, Rewrite]] = defaultdict(dict)
    for rewrite in rewrites:
        tables[rewrite.column][rewrite.subject_key] = rewrite
    for column, of_table in tables.items():
        changed = await _delete_gone(connection, column, of_table)
        rows = [row for rewrite in of_table.values() for row in rewrite.rows]
        if rows:
            changed += await connection.scalars(_upsert_statement(column), {"rows": rows})
        if column is DailyContribution.day and changed:
            await mark_days(connection, set(changed))
        written[column.class_.__tablename__] += len(changed)
    return written


async def _delete_gone(
    connection: AsyncConnection, column: InstrumentedAttribute[Any], rewrites: Mapping[UUID, Rewrite]
) -> list[Any]:
    """Delete what is kept of these days and follows from no event any more: seldom anything. Gives where each stood."""
    table = column.class_
    ours = ~table.imported if table is LearningJourneyEvent else true()
    key = [getattr(table, each.name) for each in table.__table__.primary_key]
    kept = await connection.execute(
        select(*key).where(
            ours,
            among(table.subject_key, rewrites),
            column >= min(rewrite.since for rewrite in rewrites.values()),
            column < max(rewrite.until for rewrite in rewrites.values()),
        )
    )
    wanted = {tuple(row[each.key] for each in key) for rewrite in rewrites.values() for row in rewrite.rows}
    gone = [
        row
        for row in kept
        if rewrites[row.subject_key].since <= getattr(row, column.key) < rewrites[row.subject_key].until
        and tuple(row) not in wanted
    ]
    if gone:
        asked = unnest(key, gone)
        await connection.execute(delete(table).where(ours, *(each == asked.c[each.key] for each in key)))
    return [getattr(row, column.key) for row in gone]


@cache
def _upsert_statement(column: InstrumentedAttribute[Any]) -> TextClause:
    """Rows that are the same already are not written again: a figure read often is rewritten seldom. Nor are imported
    ones, which stay also where an event has the same identity. Gives where each stands that is written."""
    table = column.class_.__table__
    names = [each.name for each in table.columns]
    values = [each.name for each in table.columns if not each.primary_key]
    ours = "NOT kept.imported AND " if "imported" in names else ""
    return text(
        f"INSERT INTO {table.name} AS kept ({', '.join(names)})"  # noqa: S608 - the names are the tables' own
        f" SELECT {', '.join(names)} FROM jsonb_populate_recordset(NULL::{table.name}, :rows)"
        f" ON CONFLICT ({', '.join(key.name for key in table.primary_key)}) DO UPDATE"
        f" SET {', '.join(f'{name} = excluded.{name}' for name in values)}"
        f" WHERE {ours}({', '.join(f'kept.{name}' for name in values)})"
        f" IS DISTINCT FROM ({', '.join(f'excluded.{name}' for name in values)})"
        f" RETURNING {column.key}"
    ).bindparams(bindparam("rows", type_=JSONB))


def _titles(stretches: Iterable[Stretch]) -> dict[Item, Title]:
    titles: dict[Item, Title] = {}
    for stretch in stretches:
        for item, title in find_titles(stretch.events).items():
            titles[item] = max(title, titles.get(item, title))
    return titles


def _with_errors(stretches: Iterable[Stretch], sealed_before: datetime) -> list[tuple[UUID, datetime, datetime]]:
    """The spans in which there are errors, as far as they are not sealed."""
    return [
        (span.subject_key, max(span.first_at, sealed_before), span.last_at)
        for stretch in stretches
        if any(
            (span := stretch.span).first_at <= event.occurred_at <= span.last_at
            and event.kind.category is Category.ERROR
            for event in stretch.events
        )
    ]


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
