"""Erasing somebody: forbidden at once, deleted in parts, looked for everywhere, and told in a receipt."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
import orjson
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from sqlalchemy import (
    ColumnElement,
    Row,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.analytics import mark_days
from models.base import Base, among, secret_of, unnest
from models.contribution import DailyContribution
from models.erasure import Erasure, TaskState
from models.error import ErrorEvent, ErrorGroup
from models.event import UserActivityEvent
from models.export import DataExport, DataExportPart
from models.horizon import horizon_kept, next_run
from models.ledger import Counts, SetAsideEvent, add_counts
from models.naming import names, without
from models.partition import BY, weeks
from models.person import KEPT, Kept, keys_beside
from models.receipt import signed
from models.retention import mark_rewrite
from models.rollup import lock_number
from models.storing import outlast_storing
from models.taxonomy import event_type
from models.tombstone import digest, set_tombstone
from models.trace import Place, in_week, places, traces
from models.user import User
from workers.queue import decode_batch, decode_event, encode_event

ROWS_AT_ONCE = 2000
UNTIL_ALL_KNOW = timedelta(seconds=15)  # every API process that somebody is erased
TO_WRITE_ANEW = timedelta(hours=1)  # after retention begins
JOBS_AT_ONCE = 20
MOST_ROUNDS = 3
SAME_TEXT = "same text "
TOLD_OF: dict[type[Base], list[Any]] = {
    DailyContribution: [DailyContribution.day],
    ErrorEvent: [ErrorEvent.group_id, ErrorEvent.occurred_at],
}
"""Of deleted rows what something else follows from."""
LOCK_TIMEOUT = func.set_config("lock_timeout", "5s", True)

LOCK_NOT_AVAILABLE = "55P03"
# The last of them held whom they are about until they were done.
WITHOUT_WEEKS = (
    *(kept.table.__tablename__ for kept in KEPT if kept.table.__tablename__ not in BY),
    *("data_export_parts", "set_aside_events", "erasures"),
)

Deleted = Counter[str]
"""Rows by table."""


async def begin(connection: AsyncConnection, user_id: str, asked_by: bytes, now: datetime) -> UUID | None:
    """Set the tombstone, in the connection's transaction, and let the account go; what is left is for `advance`.

    Gives the erasure's id, and None where there is no such user. Raises DBAPIError where others hold the user, or
    store, for longer than seconds.
    """
    await connection.execute(select(LOCK_TIMEOUT))
    wanted = select(User.subject_key).where(User.user_id == user_id)
    key = await connection.scalar(wanted)
    if key is None:
        return None
    # In this order: whoever derives or assesses is waited for before anybody who stores has to wait.
    await connection.execute(select(func.pg_advisory_xact_lock(lock_number(literal(str(key))))))
    if await connection.scalar(wanted.with_for_update()) is None:
        return None
    theirs = digest(secret_of(connection), user_id)
    await set_tombstone(connection, theirs)
    await _make_exports_anew(connection, DataExport.subject_key.in_(keys_beside(key)))
    deleted = await _going_with(connection, key)
    await connection.execute(delete(User).where(User.subject_key == key))
    erasure_id = uuid4()
    await connection.execute(
        insert(Erasure).values(
            erasure_id=erasure_id,
            asked_by=asked_by,
            tombstone=theirs,
            state=TaskState.WAITING,
            requested_at=now,
            subject_key=key,
            user_id=user_id,
            deleted=deleted,
        )
    )
    await outlast_storing(connection)
    return erasure_id


async def _going_with(connection: AsyncConnection, key: UUID) -> Deleted:
    """What goes with somebody's account, and which rows stay and name them no more."""
    going: Deleted = Counter()
    for kept in KEPT:
        if kept.with_account:
            name, stays = kept.table.__tablename__, kept.outlives(key)
            counted = select(func.count().filter(~stays), func.count().filter(stays)).where(kept.concerns(key))
            going[name], going[f"names in {name}"] = (await connection.execute(counted)).one()
    return +going


async def _make_exports_anew(connection: AsyncConnection, subject_keys: ColumnElement[bool]) -> None:
    """Archives of these people may name whoever is erased: whoever is making one of them stops, too."""
    anew = update(DataExport).where(subject_keys).values(state=TaskState.WAITING, tries=0)
    export_ids = list(await connection.scalars(anew.returning(DataExport.export_id)))
    await connection.execute(delete(DataExportPart).where(among(DataExportPart.export_id, export_ids)))


async def unfinished(connection: AsyncConnection) -> list[UUID]:
    """Erasures that are to be gone on with, the oldest first."""
    under_way = Erasure.finished_at.is_(None), Erasure.state != TaskState.FAILED
    return list(await connection.scalars(select(Erasure.erasure_id).where(*under_way).order_by(Erasure.requested_at)))


async def try_failed_again(connection: AsyncConnection) -> None:
    """Let erasures that found the person still begin again."""
    await connection.execute(update(Erasure).where(Erasure.state == TaskState.FAILED).values(state=TaskState.WAITING))


async def write_anew(connection: AsyncConnection) -> AsyncGenerator[tuple[str, int], None]:
    """Write the tables that have no weeks anew, a transaction each, where somebody was erased since that was done last:
    no file of theirs holds the person then. Gives each table with its rows."""
    async with connection.begin():
        since = select(Erasure.erasure_id).where(Erasure.finished_at.is_not(None), Erasure.written_anew_at.is_(None))
        erasures = list(await connection.scalars(since))
    for table in WITHOUT_WEEKS if erasures else ():
        yield table, await _write_patiently(connection, table)
    async with connection.begin():
        these = among(Erasure.erasure_id, erasures)
        await connection.execute(update(Erasure).where(these).values(written_anew_at=datetime.now(UTC)))


async def _write_patiently(connection: AsyncConnection, table: str) -> int:
    """What others hold locked is tried again until it is free."""
    while True:
        try:
            async with connection.begin():
                return await connection.scalar(select(func.write_anew(table))) or 0
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
        await asyncio.sleep(random.uniform(0.2, 1))  # noqa: S311 - so that two do not wait in step


class Progress(NamedTuple):
    """How far an erasure is: steps done, of how many; `waits` says that only time helps, or another process."""

    done: int
    steps: int
    waits: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.steps


async def advance(
    connection: AsyncConnection, queue: ArqRedis, erasure_id: UUID, now: datetime, *, anonymize_after_days: int
) -> Progress:
    """Do the next part of an erasure in the connection's transaction. To break off at any point and go on is safe."""
    if not await connection.scalar(select(func.pg_try_advisory_xact_lock(func.hashtextextended(str(erasure_id), 0)))):
        return Progress(0, 1, waits=True)
    row = (await connection.execute(select(Erasure.__table__).where(Erasure.erasure_id == erasure_id))).one()
    if row.finished_at:
        return Progress(1, 1)
    work = Work(connection, queue, row)
    steps = await _steps(work)
    left = [name for name in steps if name not in row.steps]
    if left:
        done = await steps[left[0]]()
        await _note(work, row, left[0] if done else None)
        return Progress(len(steps) - len(left) + bool(done), len(steps) + 1, waits=not done and work.waits)
    if _named(row.found) and row.rounds < MOST_ROUNDS:
        again = {"steps": [], "found": {}, "rounds": row.rounds + 1}
        await connection.execute(update(Erasure).where(Erasure.erasure_id == erasure_id).values(again))
        return Progress(0, len(steps) + 1)
    await _finish(work, row, now, anonymize_after_days)
    return Progress(1, 1)


async def erase(
    engine: AsyncEngine, queue: ArqRedis, erasure_id: UUID, *, anonymize_after_days: int
) -> AsyncGenerator[Progress, None]:
    """All parts of an erasure that can be done now, each in a transaction; gives how far it is after each."""
    while True:
        async with engine.begin() as connection:
            progress = await advance(
                connection, queue, erasure_id, datetime.now(UTC), anonymize_after_days=anonymize_after_days
            )
        yield progress
        if progress.is_finished or progress.waits:
            return


class Work:
    """One part of an erasure: what it works on, and what it did."""

    def __init__(self, connection: AsyncConnection, queue: ArqRedis, row: Any) -> None:
        self.connection, self.queue, self.subject_key, self.user_id = connection, queue, row.subject_key, row.user_id
        self.taken_until = row.requested_at + UNTIL_ALL_KNOW
        self.deleted: Deleted = Counter()
        self.found: dict[str, int] = {}
        self.waits = False


Step = Callable[[], Awaitable[bool]]
"""Does so much; says whether nothing of it is left."""


async def _steps(work: Work) -> dict[str, Step]:
    """All parts by name, in their order."""
    gone = [kept for kept in KEPT if not kept.with_account]
    events = (await weeks(work.connection))[UserActivityEvent.__tablename__]
    return {
        **{f"delete {kept.table.__tablename__}": partial(_delete, work, kept) for kept in gone},
        "queue": partial(_drained, work),
        "set aside": partial(_drop_set_aside, work),
        **{f"unname {week}": partial(_unname, work, week) for week in events},
        **{f"look {each.table} {each.week}": partial(_look, work, each) for each in await places(work.connection)},
    }


async def _note(work: Work, row: Any, done: str | None) -> None:
    """Keep what this part did, in its own transaction: whatever breaks off afterwards, it is counted once."""
    await work.connection.execute(
        update(Erasure)
        .where(Erasure.erasure_id == row.erasure_id)
        .values(
            state=TaskState.RUNNING,
            steps=[*row.steps, done] if done else row.steps,
            deleted=_sum(row.deleted, work.deleted),
            found=_sum(row.found, work.found),
        )
    )


def _sum(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + now.get(name, 0) for name in (*before, *now)}


async def _drained(work: Work) -> bool:
    """Whether no batch in the queue holds an event of theirs, which whoever stores it withdraws, or one that names them
    and came before they were erased."""
    cursor = -1
    work.waits = True
    while cursor:
        cursor, names = await work.queue.scan(max(cursor, 0), match=f"{job_key_prefix}*", count=JOBS_AT_ONCE)
        for job in await work.queue.mget(names) if names else ():
            if job and any(needle in job for needle in _needles(work.user_id)) and _concerns(job, work):
                return False
    return True


def _concerns(job: bytes, work: Work) -> bool:
    try:
        events = [each for batch in msgspec.msgpack.decode(job).get("a", ()) for each in decode_batch(batch)]
    except (msgspec.MsgspecError, AttributeError, TypeError):
        return False
    quoted = orjson.dumps(work.user_id).decode()
    return any(
        event.user_id == work.user_id or (quoted in event.data and event.received_at < work.taken_until)
        for event in events
    )


def _needles(user_id: str) -> tuple[bytes, bytes]:
    """How an event on its way tells of somebody as its own user, and in its data."""
    return msgspec.msgpack.encode(user_id), orjson.dumps(user_id)


async def _delete(work: Work, kept: Kept) -> bool:
    """Delete their rows, and let what follows from them for others be derived again."""
    name, theirs = kept.table.__tablename__, kept.whose[0] == work.subject_key
    await work.connection.execute(select(func.pg_advisory_xact_lock(lock_number(literal(str(work.subject_key))))))
    if column := BY.get(name):
        weeks = select(func.date_trunc("week", kept.table.__table__.c[column])).where(theirs).distinct()
        await mark_rewrite(work.connection, kept.table, await work.connection.scalars(weeks))
    told = TOLD_OF.get(kept.table, [literal(1)])
    gone = (await work.connection.execute(delete(kept.table).where(theirs).returning(*told))).all()
    work.deleted[name] += len(gone)
    if kept.table is DailyContribution:
        await mark_days(work.connection, {row.day for row in gone})
    if kept.table is ErrorEvent:
        await _narrow_groups(work.connection, gone)
    return True


async def _narrow_groups(connection: AsyncConnection, errors: Iterable[Row[UUID, datetime]]) -> None:
    """Where a group's first or last error was theirs, it follows from those that are left; a group without any goes."""
    times: dict[UUID, list[datetime]] = {}
    for group_id, occurred_at in errors:
        times.setdefault(group_id, []).append(occurred_at)
    group, at = ErrorGroup, ErrorEvent.occurred_at
    theirs = unnest(
        [group.group_id, group.first_seen_at, group.last_seen_at],
        [(group_id, min(each), max(each)) for group_id, each in times.items()],
    )
    of_each = select(ErrorEvent.group_id, func.min(at).label("first_at"), func.max(at).label("last_at"))
    left = of_each.where(among(ErrorEvent.group_id, times)).group_by(ErrorEvent.group_id).subquery()
    first, last = group.first_seen_at, group.last_seen_at
    await connection.execute(
        update(group)
        .where(group.group_id == theirs.c.group_id, group.group_id == left.c.group_id)
        .values(
            first_seen_at=case((first == theirs.c.first_seen_at, left.c.first_at), else_=first),
            last_seen_at=case((last == theirs.c.last_seen_at, left.c.last_at), else_=last),
        )
    )
    is_left = exists().where(ErrorEvent.group_id == group.group_id)
    await connection.execute(delete(group).where(among(group.group_id, times), ~is_left))


async def _drop_set_aside(work: Work) -> bool:
    """Withdraw what is set aside of theirs; of what is of others, take their id out."""
    holds = or_(*(func.position(literal(each).op("IN")(SetAsideEvent.event)) > 0 for each in _needles(work.user_id)))
    rows = await work.connection.execute(
        select(SetAsideEvent.set_aside_id, SetAsideEvent.event).where(holds).order_by(SetAsideEvent.set_aside_id)
    )
    theirs, others = [], set()
    for row in rows.all():
        event = decode_event(row.event)
        if event.user_id == work.user_id:
            theirs.append(row.set_aside_id)
        elif (payload := without([work.user_id], event.kind, event.payload)) != event.payload:
            cleaned = msgspec.structs.replace(event, data=orjson.dumps(payload).decode())
            await work.connection.execute(
                update(SetAsideEvent)
                .where(SetAsideEvent.set_aside_id == row.set_aside_id)
                .values(event=encode_event(cleaned))
            )
            work.deleted["names in set_aside_events"] += 1
            others.add(event.user_id)
    if others:
        keys = select(User.subject_key).where(among(User.user_id, others))
        await _make_exports_anew(work.connection, DataExport.subject_key.in_(keys))
    if theirs:
        await work.connection.execute(delete(SetAsideEvent).where(among(SetAsideEvent.set_aside_id, theirs)))
        await add_counts(work.connection, Counts(withdrawn=len(theirs)))
        work.deleted[SetAsideEvent.__tablename__] += len(theirs)
    return True


async def _unname(work: Work, week: date) -> bool:
    """Take their id out of what others did in that week."""
    event = UserActivityEvent
    key = (event.subject_key, event.occurred_at, event.event_id)
    wanted = select(*key, event.event_type, event.event_data).where(in_week(week), names(work.user_id))
    rows = (await work.connection.execute(wanted.limit(ROWS_AT_ONCE))).all()
    if not rows:
        return True
    await mark_rewrite(work.connection, event, [row.occurred_at for row in rows])
    cleaned = unnest(
        [*key, event.event_data],
        [
            (
                row.subject_key,
                row.occurred_at,
                row.event_id,
                without([work.user_id], event_type(row.event_type), row.event_data),
            )
            for row in rows
        ],
    )
    await work.connection.execute(
        update(event)
        .where(*(column == cleaned.c[column.key] for column in key))
        .values(event_data=cleaned.c.event_data)
    )
    await _make_exports_anew(work.connection, among(DataExport.subject_key, {row.subject_key for row in rows}))
    work.deleted["names in user_activity_events"] += len(rows)
    return len(rows) < ROWS_AT_ONCE


async def _look(work: Work, place: Place) -> bool:
    naming, same_text = await traces(work.connection, place, work.user_id, work.subject_key)
    work.found = naming | {f"{SAME_TEXT}{column}": number for column, number in same_text.items()}
    return True


def _named(found: Mapping[str, int]) -> bool:
    return any(number for place, number in found.items() if not place.startswith(SAME_TEXT))


async def _finish(work: Work, row: Any, now: datetime, anonymize_after_days: int) -> None:
    """Keep the receipt, and forget whom it is about."""
    failed = _named(row.found)
    since = (await horizon_kept(work.connection, now, anonymize_after_days)).date()
    receipt = {
        "erasure": str(row.erasure_id),
        "person": row.tombstone.hex(),
        "requestedAt": _written(row.requested_at),
        "finishedAt": _written(now),
        "deleted": row.deleted,
        "lookedFor": ["the user id", "the subject key"],
        "found": {place: number for place, number in row.found.items() if not place.startswith(SAME_TEXT)},
        "sameTextElsewhere": {
            place.removeprefix(SAME_TEXT): number
            for place, number in row.found.items()
            if place.startswith(SAME_TEXT) and number
        },
        "queue": "no batch in the queue held an event of theirs",
        "figures": f"the platform's figures of days from {since} on are derived again without them; those of earlier"
        " days are sums in which nobody can be told apart, and stay",
        "filesHoldNothingAfter": _written(next_run(now) + TO_WRITE_ANEW),
        "complete": not failed,
    }
    values: dict[str, Any] = {"receipt": signed(receipt, secret_of(work.connection))}
    if failed:
        values |= {"state": TaskState.FAILED, "steps": [], "found": {}, "rounds": 0}
    else:
        values |= {"state": TaskState.DONE, "finished_at": now, "subject_key": None, "user_id": None, "steps": []}
    await work.connection.execute(update(Erasure).where(Erasure.erasure_id == row.erasure_id).values(values))


def _written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
