"""What workers do, done by the test: storing, rolling up, and looking at the tables afterwards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.event import TrackedEvent
from models.risk import AssessmentDue
from models.rollup import mark_dirty
from models.user import User, UserRole
from tests.platform import until
from tests.recomputation import Event
from workers.event import Stored, store
from workers.rollup import roll_up

DERIVED = ("user_sessions", "learning_journey_events", "daily_activity", "daily_contributions")
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
DAYS = 90
NOW = datetime.now(UTC).replace(microsecond=0)

Rows = dict[str, list[tuple[Any, ...]]]


def visit(at: datetime, device: UUID | None = None, kind: str = "route_change", **data: object) -> Event:
    """An event of a learner's own."""
    return Event(uuid4(), at, kind, data, device or UUID(int=1), from_service=False)


@dataclass
class Storing:
    """One database, by the worker's login and by the login that bypasses every rule."""

    engine: AsyncEngine
    superuser: AsyncEngine

    async def know(
        self,
        user_id: str,
        zone: str = "UTC",
        role: UserRole = UserRole.STUDENT,
        since: datetime = NOW - timedelta(days=1),
    ) -> UUID:
        """Keep a user; gives their key."""
        key = uuid4()
        async with self.superuser.begin() as connection:
            await connection.execute(
                insert(User).values(subject_key=key, user_id=user_id, role=role, time_zone=zone, known_since=since)
            )
            await connection.execute(insert(AssessmentDue).values(subject_key=key, due_at=since))
        return key

    async def store(self, batch: Sequence[TrackedEvent], days: int = DAYS) -> Stored:
        """Store a batch, in a transaction that waits for no lock longer than two seconds."""
        async with self.engine.begin() as connection:
            await impatient(connection)
            return await store(connection, batch, anonymize_after_days=days)

    async def roll_up(self, now: datetime | None = None) -> int:
        """One roll-up, in a transaction that waits for no lock longer than two seconds."""
        async with self.engine.begin() as connection:
            await impatient(connection)
            return await roll_up(connection, now or datetime.now(UTC), anonymize_after_days=DAYS)

    async def derive(self, now: datetime | None = None) -> None:
        """Roll up until nothing is dirty."""
        while await self.roll_up(now):
            pass

    async def mark(self, key: UUID, times: Iterable[datetime]) -> None:
        """Mark a subject's spans dirty, each of one instant."""
        async with self.engine.begin() as connection:
            await mark_dirty(connection, [(key, at, at) for at in times])

    async def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement by the login that bypasses every rule, which may also write."""
        async with self.superuser.begin() as connection:
            result = await connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    async def derived(self, key: UUID, columns: str = "*") -> Rows:
        """What the derived tables hold of a subject."""
        order = "ORDER BY 1, 2, 3"
        return {
            table: await self.rows(
                f"SELECT {columns} FROM {table} WHERE subject_key = :key {order}",
                key=key,
            )
            for table in DERIVED
        }

    async def until_waiting(self, backends: int) -> None:
        """Return once so many connections to this database wait for a lock."""

        async def so_many_wait() -> bool:
            return await self.rows(WAITING) >= [(backends,)]

        await until(so_many_wait, seconds=10)

    async def wipe(self, key: UUID) -> None:
        """Forget all that was derived of a subject."""
        for table in DERIVED:
            await self.rows(f"DELETE FROM {table} WHERE subject_key = :key", key=key)


async def impatient(connection: AsyncConnection) -> None:
    """Let the transaction fail where it would wait for a lock longer than two seconds."""
    await connection.execute(text("SET LOCAL lock_timeout = '2s'"))
