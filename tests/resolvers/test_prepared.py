"""What is prepared answers as SQLAlchemy does, and fails as it does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import (
    ARRAY,
    Boolean,
    Date,
    DateTime,
    Float,
    Integer,
    Text,
    Uuid,
    any_,
    bindparam,
    case,
    cast,
    column,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import gathered
from resolvers.prepared import Driver, Prepared, as_sqlalchemy_raises
from tests.platform import Platform

NUMBERS = (
    func.generate_series(1, bindparam("most", type_=Integer())).table_valued(column("number", Integer)).render_derived()
)
BELOW = func.generate_series(1, NUMBERS.c.number - 1).table_valued(column("below", Integer)).render_derived()
KIND = case((NUMBERS.c.number == 1, None), else_="ünï")
VALUES = {
    "whole": NUMBERS.c.number,
    "fraction": literal(0.1, Float()),
    "word": literal("Ünï çødé", Text()),
    "nothing": literal(None, Text()),
    "truth": literal(value=True, type_=Boolean()),
    "key": literal(UUID(int=7), Uuid()),
    "day": literal(date(2024, 2, 29), Date()),
    "moment": literal(datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC), DateTime(timezone=True)),
    "words": literal(["a", "", "{}"], ARRAY(Text())),
    "payload": cast(literal('{"a": [1, null, {"b": "ü"}]}', Text()), JSONB()),
    "no_payload": case((NUMBERS.c.number == 1, cast(literal("{}", Text()), JSONB())), else_=None),
    "below": gathered(tuple[int, str | None], [BELOW.c.below, KIND], select(BELOW).correlate(NUMBERS)),
}
EVERYTHING = select(*(value.label(name) for name, value in VALUES.items())).select_from(NUMBERS)


@asynccontextmanager
async def both(platform: Platform) -> AsyncIterator[tuple[AsyncConnection, Driver]]:
    """A connection, and the one below it."""
    async with platform.api.databases.viewer.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        yield connection, driver


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_rows_are_those_of_sqlalchemy(platform: Platform, most: int) -> None:
    async with both(platform) as (connection, driver):
        theirs = (await connection.execute(EVERYTHING, {"most": most})).all()
        ours = await Prepared(EVERYTHING).rows(driver, {"most": most, "another": 1})
    assert len(theirs) == most
    assert ours == [tuple(row) for row in theirs]
    assert [[getattr(row, name) for name in VALUES] for row in ours] == [list(row) for row in theirs]
    assert [[type(value) for value in row] for row in ours] == [[type(value) for value in row] for row in theirs]


async def test_parameters_are_needed_and_may_be_arrays(platform: Platform) -> None:
    named = select(NUMBERS.c.number).where(NUMBERS.c.number == any_(bindparam("wanted", type_=ARRAY(Integer()))))
    prepared = Prepared(named)
    async with both(platform) as (_, driver):
        assert await prepared.rows(driver, {"most": 9, "wanted": [2, 3, 99]}) == [(2,), (3,)]
        assert await prepared.rows(driver, {"most": 9, "wanted": []}) == []
    with pytest.raises(KeyError, match="wanted"):
        prepared.arguments({"most": 9})


async def test_errors_are_those_of_sqlalchemy(platform: Platform) -> None:
    by_zero = Prepared(select((NUMBERS.c.number / (NUMBERS.c.number - 1)).label("infinite")))
    async with both(platform) as (_, driver):
        with pytest.raises(DBAPIError) as failed:
            await by_zero.rows(driver, {"most": 1})
        assert getattr(failed.value.orig, "sqlstate", None) == "22012"
        assert not failed.value.connection_invalidated
        with pytest.raises(DBAPIError) as failed:
            await by_zero.rows(driver, {"most": "one"})
        await driver.close()
        with pytest.raises(DBAPIError) as failed:
            await by_zero.rows(driver, {"most": 1})
        assert failed.value.connection_invalidated


@pytest.mark.parametrize(
    "error", [asyncpg.ProtocolError(), asyncpg.InvalidCachedStatementError(), asyncpg.OutdatedSchemaCacheError("")]
)
async def test_a_connection_that_is_of_no_use_any_more_is_as_one_that_is_lost(
    platform: Platform, error: Exception
) -> None:
    async with both(platform) as (_, driver):
        with pytest.raises(DBAPIError) as failed, as_sqlalchemy_raises(driver, "SELECT 1"):
            raise error
        assert failed.value.connection_invalidated
