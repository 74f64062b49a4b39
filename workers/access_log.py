"""Keeping who read whose data: gathered while questions are answered, and written behind them."""

import asyncio
import logging
from contextlib import suppress
from datetime import datetime
from itertools import islice
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from models.access_log import Access, hour_of, keep_accesses

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 0.5
SECONDS_FOR_POSTGRESQL = 10
AT_ONCE = 1000
MOST_REMEMBERED = 100_000

Entry = tuple[UUID, str, str, datetime]
"""Subject, viewer, role and hour."""


class AccessLog:
    """What all requests of a process read, written by the intake's login twice a second.

    What was written in this hour is remembered, and not written again. Where the database does not take it, it waits;
    `close` tries a last time.
    """

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._known: dict[Entry, frozenset[str]] = {}
        self._waiting: dict[Entry, Access] = {}
        self._closing = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep_forever(), name="access log")

    def note(self, access: Access) -> None:
        """Let it be kept that somebody read this; nothing is waited for."""
        entry = (access.subject_key, access.viewer_id, access.viewer_role, hour_of(access.at))
        known = self._known.get(entry, frozenset())
        if access.fields <= known:
            return
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[entry] = known | access.fields
        if waiting := self._waiting.get(entry):
            access = access._replace(at=min(access.at, waiting.at), fields=access.fields | waiting.fields)
        self._waiting[entry] = access

    async def close(self) -> None:
        """Keep what is waiting, then take no more."""
        self._closing.set()
        await self._keeping
        if self._waiting:
            self._lose_all()

    async def _keep_forever(self) -> None:
        is_closing = False
        while not is_closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS_BETWEEN_WRITES):
                    await self._closing.wait()
            is_closing = self._closing.is_set()
            await self._keep()

    async def _keep(self) -> None:
        while self._waiting:
            some = dict(islice(self._waiting.items(), AT_ONCE))
            try:
                async with asyncio.timeout(SECONDS_FOR_POSTGRESQL), self._database.begin() as connection:
                    await keep_accesses(connection, list(some.values()))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next round tries again
                logger.warning("who read whose data could not be kept yet: %s", type(error).__name__)
                if len(self._waiting) >= MOST_REMEMBERED:
                    self._lose_all()
                return
            for entry, access in some.items():
                if self._waiting.get(entry) is access:  # else there came more meanwhile
                    del self._waiting[entry]

    def _lose_all(self) -> None:
        logger.error("%d entries of the access log are lost", len(self._waiting))
        self._waiting.clear()
        self._known.clear()
