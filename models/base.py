"""What all tables share: the metadata, the column types, and how a database is reached."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from types import GenericAlias
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import orjson
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnClause,
    ColumnElement,
    Date,
    DateTime,
    Dialect,
    ScalarSelect,
    Select,
    Text,
    TypeDecorator,
    Uuid,
    any_,
    bindparam,
    cast,
    column,
    func,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.sql.selectable import TableValuedAlias

Value = TypeVar("Value")
Kind = TypeVar("Kind")
# Of SQLSTATE's codes and classes those that pass: a lost connection, a server that may not write, a conflict with
# others, no room or connection left, a lock not got, a server going down or coming up, a disk that fails.
PASSING = ("08", "25006", "40001", "40P01", "53", "55P03", "57", "58")
SESSION = {"timezone": "UTC", "idle_in_transaction_session_timeout": "30s"}


class Base(DeclarativeBase):
    """Of every table. All times are `timestamptz`, read and written as aware datetimes."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        int: BigInteger(),
        UUID: Uuid(),
        datetime: DateTime(timezone=True),
        date: Date(),
        dict[str, Any]: JSONB(),
    }


def async_url(url: str) -> URL:
    """The same database through asyncpg, with libpq's `sslmode` as asyncpg's `ssl`."""
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    if "sslmode" in parsed.query:
        parsed = parsed.update_query_dict({"ssl": parsed.query["sslmode"]}).difference_update_query(["sslmode"])
    return parsed


def connect(
    url: str,
    *,
    pool_size: int = 5,
    name: str = "questlog",
    statement_seconds: int | None = None,
    secret: bytes | None = None,
) -> AsyncEngine:
    """A pool of connections to one login's database; nothing is opened until it is used.

    `name` is what `pg_stat_activity` shows. Waiting for a free connection ends after 30 s in
    SQLAlchemy's `TimeoutError`. A transaction in which nothing happens for 30 s is ended by PostgreSQL, so that a
    process that stands still holds up nobody. So it ends a statement after `statement_seconds`, if any.
    By `secret` those who were erased are told: without it nobody becomes known.
    """
    session = SESSION | {"application_name": name}
    if statement_seconds:
        session["statement_timeout"] = f"{statement_seconds}s"
    return create_async_engine(
        async_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_use_lifo=True,  # a connection that was just used knows the statements
        # An error's text would otherwise hold what people did.
        hide_parameters=True,
        json_serializer=lambda value: orjson.dumps(value, default=_plain).decode(),
        json_deserializer=orjson.loads,
        execution_options={"questlog_secret": secret},
        # What a connection prepared stays prepared, as SQLAlchemy's own does: asyncpg would forget it after 5 minutes.
        connect_args={"server_settings": session, "timeout": 10, "max_cached_statement_lifetime": 0},
    )


def secret_of(connection: AsyncConnection) -> bytes:
    """The secret that the connection's pool was made with; raises LookupError where that was none."""
    options = connection.sync_connection.get_execution_options() if connection.sync_connection else {}
    secret: bytes | None = options.get("questlog_secret")
    if secret is None:
        raise LookupError("who was erased cannot be told without the installation's secret")
    return secret


def will_pass(error: Exception) -> bool:
    """Whether what a database was asked may succeed later: it is away, or busy, or lets nobody in."""
    if isinstance(error, DBAPIError):
        sqlstate = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or sqlstate.startswith(PASSING)
    # asyncpg's own errors come from connecting, or where a connection is lost between two steps of its protocol: all
    # others are wrapped.
    of_asyncpg = asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError
    return isinstance(error, OSError | PoolTimeoutError | of_asyncpg)


def _plain(value: object) -> str:
    if isinstance(value, UUID):  # asyncpg's own, which orjson does not know
        return str(value)
    raise TypeError(type(value).__name__)


def unnest(
    columns: Sequence[InstrumentedAttribute[Any] | ColumnClause[Any]], rows: Iterable[Sequence[Any]]
) -> TableValuedAlias:
    """The rows as a table with columns of these names and types: one bound array a column, however many rows."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [
        bindparam(None, list(array), type_=ARRAY(attribute.type))
        for attribute, array in zip(columns, values, strict=True)
    ]
    return (
        func.unnest(*arrays)
        .table_valued(*(column(attribute.key, attribute.type) for attribute in columns))
        .render_derived()
    )


def among(column: InstrumentedAttribute[Value] | ColumnElement[Value], values: Iterable[Value]) -> ColumnElement[bool]:
    """Whether the column is one of the values. With `in_` every number of values would be a statement of its own, which
    each connection prepares and keeps."""
    return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))


class Gathered(TypeDecorator[Any]):
    """JSON text, read as a list of a type that msgspec knows."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(GenericAlias(list, (kind,)))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """What the text says."""
        return value and self._decoder.decode(value)


def gathered(
    kind: type[Kind],
    columns: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
    statement: Select[Any],
) -> ScalarSelect[list[Kind]]:
    """The columns of the statement's rows as a list of tuples of this kind, empty where there are none: many rows below
    each row of another table, in one statement. `statement` says from where and in which order, and correlates to that
    other table."""
    rows = statement.with_only_columns(*(column.label(f"c{index}") for index, column in enumerate(columns))).subquery()
    found = func.coalesce(func.jsonb_agg(func.jsonb_build_array(*rows.c)), func.jsonb_build_array())
    return select(type_coerce(cast(found, Text), Gathered(kind))).select_from(rows).scalar_subquery()
