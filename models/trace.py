"""Where an id of somebody still stands: every column that could hold one is looked through."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.event import UserActivityEvent
from models.naming import names
from models.partition import BY, weeks

COLUMNS = text(
    "SELECT relname::text, attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
    " JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace"
    " AND relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0 AND NOT attisdropped"
    " AND format_type(atttypid, atttypmod) IN ('text', 'text[]', 'uuid', 'uuid[]', 'jsonb')"
    # The first holds whom it is about until it is done; the other is Alembic's.
    " AND relname NOT IN ('erasures', 'alembic_version') ORDER BY 1, 2"
)
IS_THERE = {
    "text": '"{0}" = :user_id',
    "text[]": ':user_id = ANY ("{0}")',
    "uuid": '"{0}" = :subject_key',
    "uuid[]": ':subject_key = ANY ("{0}")',
    "jsonb": 'strpos("{0}"::text, :quoted) > 0',
}


IN_WEEK = ' WHERE "{0}" >= CAST(:week AS date) AND "{0}" < CAST(:week AS date) + 7'


class Place(NamedTuple):
    """A table, or that week of it, with the columns that could hold an id, by their types."""

    table: str
    week: date | None
    columns: dict[str, str]


class Traces(NamedTuple):
    """In how many rows of which column an id stands: where it names the person, and where a text that names nobody is
    the same by chance: a quest's id, say."""

    naming: dict[str, int]
    same_text: dict[str, int]


async def places(connection: AsyncConnection) -> list[Place]:
    """All there are, as the database's own catalogue has them."""
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in await connection.execute(COLUMNS):
        tables.setdefault(table, {})[column] = kind
    parts: dict[str, list[Any]] = {**await weeks(connection)}
    return [Place(table, week, columns) for table, columns in tables.items() for week in parts.get(table, [None])]


def in_week(week: date) -> ColumnElement[bool]:
    """The events of that week (Monday)."""
    start = datetime.combine(week, time(0), UTC)
    at = UserActivityEvent.occurred_at
    return (at >= start) & (at < start + timedelta(days=7))


async def traces(connection: AsyncConnection, place: Place, user_id: str, subject_key: UUID) -> Traces:
    """What is left of somebody in that place."""
    counts = ", ".join(
        f'count(*) FILTER (WHERE {IS_THERE[kind].format(column)}) AS "{column}"'
        for column, kind in place.columns.items()
    )
    where = IN_WEEK.format(BY[place.table]) if place.week else ""
    # The names are the catalogue's own.
    statement = text(f'SELECT {counts} FROM "{place.table}"{where}')  # noqa: S608
    values = {
        "user_id": user_id,
        "subject_key": subject_key,
        "quoted": orjson.dumps(user_id).decode(),
        "week": place.week,
    }
    bound = statement.bindparams(**{name: value for name, value in values.items() if f":{name}" in statement.text})
    found = Traces({}, {})
    for column, number in (await connection.execute(bound)).mappings().one().items():
        naming = number
        if place.table == UserActivityEvent.__tablename__ and column == "event_data" and place.week and number:
            named = select(func.count()).where(in_week(place.week), names(user_id))
            naming = await connection.scalar(named) or 0
        elif not (place.columns[column].startswith("uuid") or column == "user_id"):
            naming = 0
        found.naming[f"{place.table}.{column}"] = naming
        found.same_text[f"{place.table}.{column}"] = number - naming
    return found
