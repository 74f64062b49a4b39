"""The ledger: what became of every event that was accepted.

At rest accepted = stored + duplicate + withdrawn + waiting + set aside. What waits is in the queue; all else is
counted here, in the transaction that does it.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, among, unnest

SLOTS = 16
"""Rows among which connections spread what they count, so that they seldom wait for each other."""


class IntakeCount(Base):
    """What some of the connections have counted so far; the sum over all rows is the figure."""

    __tablename__ = "intake_counts"

    slot: Mapped[int] = mapped_column(primary_key=True)
    accepted: Mapped[int]
    stored: Mapped[int]
    duplicate: Mapped[int]
    withdrawn: Mapped[int]


class StoredBatch(Base):
    """A batch that is stored and counted, for as long as the queue may hand it out once more."""

    __tablename__ = "stored_batches"

    batch_id: Mapped[str] = mapped_column(primary_key=True)


class SetAsideEvent(Base):
    """An event that was accepted and cannot be stored, as it came from the queue, and why."""

    __tablename__ = "set_aside_events"

    set_aside_id: Mapped[int] = mapped_column(primary_key=True)
    set_aside_at: Mapped[datetime]
    reason: Mapped[str]
    event: Mapped[bytes]


class Counts(NamedTuple):
    """Numbers of events. `accepted` has those alone that never were in the queue, which counts its own."""

    accepted: int = 0
    stored: int = 0
    duplicate: int = 0
    withdrawn: int = 0


async def claim_batches(connection: AsyncConnection, batch_ids: Collection[str]) -> set[str]:
    """Which of the batches are not stored yet; from now on, where the transaction is committed, they are.

    Of two that claim one at once, the second waits for the first.
    """
    # One order for everybody: two that claim the same never wait for each other in a circle.
    rows = unnest([StoredBatch.batch_id], [(batch_id,) for batch_id in sorted(batch_ids)])
    claimed = await connection.scalars(
        insert(StoredBatch)
        .from_select(rows.c.keys(), select(rows))
        .on_conflict_do_nothing()
        .returning(StoredBatch.batch_id)
    )
    return set(claimed)


async def stored_batches(connection: AsyncConnection, after: str = "", limit: int | None = None) -> list[str]:
    """Batches that are stored, of which the queue may still tell: by id, those that come next after this one."""
    next_ones = select(StoredBatch.batch_id).where(StoredBatch.batch_id > after).order_by(StoredBatch.batch_id)
    return list(await connection.scalars(next_ones.limit(limit)))


async def stored_among(connection: AsyncConnection, batch_ids: Sequence[str]) -> set[str]:
    """Those of the batches that are stored."""
    asked = unnest([StoredBatch.batch_id], [[batch_id] for batch_id in batch_ids])
    return set(
        await connection.scalars(select(StoredBatch.batch_id).join(asked, asked.c.batch_id == StoredBatch.batch_id))
    )


async def forget_batches(connection: AsyncConnection, batch_ids: Sequence[str]) -> None:
    """Forget batches that the queue has forgotten."""
    await connection.execute(delete(StoredBatch).where(among(StoredBatch.batch_id, batch_ids)))


async def add_counts(connection: AsyncConnection, counts: Counts) -> None:
    """Add to the ledger. To be called last in a transaction: until its end others of the same slot wait."""
    statement = insert(IntakeCount).from_select(
        ["slot", *Counts._fields],
        select(func.pg_backend_pid() % SLOTS, *(literal(each, IntakeCount.accepted.type) for each in counts)),
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[IntakeCount.slot],
            set_={name: getattr(IntakeCount, name) + statement.excluded[name] for name in Counts._fields},
        )
    )


async def counts(connection: AsyncConnection) -> Counts:
    """The ledger's sums."""
    sums = (func.coalesce(func.sum(getattr(IntakeCount, name)), 0) for name in Counts._fields)
    return Counts(*(int(each) for each in (await connection.execute(select(*sums))).one()))


async def set_aside(connection: AsyncConnection, events: Sequence[tuple[str, bytes]]) -> None:
    """Keep events that cannot be stored, each with the reason before it."""
    rows = unnest([SetAsideEvent.reason, SetAsideEvent.event], events)
    await connection.execute(insert(SetAsideEvent).from_select(rows.c.keys(), select(rows)))


async def number_set_aside(connection: AsyncConnection) -> int:
    """How many events are set aside."""
    return await connection.scalar(select(func.count(SetAsideEvent.set_aside_id))) or 0


async def list_set_aside(connection: AsyncConnection) -> list[tuple[int, datetime, str]]:
    """The id of each event that is set aside, since when, and why; the oldest first."""
    columns = SetAsideEvent.set_aside_id, SetAsideEvent.set_aside_at, SetAsideEvent.reason
    rows = await connection.execute(select(*columns).order_by(SetAsideEvent.set_aside_id))
    return [(row.set_aside_id, row.set_aside_at, row.reason) for row in rows]


async def take_set_aside(connection: AsyncConnection, ids: Sequence[int]) -> list[bytes]:
    """Take these events out of what is set aside; gives those that were there as they were kept, the oldest first."""
    statement = (
        delete(SetAsideEvent)
        .where(among(SetAsideEvent.set_aside_id, ids))
        .returning(SetAsideEvent.set_aside_id, SetAsideEvent.event)
    )
    return [row.event for row in sorted(await connection.execute(statement), key=lambda row: row.set_aside_id)]
