"""Deriving again whatever is kept: what is right stays as it is, what is wrong is put right and counted."""

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Subquery, and_, case, func, literal, or_, select, true, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.base import among, unnest
from models.device import TIME_ZONE, Device
from models.event import UserActivityEvent
from models.horizon import horizon, horizon_kept, midnight
from models.rollup import Span, first_unsealed, lock_number
from models.user import User
from workers.analytics import sum_again
from workers.risk import assess_soon
from workers.rollup import SUBJECTS_AT_ONCE, claimed_spans, derive_again

EVENTS_AT_ONCE = 50_000
DAY = timedelta(days=1)
TICK = timedelta(milliseconds=1)
# No event lies further ahead, and what is kept of later days follows from none.
AHEAD = timedelta(days=366)


@dataclass(frozen=True)
class Scope:
    """What to derive again: of everybody or of one subject, all days or those of the learner's own from the first to
    the last, both included."""

    subject_key: UUID | None = None
    first_day: date | None = None
    last_day: date | None = None


class Recomputed(NamedTuple):
    """A step that is done for good: of how many subjects, and by table how many rows were not as they should be."""

    subjects: int
    differing: Counter[str]


class Subject(NamedTuple):
    """Whose figures they are, and where the days begin."""

    key: UUID
    zone: ZoneInfo


async def count_subjects(connection: AsyncConnection, scope: Scope) -> int:
    """How many users and devices the scope holds."""
    return await connection.scalar(select(func.count()).select_from(_everybody(scope))) or 0


async def recompute(
    engine: AsyncEngine, scope: Scope, now: datetime, *, anonymize_after_days: int
) -> AsyncGenerator[Recomputed, None]:
    """Derive again, some subjects a transaction, beside whatever else stores and derives.

    Sealed days stay as they are, and so do imported milestones. Whatever was to be derived anyway is derived first,
    and not counted. Where it is not of one subject alone, the platform's numbers are summed again in the end. To break
    off and begin again loses nothing but time.
    """
    after: UUID | None = None
    while True:
        async with engine.begin() as connection:
            subjects = await _held(connection, scope, after)
            if not subjects:
                break
            keys = [subject.key for subject in subjects]
            sealed_before = await horizon_kept(connection, now, anonymize_after_days)
            dirty = await claimed_spans(connection, keys)
            await derive_again(connection, dirty, sealed_before)
            differing = Counter({User.__tablename__: await _see_again(connection, keys, sealed_before)})
            for since, until in await _portions(connection, keys, scope, sealed_before, now):
                differing += await derive_again(
                    connection, _spans(subjects, since, until, sealed_before), sealed_before
                )
            await assess_soon(connection, keys if differing.total() else [span.subject_key for span in dirty], now)
        yield Recomputed(len(subjects), differing)
        after = keys[-1]
    if scope.subject_key is None:
        for day in _utc_days(scope, horizon(now, anonymize_after_days), now):
            async with engine.begin() as connection:
                if day < (await horizon_kept(connection, now, anonymize_after_days)).date():
                    continue
                differing = await sum_again(connection, day)
            yield Recomputed(0, differing)


def _utc_days(scope: Scope, sealed_before: datetime, now: datetime) -> list[date]:
    """The days of the scope on which there can be numbers of the platform that are not sealed."""
    first = max(scope.first_day or date.min, sealed_before.date())
    last = min(scope.last_day or date.max, now.date() + DAY)
    return [first + DAY * number for number in range((last - first).days + 1)]


def _everybody(scope: Scope) -> Subquery:
    users = select(User.subject_key, User.time_zone)
    devices = select(Device.subject_key, literal(TIME_ZONE).label("time_zone"))
    if scope.subject_key:
        users = users.where(User.subject_key == scope.subject_key)
        devices = devices.where(Device.subject_key == scope.subject_key)
    return union_all(users, devices).subquery()


async def _held(connection: AsyncConnection, scope: Scope, after: UUID | None) -> list[Subject]:
    """The next subjects, whose locks the transaction then holds. Roll-ups never wait for a lock, and whoever does
    waits in the order of keys: nobody waits in a circle."""
    everybody = _everybody(scope)
    following = select(everybody).order_by(everybody.c.subject_key).limit(SUBJECTS_AT_ONCE)
    if after:
        following = following.where(everybody.c.subject_key > after)
    # OFFSET 0 keeps the locks behind the order.
    ordered = following.offset(0).subquery()
    held = select(ordered, func.pg_advisory_xact_lock(lock_number(ordered.c.subject_key)))
    return [Subject(key, ZoneInfo(zone)) for key, zone, _ in await connection.execute(held)]


async def _portions(
    connection: AsyncConnection, keys: Collection[UUID], scope: Scope, sealed_before: datetime, now: datetime
) -> list[tuple[date, date]]:
    """The days to derive, half-open, in portions of no more events than can be held at once, or of one day."""
    first = max(scope.first_day or date.min, sealed_before.date() - DAY)
    end = min(scope.last_day or date.max - DAY, (now + AHEAD).date()) + DAY
    day = func.date_trunc("day", UserActivityEvent.occurred_at)
    counted = await connection.execute(
        select(day, func.count())
        .where(among(UserActivityEvent.subject_key, keys), UserActivityEvent.occurred_at >= sealed_before)
        .group_by(day)
        .order_by(day)
    )
    starts, held = [first], 0
    for at, events in counted:
        held += events
        if held > EVENTS_AT_ONCE and starts[-1] < at.date() < end:
            starts.append(at.date())
            held = events
    return [(since, until) for since, until in zip(starts, [*starts[1:], end], strict=True) if since < until]


def _spans(subjects: Sequence[Subject], since: date, until: date, sealed_before: datetime) -> list[Span]:
    def spans() -> Iterator[Span]:
        for key, zone in subjects:
            first_at = max(midnight(since, zone), first_unsealed(zone, sealed_before))
            last_at = midnight(until, zone) - TICK
            if first_at <= last_at:
                yield Span(key, zone, first_at, last_at)

    return list(spans())


async def _see_again(connection: AsyncConnection, keys: Collection[UUID], sealed_before: datetime) -> int:
    """Say again when these users were first and last seen, and for how many that was wrong.

    What was seen before the horizon stays, since its events are not told apart any more. Known since only ever moves
    to an earlier event: the first upsert and the first token left no other trace.
    """
    event = UserActivityEvent
    seen = (
        select(func.min(event.occurred_at).label("first"), func.max(event.occurred_at).label("last"))
        .where(event.subject_key == User.subject_key, event.occurred_at >= sealed_before)
        .lateral("seen")
    )
    before = case((User.first_seen_at < sealed_before, User.first_seen_at))
    last_before = case((User.last_seen_at < sealed_before, User.last_seen_at))
    first, last = func.coalesce(before, seen.c.first), func.coalesce(seen.c.last, last_before)
    wrong = or_(
        User.first_seen_at.is_distinct_from(first),
        User.last_seen_at.is_distinct_from(last),
        and_(first.is_not(None), User.known_since > first),
    )
    # In the order in which upserts lock people: the two never wait for each other in a circle.
    found = await connection.execute(
        select(User.subject_key, first, last)
        .join(seen, true())
        .where(among(User.subject_key, keys), wrong)
        .order_by(User.user_id)
        .with_for_update(of=User, key_share=True)
    )
    right = unnest([User.subject_key, User.first_seen_at, User.last_seen_at], found.all())
    changed = await connection.execute(
        update(User)
        .where(User.subject_key == right.c.subject_key)
        .values(
            first_seen_at=right.c.first_seen_at,
            last_seen_at=right.c.last_seen_at,
            known_since=func.least(User.known_since, right.c.first_seen_at),
        )
        .returning(User.subject_key)
    )
    return len(changed.all())
