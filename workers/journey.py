"""Importing a learner's own record from before their platform came here: milestones of which no event tells."""

import csv
import itertools
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, BinaryIO, NamedTuple, TypeVar
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import msgspec
import orjson
from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.horizon import horizon
from models.journey import MilestoneKey, Row, insert_imported, milestone
from models.permission import USUAL, ConsentRule
from models.rollup import mark_dirty
from models.session import StoredEvent
from models.storing import begin_storing
from models.taxonomy import EVENT_TYPES, EventType, Id, MilestoneKind, Pillar, Xp
from models.text import is_storable, mask_emails
from models.user import Subject, subjects_of

LINES_AT_ONCE = 1000
MOST_BYTES = 8192  # of a line, as of an event
EARLIEST = datetime(1900, 1, 2, tzinfo=UTC)
LATEST = timedelta(minutes=5)
NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)


class Record(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A line of a file: its fields are the columns."""

    user_id: Id
    kind: MilestoneKind
    occurred_at: Annotated[datetime, Meta(tz=True)]
    quest_id: str | None = None
    task_id: str | None = None
    badge_id: str | None = None
    title: str | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None
    event_id: UUID | None = None


COLUMNS = [field.encode_name for field in msgspec.structs.fields(Record)]
TITLES = {"questTitle", "taskTitle", "badgeName"}
MASKED = ("quest_id", "task_id", "badge_id", "title", "pillar")
Kind = TypeVar("Kind", bound=msgspec.Struct)


class FileError(ValueError):
    """The file as a whole is not what it should be; the message is one line."""


class RefusedError(ValueError):
    """Why a line is not taken, and the field at fault; an empty one is the whole line."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


class Refused(NamedTuple):
    """A line that was not taken; the first of a file is 1."""

    line: int
    field: str
    reason: str


@dataclass(frozen=True)
class Imported:
    """A step that is done for good. Lines that were imported before are `known`."""

    imported: int
    known: int
    refused: list[Refused]


async def import_milestones(
    engine: AsyncEngine,
    file: BinaryIO,
    *,
    as_json: bool | None,
    now: datetime,
    anonymize_after_days: int,
    consent_rule: ConsentRule = USUAL,
) -> AsyncGenerator[Imported, None]:
    """Keep the milestones that the file's lines tell of, some lines a transaction: JSON Lines, or CSV with a header.

    Where `as_json` is None, what the file begins with tells which. The same line again changes nothing, so that a file
    may be imported again from its start wherever it was broken off. Raises FileError where it has not the columns of
    `Record`, with nothing kept, and where the rest of it cannot be read.
    """
    sealed_before = horizon(now, anonymize_after_days)
    lines = _numbered(file, as_json)
    while some := list(itertools.islice(lines, LINES_AT_ONCE)):
        async with engine.begin() as connection:
            done = await _keep(connection, some, now, sealed_before, consent_rule)
        yield done


Line = tuple[int, dict[str, Any] | RefusedError]


def _numbered(file: BinaryIO, as_json: bool | None) -> Iterator[Line]:
    lines = _cut(file)
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    if as_json is None:
        as_json = first.lstrip().startswith(b"{")
    return (_json_lines if as_json else _csv_lines)(itertools.chain([first], lines))


def _cut(file: BinaryIO) -> Iterator[bytes]:
    """The file's lines, each no longer than tells that it is too long."""
    try:
        while line := file.readline(2 * MOST_BYTES):
            yield line
            while len(line) == 2 * MOST_BYTES and not line.endswith(b"\n"):
                line = file.readline(2 * MOST_BYTES)
    except OSError as error:
        raise FileError(f"the rest of it cannot be read: {error}") from error


def _json_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > MOST_BYTES:
            yield number, RefusedError("", f"the line has more than {MOST_BYTES} bytes")
            continue
        try:
            found = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            found = None
        if isinstance(found, dict):
            yield number, {name: value for name, value in found.items() if value is not None}
        else:
            yield number, RefusedError("", "the line is no JSON object")


def _csv_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Empty cells are absent fields. What is no UTF-8 is refused with the field that holds it."""
    reader = csv.reader((line.decode(errors="surrogateescape") for line in lines), strict=True)
    header = _header(reader)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, RefusedError("", f"the line is no CSV: {error}")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if len(cells) != len(header):
            yield number, RefusedError("", f"the line has {len(cells)} cells, and the header {len(header)}")
        elif sum(map(len, cells)) > MOST_BYTES:
            yield number, RefusedError("", f"the line has more than {MOST_BYTES} bytes")
        else:
            found: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
            if NUMBER.fullmatch(found.get("xp", "")):
                found["xp"] = int(found["xp"])
            yield number, found


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise FileError(f"the first line is no CSV: {error}") from None
    if unknown := set(header) - set(COLUMNS):
        raise FileError(f"{min(unknown)!a} is no column: they are {', '.join(COLUMNS)}")
    if missing := {"userId", "kind", "occurredAt"} - set(header):
        raise FileError(f"the first line must name the columns, and {min(missing)} is not among them")
    if len(set(header)) < len(header):
        raise FileError("the first line names a column twice")
    return header


async def _keep(
    connection: AsyncConnection, lines: list[Line], now: datetime, sealed_before: datetime, rule: ConsentRule
) -> Imported:
    records: list[tuple[int, Record]] = []
    refused: list[Refused] = []
    for number, found in lines:
        try:
            records.append((number, _record(found, now)))
        except RefusedError as error:
            refused.append(Refused(number, error.field, error.reason))
    await begin_storing(connection)
    subjects = await subjects_of(connection, sorted({record.user_id for _, record in records}))
    milestones: dict[MilestoneKey, Row] = {}
    for number, record in records:
        subject = subjects.get(record.user_id)
        if subject is None:
            refused.append(Refused(number, "userId", "userId is no user that is kept: upsert them first"))
        elif rule.standing(subject, now).lacks_consent:
            refused.append(Refused(number, "userId", "userId needs a consent that is not recorded"))
        else:
            row = _row(record, subject)
            milestones.setdefault((subject.key, row["event_id"], row["occurred_at"]), row)
    new = await insert_imported(connection, milestones) if milestones else set()
    # What else follows from milestones of these days, follows from these too.
    await mark_dirty(connection, [(key, at, at) for key, _, at in new if at >= sealed_before])
    return Imported(len(new), len(lines) - len(refused) - len(new), sorted(refused))


def _record(found: dict[str, Any] | RefusedError, now: datetime) -> Record:
    """The line as it is kept; raises RefusedError."""
    if isinstance(found, RefusedError):
        raise found
    for name, value in found.items():
        if not is_storable([name, value]):
            raise RefusedError(name if is_storable(name) else "", "holds a character that cannot be stored")
    record = _converted(found, Record)
    _converted(_payload(record), _type(record))
    if record.occurred_at - now > LATEST:
        raise RefusedError("occurredAt", "lies in the future")
    if record.occurred_at < EARLIEST:
        raise RefusedError("occurredAt", f"lies before {EARLIEST:%Y}")
    record.occurred_at = record.occurred_at.astimezone(UTC)
    record.occurred_at -= timedelta(microseconds=record.occurred_at.microsecond % 1000)
    for name in MASKED:
        setattr(record, name, mask_emails(getattr(record, name) or "") or None)
    return record


def _converted(found: dict[str, Any], into: type[Kind]) -> Kind:
    try:
        return msgspec.convert(found, into)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at ")
        *_, field = re.findall(r"`(?:\$\.)?(\w+)`", path or fault)
        raise RefusedError(field, fault) from None


def _type(record: Record) -> type[EventType]:
    """The type of event that would have made the milestone."""
    return EVENT_TYPES[record.kind.lower()]


def _payload(record: Record) -> dict[str, Any]:
    """What that event would have told: its type says what is needed and what is in its range."""
    (title,) = TITLES & {field.encode_name for field in msgspec.structs.fields(_type(record))}
    given = {
        "questId": record.quest_id,
        "taskId": record.task_id,
        "badgeId": record.badge_id,
        title: record.title,
        "xp": record.xp,
        "pillar": record.pillar,
    }
    return {name: value for name, value in given.items() if value is not None}


def _row(record: Record, subject: Subject) -> Row:
    payload = _payload(record)
    content = orjson.dumps([record.kind, record.occurred_at, payload], option=orjson.OPT_SORT_KEYS)
    event_id = record.event_id or uuid5(subject.key, content.decode())
    event = StoredEvent(event_id, record.occurred_at, _type(record).type_name(), None, True, None, payload)
    made = milestone(event, record.occurred_at.astimezone(ZoneInfo(subject.time_zone)).date())
    return {**(made or {}), "subject_key": subject.key, "imported": True}
