"""Statements that are asked over and over: compiled once, and sent by asyncpg itself."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import asyncpg
from sqlalchemy import JSON, Select, TypeDecorator
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import connect

DIALECT = connect("postgresql://").dialect  # every pool's
AnyRow = Any
"""A row, whose columns are attributes."""
row_type: Callable[[str, Iterable[str]], Any] = namedtuple  # noqa: PYI024 - columns are known at run time alone


class Prepared:
    """A SELECT as PostgreSQL gets it. SQLAlchemy compiles it, which takes two milliseconds, and has no part in its
    execution, which would take as long again as a small answer does. To be made once, and to be kept."""

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=DIALECT)
        columns = statement.selected_columns
        self.text = str(compiled)
        self._names = compiled.positiontup or []
        self._values = compiled.params
        self._row = row_type("Row", columns.keys())
        # All else asyncpg reads itself.
        self._readers = [
            (place, reader)
            for place, column in enumerate(columns)
            if isinstance(column.type, JSON | TypeDecorator)
            and (reader := column.type.dialect_impl(DIALECT).result_processor(DIALECT, None))
        ]

    def arguments(self, parameters: Mapping[str, object]) -> list[object]:
        """The values of its text's $1, $2, …; raises KeyError where a parameter is missing."""
        values = self._values | parameters
        return [values[name] for name in self._names]

    async def rows(self, connection: AsyncConnection, parameters: Mapping[str, object]) -> list[AnyRow]:
        """All its rows with these parameters, in the connection's transaction, which must have begun. Raises DBAPIError
        as SQLAlchemy does."""
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            records = await driver.fetch(self.text, *self.arguments(parameters))
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            is_closed = driver.is_closed()
            raise DBAPIError(self.text, None, error, connection_invalidated=is_closed) from error
        return [self._row._make(self._read(record)) for record in records]

    def _read(self, record: asyncpg.Record) -> Iterable[Any]:
        if not self._readers:
            return record
        values = list(record)
        for place, reader in self._readers:
            values[place] = reader(values[place])
        return values
