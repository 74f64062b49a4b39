"""Whether the events of whoever signs them themself may be kept: looked up for all who ask at once, and remembered."""

import asyncio
import time
from collections.abc import Iterable
from contextvars import Context
from datetime import UTC, datetime

from strawberry.dataloader import DataLoader

from models.permission import FREE, ConsentRule, Standing
from models.tombstone import erased_among
from models.user import subjects_of
from models.viewer import Role, Viewer
from resolvers.errors import UnavailableError
from resolvers.reader import Databases

SECONDS_REMEMBERED = 10
SECONDS_BETWEEN_REFRESHES = 4
SECONDS_TO_ANSWER = 1
SECONDS_BETWEEN_TRIES = 5
MOST_REMEMBERED = 100_000
MOST_AT_ONCE = 200


class Standings:
    """What a process knows of users' standings: against whom nothing stands is remembered for ten seconds. Whoever goes
    on sending is looked up again before that, together with all others who do, and behind their requests.

    Where the database is away, or another process has changed a standing meanwhile, nobody is refused here: whoever
    stores the events looks again. To be made where the event loop runs.
    """

    def __init__(self, databases: Databases, rule: ConsentRule) -> None:
        self._databases, self._rule = databases, rule
        self._free_until: dict[str, float] = {}
        self._sending: dict[str, Role] = {}
        self._refresh_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._forgotten: set[str] = set()
        self._changes = 0
        self._away_until = float("-inf")
        self._loader: DataLoader[tuple[str, Role], Standing] = DataLoader(load_fn=self._look_up, cache=False)

    async def of(self, viewer: Viewer) -> Standing:
        """How the viewer stands, as far as is known."""
        if viewer.user_id is None or viewer.role is Role.SERVICE:
            return FREE
        now = time.monotonic()
        if now >= self._refresh_at and (self._refreshing is None or self._refreshing.done()):
            self._refresh_at = now + SECONDS_BETWEEN_REFRESHES
            self._refreshing = asyncio.create_task(self._refresh(), name="standings", context=Context())
        if self._free_until.get(viewer.user_id, now) > now:
            self._sending[viewer.user_id] = viewer.role
            return FREE
        if self._away_until > now:
            return FREE
        changes = self._changes
        try:
            standing = await self._loader.load((viewer.user_id, viewer.role))
        except UnavailableError:
            self._away_until = time.monotonic() + SECONDS_BETWEEN_TRIES
            return FREE
        if standing == FREE and changes == self._changes:
            if len(self._free_until) >= MOST_REMEMBERED:
                self._free_until.clear()
            self._free_until[viewer.user_id] = now + SECONDS_REMEMBERED
        return standing

    def forget(self, user_ids: Iterable[str]) -> None:
        """What was known of these users has changed."""
        self._changes += 1
        for user_id in user_ids:
            if self._refreshing and not self._refreshing.done():
                self._forgotten.add(user_id)
            self._free_until.pop(user_id, None)

    async def close(self) -> None:
        """Look nobody up any more."""
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def _refresh(self) -> None:
        sending, self._sending = [*self._sending.items()], {}
        self._forgotten.clear()
        for start in range(0, len(sending), MOST_AT_ONCE):
            now = time.monotonic()
            some = sending[start : start + MOST_AT_ONCE]
            try:
                standings = await self._look_up(some)
            except UnavailableError:
                return  # whom nobody remembers any more finds out
            for (user_id, _), standing in zip(some, standings, strict=True):
                if standing != FREE:
                    self._free_until.pop(user_id, None)
                elif user_id not in self._forgotten:
                    self._free_until[user_id] = now + SECONDS_REMEMBERED

    async def _look_up(self, viewers: list[tuple[str, Role]]) -> list[Standing]:
        user_ids = {user_id for user_id, _ in viewers}
        async with self._databases.looking(SECONDS_TO_ANSWER) as connection:
            found = await subjects_of(connection, sorted(user_ids))
            erased = await erased_among(connection, user_ids - found.keys())
        now = datetime.now(UTC)
        return [
            self._rule.standing(found[user_id], now) if user_id in found else self._unknown(role, user_id in erased)
            for user_id, role in viewers
        ]

    def _unknown(self, role: Role, was_erased: bool) -> Standing:
        """Of nobody yet, whom their first event makes known, unless they were erased."""
        return Standing(lacks_consent=role is Role.STUDENT and self._rule.unknown_age, was_erased=was_erased)
