"""The statements by which requests read, whichever way they are sent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch  # to watch: what is patched does what it did

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from resolvers.prepared import Driver, Prepared
from resolvers.reader import AnyRow

Statement = tuple[str, Any]


@contextmanager
def sent_through(*pools: AsyncEngine, but: tuple[str, ...]) -> Iterator[list[Statement]]:
    """Those sent meanwhile with their parameters, but those that begin so; what is prepared, through any pool."""
    sent: list[Statement] = []
    rows = Prepared.rows

    def note(statement: str, parameters: Any) -> None:
        if not statement.startswith(but):
            sent.append((statement, parameters))

    def note_execution(*execution: Any) -> None:
        _, _, statement, parameters, *_ = execution
        note(statement, parameters)

    async def note_prepared(prepared: Prepared, driver: Driver, parameters: Mapping[str, object]) -> list[AnyRow]:
        note(prepared.text, tuple(prepared.arguments(parameters)))
        return await rows(prepared, driver, parameters)

    engines = [pool.sync_engine for pool in pools]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note_execution)
    with patch.object(Prepared, "rows", note_prepared):
        yield sent
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note_execution)
