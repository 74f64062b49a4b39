"""Making archives of all that is kept of one person: JSON and CSV of every table, with a README that explains them."""

import asyncio
import csv
import io
import logging
import tempfile
import zipfile
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import IO, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson
from sqlalchemy import (
    ColumnElement,
    RowMapping,
    Text,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.engagement import DailyActivity
from models.erasure import TaskState
from models.event import UserActivityEvent
from models.export import OFFERED_FOR, DataExport, DataExportPart
from models.guardianship import children_of
from models.journey import RECENT_DAYS, rhythm
from models.ledger import SetAsideEvent
from models.naming import named_in, without
from models.partition import see_one_moment
from models.person import KEPT, Kept, keys_beside
from models.taxonomy import CustomEvent, event_type
from models.user import User
from models.viewer import Role
from workers.queue import decode_event

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000
PART_BYTES = 2**20
MOST_BYTES = 2**28
MOST_TRIES = 5
README = """What is kept of {user_id}, as of {now:%Y-%m-%d %H:%M} UTC.

Each file comes twice: as JSON, exactly as it is kept, and as CSV for spreadsheets, where lists and objects are JSON in
their cell, and a text that would be a formula has a ' before it. Times are in UTC, unless a file says otherwise.
`subject_key` is the number that stands for you in every table. Ids of people whom whoever asked for this may not see
are left out. Events that were taken within the last minute may be missing: ask again for those.

{files}
"""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would carry out."""
RHYTHM = "what is inferred of how regularly you learn: what a parent sees in place of a score"
SET_ASIDE = "events of yours that could not be stored yet, as they came"

# Of an archive's row: whoever was erased between two looks at it has changed it.
VERSION: ColumnElement[str] = cast(literal_column("data_exports.xmin"), Text)

Row = dict[str, Any]
Visible = Collection[str] | None
"""User ids of those whose ids may be shown; None of everybody."""


class TooLargeError(Exception):
    """The archive would have more bytes than may be kept."""


async def visible_ids(connection: AsyncConnection, user_id: str, role: Role) -> Visible:
    """Whose ids an archive may show to somebody who asks for it in this role."""
    if role is Role.ADMIN:
        return None
    children = await children_of(connection, [user_id]) if role is Role.PARENT else ()
    return {user_id, *(child for _, child in children)}


async def write_archive(
    connection: AsyncConnection, subject_key: UUID, visible: Visible, file: IO[bytes], now: datetime
) -> None:
    """Write all that is kept of the person into a zip file. The connection's transaction must `see_one_moment`.

    Raises LookupError where there is no such person, and TooLargeError where there is too much.
    """
    person = (await connection.execute(select(User.__table__).where(User.subject_key == subject_key))).first()
    if person is None:
        raise LookupError("there is no such user")
    names = await _names(connection, subject_key)
    files = {kept.name: kept.about for kept in KEPT} | {"set_aside": SET_ASIDE, "rhythm": RHYTHM}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        told = "\n".join(f"{name}.json, {name}.csv: {about}." for name, about in files.items())
        archive.writestr("README.txt", README.format(user_id=person.user_id, now=now, files=told))
        for kept in KEPT:
            for form in (_Json, _Csv):
                columns = [column.name for column in kept.table.__table__.columns]
                with archive.open(f"{kept.name}.{form.ending}", "w", force_zip64=True) as entry:
                    written = form(entry, columns)
                    async for rows in _rows(connection, kept, subject_key):
                        shown = [_shown(kept, row, subject_key, names, visible) for row in rows]
                        # In a thread, so that the storing of batches goes on beside it.
                        await asyncio.to_thread(written.add, shown)
                        if file.tell() > MOST_BYTES:
                            raise TooLargeError
                    written.close()
        for name, found in (
            ("set_aside", await _set_aside(connection, person.user_id, visible)),
            ("rhythm", [await _rhythm(connection, person, now)]),
        ):
            for form in (_Json, _Csv):
                with archive.open(f"{name}.{form.ending}", "w", force_zip64=True) as entry:
                    written = form(entry, list(found[0]) if found else [])
                    written.add(found)
                    written.close()


class _Json:
    """An array of objects, one a line."""

    ending = "json"

    def __init__(self, entry: IO[bytes], columns: Sequence[str]) -> None:
        self._entry, self._columns, self._before = entry, columns, b"[\n"

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._entry.write(self._before + orjson.dumps(row, default=str))
            self._before = b",\n"

    def close(self) -> None:
        self._entry.write((self._before if self._before == b"[\n" else b"\n") + b"]\n")


class _Csv:
    """A header, and a line for each row."""

    ending = "csv"

    def __init__(self, entry: IO[bytes], columns: Sequence[str]) -> None:
        self._entry, self._columns = entry, columns
        self._write([columns])

    def add(self, rows: Iterable[Row]) -> None:
        self._write([_cell(row[column]) for column in self._columns] for row in rows)

    def close(self) -> None:
        pass

    def _write(self, lines: Iterable[Sequence[object]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        self._entry.write(text.getvalue().encode())


def _cell(value: object) -> object:
    match value:
        case list() | dict():
            return orjson.dumps(value, default=str).decode()
        case datetime() | date():
            return value.isoformat()
        case bool():
            return str(value).lower()
        case str() if value.startswith(FORMULA):
            return f"'{value}"
        case _:
            return value


async def _rows(connection: AsyncConnection, kept: Kept, subject_key: UUID) -> AsyncIterator[Sequence[RowMapping]]:
    table = kept.table.__table__
    statement = (
        select(*table.columns)
        .where(kept.concerns(subject_key))
        .order_by(*table.primary_key)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    found = await connection.stream(statement)
    async for rows in found.mappings().partitions(ROWS_AT_ONCE):
        yield rows


async def _names(connection: AsyncConnection, subject_key: UUID) -> dict[UUID, str]:
    """By subject key the user ids of those whom rows of the person's tell of by key."""
    told = select(User.subject_key, User.user_id).where(User.subject_key.in_(keys_beside(subject_key)))
    return {row.subject_key: row.user_id for row in await connection.execute(told)}


def _shown(kept: Kept, row: RowMapping, subject_key: UUID, names: Mapping[UUID, str], visible: Visible) -> Row:
    """The row as it may be shown: others by user id, whom the person's own rows name always, and whose rows name the
    person only where they may be seen."""
    shown = dict(row)
    if len(kept.whose) > 1:
        is_own = row[kept.whose[0].key] == subject_key
        for column in kept.whose:
            name = names.get(row[column.key])
            shown[column.key] = name if is_own or visible is None or name in visible else None
    if kept.table is UserActivityEvent:
        shown["event_data"] = _shown_data(row["event_type"], row["event_data"], visible)
    return shown


def _shown_data(stored_as: str, payload: Row, visible: Visible) -> Row:
    kind = event_type(stored_as)
    if visible is None or kind is CustomEvent:
        return payload
    return without(named_in(kind, payload) - set(visible), kind, payload)


async def _set_aside(connection: AsyncConnection, user_id: str, visible: Visible) -> list[Row]:
    found = []
    packed = msgspec.msgpack.encode(user_id)
    holds = func.position(literal(packed).op("IN")(SetAsideEvent.event)) > 0
    columns = SetAsideEvent.set_aside_at, SetAsideEvent.reason, SetAsideEvent.event
    for row in await connection.execute(select(*columns).where(holds).order_by(SetAsideEvent.set_aside_id)):
        event = decode_event(row.event)
        if event.user_id == user_id:
            told = msgspec.structs.asdict(event) | {"data": _shown_data(event.event_type, event.payload, visible)}
            found.append({"set_aside_at": row.set_aside_at, "reason": row.reason} | told)
    return found


async def _rhythm(connection: AsyncConnection, person: Any, now: datetime) -> Row:
    zone = ZoneInfo(person.time_zone)
    today = now.astimezone(zone).date()
    active = (
        select(DailyActivity.day)
        .where(
            DailyActivity.subject_key == person.subject_key,
            DailyActivity.active,
            DailyActivity.day > today - timedelta(days=RECENT_DAYS),
        )
        .order_by(DailyActivity.day)
    )
    days = list(await connection.scalars(active))
    found = rhythm(person.known_since.astimezone(zone).date(), days, today)
    return {"rhythm": found.value, "today": today, "active_days_of_the_last_7": days}


async def make_next(engine: AsyncEngine, now: datetime) -> bool:
    """Make the archive that is waited for longest, unless another process makes it; says whether there was one."""
    wanted_still = DataExport.state.in_((TaskState.WAITING, TaskState.RUNNING))
    async with engine.connect() as reading:
        if not await reading.scalar(select(exists().where(wanted_still))):
            return False
        await reading.rollback()
        await see_one_moment(reading)
        waiting = (
            select(DataExport.export_id, VERSION.label("version"))
            .where(wanted_still)
            .order_by(DataExport.requested_at)
            .offset(0)
            .subquery()
        )
        lock = func.pg_try_advisory_xact_lock(func.hashtextextended(func.concat("export ", waiting.c.export_id), 0))
        found = (await reading.execute(select(waiting).where(lock).limit(1))).first()
        if found is None:
            return False
        wanted = await _begin(engine, *found)
        if wanted is None:
            return True
        try:
            with tempfile.TemporaryFile() as file:
                visible = await visible_ids(reading, wanted.asker_id, Role(wanted.asked_as))
                await write_archive(reading, wanted.subject_key, visible, file, now)
                await _keep(engine, reading, wanted, file)
        except TooLargeError:
            logger.warning("an export would have more than %d bytes, and failed", MOST_BYTES)
            async with engine.begin() as connection:
                this = DataExport.export_id == wanted.export_id
                await connection.execute(update(DataExport).where(this).values(state=TaskState.FAILED))
        return True


async def _begin(engine: AsyncEngine, export_id: UUID, version: str) -> Any:
    """Note the try; gives the export with who asked, and None where it is no more as it was, or was tried too often."""
    async with engine.begin() as connection:
        wanted = select(DataExport.__table__, User.user_id.label("asker_id")).join(
            User, User.subject_key == DataExport.asked_by_key
        )
        this = DataExport.export_id == export_id
        row = (
            await connection.execute(
                wanted.where(this, VERSION.is_not_distinct_from(version)).with_for_update(of=DataExport)
            )
        ).first()
        if row is None:
            return None
        is_last = row.tries >= MOST_TRIES
        state = TaskState.FAILED if is_last else TaskState.RUNNING
        await connection.execute(update(DataExport).where(this).values(state=state, tries=row.tries + 1))
        await connection.execute(delete(DataExportPart).where(DataExportPart.export_id == export_id))
        return None if is_last else row


async def _keep(engine: AsyncEngine, reading: AsyncConnection, wanted: Any, file: IO[bytes]) -> None:
    """Put the archive into the database, some bytes a transaction, and offer it; nothing more of it once somebody was
    erased whom it tells of or may name."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    number = 0
    this = DataExport.export_id == wanted.export_id
    still = select(DataExport.export_id).where(this, DataExport.state == TaskState.RUNNING)
    while content := file.read(PART_BYTES):
        async with engine.begin() as connection:
            if await connection.scalar(still.with_for_update(key_share=True)) is None:
                return
            await connection.execute(
                insert(DataExportPart).values(
                    subject_key=wanted.subject_key, export_id=wanted.export_id, number=number, content=content
                )
            )
        await reading.execute(select(1))  # whose transaction holds the lock, and ends where nothing happens in it
        number += 1
    async with engine.begin() as connection:
        await connection.execute(
            update(DataExport)
            .where(this, DataExport.state == TaskState.RUNNING)
            .values(
                state=TaskState.DONE,
                size=size,
                # One that is made anew is not offered for longer.
                expires_at=func.coalesce(DataExport.expires_at, datetime.now(UTC) + OFFERED_FOR),
            )
        )


async def forget_expired(connection: AsyncConnection, now: datetime) -> None:
    """Delete archives that are offered no more, and what never came to be."""
    is_old = or_(DataExport.expires_at <= now, DataExport.requested_at <= now - 2 * OFFERED_FOR)
    await connection.execute(delete(DataExport).where(is_old))
