"""Statements that are asked over and over: compiled once, and sent by asyncpg itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from sqlalchemy import JSON, Select, TypeDecorator
from sqlalchemy.exc import DBAPIError

from models.base import connect

DIALECT = connect("postgresql://").dialect  # every pool's
Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
row_type: Callable[[str, Iterable[tuple[str, object]]], Any] = NamedTuple
"""Called by a name of its own, since the columns are known at run time alone."""


@contextmanager
def as_sqlalchemy_raises(driver: Driver, statement: str) -> Iterator[None]:
    """asyncpg's errors become DBAPIError. A connection whose statements were prepared for another schema, or which does
    not know how it stands with the server, is of as little use as one that is lost."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        is_of_no_use = isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.InternalClientError)
        invalidated = is_of_no_use or driver.is_closed()
        raise DBAPIError(statement, None, error, connection_invalidated=invalidated) from error


class Prepared:
    """A SELECT as PostgreSQL gets it. SQLAlchemy compiles it, which takes two milliseconds, and has no part in its
    execution, which would take as long again as a small answer does. To be made once, and to be kept."""

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=DIALECT)
        columns = statement.selected_columns
        self.text = str(compiled)
        self._names = compiled.positiontup or []
        self._values = {name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required}
        self._row = row_type("Row", [(name, Any) for name, _ in columns.items()])
        # All else asyncpg reads itself.
        self._readers = [
            (place, reader)
            for place, column in enumerate(columns)
            if isinstance(column.type, JSON | TypeDecorator)
            and (reader := column.type.dialect_impl(DIALECT).result_processor(DIALECT, None))
        ]

    def arguments(self, parameters: Mapping[str, object]) -> list[object]:
        """The values of its text's $1, $2, …, each as asyncpg takes it, so that JSON is text; raises KeyError where a
        parameter is missing."""
        values = {**self._values, **parameters}
        return [values[name] for name in self._names]

    async def rows(self, driver: Driver, parameters: Mapping[str, object]) -> list[Any]:
        """All its rows with these parameters, as AnyRow; raises DBAPIError as SQLAlchemy does."""
        with as_sqlalchemy_raises(driver, self.text):
            records = await driver.fetch(self.text, *self.arguments(parameters))
        return [self._row._make(self._read(record)) for record in records]

    def _read(self, record: asyncpg.Record) -> Iterable[Any]:
        if not self._readers:
            return record
        values = list(record)
        for place, reader in self._readers:
            values[place] = reader(values[place])
        return values
