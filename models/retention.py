"""How long what is kept tells of somebody: weeks that are anonymised, then deleted, and runs that saw to it."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, among, unnest
from models.device import GOING, Device
from models.engagement import DailyActivity
from models.error import ErrorGroup
from models.horizon import horizon
from models.journey import LearningJourneyEvent
from models.rollup import DirtySpan
from models.user import User

RUN = func.hashtextextended("retention run", 0)
DEVICES_AT_ONCE = 1000


class RetentionRun(Base):
    """One run over everything that was due `as_of` a time; `finished_at` is null while it lasts, and where it was
    broken off."""

    __tablename__ = "retention_runs"

    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    finished_at: Mapped[datetime | None]
    as_of: Mapped[datetime]
    anonymized: Mapped[int]
    deleted: Mapped[int]


class SealedSession(Base):
    """Where a session ended that opened in a week that is anonymised and reaches into one that is not. It is gone as
    soon as that week is anonymised, too."""

    __tablename__ = "sealed_sessions"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    device_id: Mapped[UUID | None] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime]


class PartitionRewrite(Base):
    """A partition, by its table and Monday, from which rows were erased that its file still holds. Appended only."""

    __tablename__ = "partition_rewrites"

    parent: Mapped[str] = mapped_column(primary_key=True)
    week: Mapped[date] = mapped_column(primary_key=True)


class Policy(NamedTuple):
    """For how many days events tell of somebody, and after how many they are deleted."""

    anonymize_after_days: int
    delete_after_days: int


class Step(StrEnum):
    """What is done to a partition."""

    DELETE = "delete"
    ANONYMIZE = "anonymize"
    REWRITE = "rewrite"


FUNCTIONS = {
    Step.DELETE: "delete_old_activity_events",
    Step.ANONYMIZE: "anonymize_old_activity_events",
    Step.REWRITE: "rewrite_erased_partitions",
}


class Part(NamedTuple):
    """A partition, and how many rows it held before it was written anew or dropped."""

    table: str
    name: str
    rows: int


async def due(connection: AsyncConnection, as_of: datetime, policy: Policy) -> list[tuple[Step, Part]]:
    """What has to be done to which partitions, the oldest first."""
    found = func.partitions_due(*(horizon(as_of, days) for days in policy)).table_valued(
        "step", "parent", "part", "week", name="due"
    )
    rows = await connection.execute(select(found, func.rows_of_week(found.c.parent, found.c.week).label("number")))
    return [(Step(row.step), Part(row.parent, row.part, row.number)) for row in rows]


async def take_step(connection: AsyncConnection, step: Step, as_of: datetime, policy: Policy) -> Part | None:
    """Do what the step says to the oldest partition that it is due for, and count it in the run; None where there is
    none. To be committed at once: until then nobody else gets at the table.

    Everybody goes on reading and writing meanwhile, but for the moment in which the partition is exchanged. Two at once
    wait for each other.
    """
    days = policy.delete_after_days if step is Step.DELETE else policy.anonymize_after_days
    done = getattr(func, FUNCTIONS[step])(as_of, days).table_valued("parent", "part", "number", name="done")
    row = (await connection.execute(select(done))).one_or_none()
    return Part(*row) if row else None


async def mark_rewrite(connection: AsyncConnection, table: type[Base], times: Iterable[datetime | date]) -> None:
    """Ask the next run to write anew the table's partitions that hold these times or UTC days, so that their files are
    without the rows that the connection's transaction deletes, or as they were before it changes them."""
    days = {at.astimezone(UTC).date() if isinstance(at, datetime) else at for at in times}
    weeks = sorted({day - timedelta(days=day.weekday()) for day in days})
    rows = unnest([PartitionRewrite.parent, PartitionRewrite.week], [(table.__tablename__, week) for week in weeks])
    await connection.execute(insert(PartitionRewrite).from_select(rows.c.keys(), select(rows)))


LAST_RUN = select(RetentionRun.__table__).order_by(RetentionRun.started_at.desc()).limit(1)
"""The run that began last."""


async def begin_run(connection: AsyncConnection, now: datetime, as_of: datetime) -> None:
    """Keep that a run began over what was due at that time."""
    await connection.execute(insert(RetentionRun).values(started_at=now, as_of=as_of, anonymized=0, deleted=0))


async def count_deleted(connection: AsyncConnection, started_at: datetime, rows: int) -> None:
    """Add rows to those that the run deleted. A step counts its own."""
    run = RetentionRun
    await connection.execute(update(run).where(run.started_at == started_at).values(deleted=run.deleted + rows))


async def finish_run(connection: AsyncConnection, started_at: datetime, now: datetime) -> None:
    """Keep that the run came to its end."""
    await connection.execute(update(RetentionRun).where(RetentionRun.started_at == started_at).values(finished_at=now))


async def has_run(connection: AsyncConnection, since: datetime) -> bool:
    """Whether a run has come to its end over what was due as of that time, or later."""
    ended = exists().where(RetentionRun.as_of >= since, RetentionRun.finished_at.is_not(None))
    return await connection.scalar(select(ended)) or False


async def forget_marks(connection: AsyncConnection, sealed_before: datetime) -> None:
    """Forget which partitions were to be written anew, where they are anonymised or gone."""
    await connection.execute(delete(PartitionRewrite).where(PartitionRewrite.week < sealed_before.date()))


async def forget_records(connection: AsyncConnection, last_seen_before: datetime) -> dict[str, int]:
    """Delete the records of people who were last seen, or if never became known, before that; says how many rows of
    which table."""
    seen = func.coalesce(User.last_seen_at, User.known_since)
    return {
        table.__tablename__: await _delete(
            connection, table, table.subject_key == User.subject_key, seen < last_seen_before
        )
        for table in (DailyActivity, LearningJourneyEvent)
    }


async def forget_days_of_devices(connection: AsyncConnection, sealed_before: datetime) -> dict[str, int]:
    """Delete the sealed days and milestones of devices that nobody signed in on: they are no learner's record."""
    whose = {table: table.subject_key == Device.subject_key for table in (DailyActivity, LearningJourneyEvent)}
    day, at = DailyActivity.day < sealed_before.date(), LearningJourneyEvent.occurred_at < sealed_before
    return {
        table.__tablename__: await _delete(connection, table, whose[table], old)
        for table, old in ((DailyActivity, day), (LearningJourneyEvent, at))
    }


async def idle_devices(connection: AsyncConnection, after: UUID | None) -> list[UUID]:
    """The next devices of which nothing is left, by id."""
    idle = select(Device.device_id).where(_nothing_left()).order_by(Device.device_id).limit(DEVICES_AT_ONCE)
    return list(await connection.scalars(idle.where(Device.device_id > after) if after else idle))


async def forget_devices(connection: AsyncConnection, device_ids: Iterable[UUID]) -> int:
    """Delete those of the devices of which still nothing is left, and say how many. Whoever stores an event of any
    device waits meanwhile, so that none loses its subject."""
    await connection.execute(select(func.pg_advisory_xact_lock(GOING)))
    return await _delete(connection, Device, among(Device.device_id, device_ids), _nothing_left())


async def forget_error_groups(connection: AsyncConnection, last_seen_before: datetime) -> int:
    """Delete groups of which no error is left, and say how many."""
    return await _delete(connection, ErrorGroup, ErrorGroup.last_seen_at < last_seen_before)


def _nothing_left() -> ColumnElement[bool]:
    kept = (exists().where(table.subject_key == Device.subject_key) for table in (DailyActivity, DirtySpan))
    return and_(*(~each for each in kept))


async def _delete(connection: AsyncConnection, table: type[Base], *conditions: ColumnElement[bool]) -> int:
    gone = delete(table).where(*conditions).returning(literal(1)).cte("gone")
    return await connection.scalar(select(func.count()).select_from(gone)) or 0


async def oldest_identifiable(connection: AsyncConnection, sealed_before: datetime) -> datetime | None:
    """When the oldest row lies that still names somebody; None where none does."""
    return await connection.scalar(select(func.oldest_identifiable(sealed_before)))


def oldest_promised(now: datetime, policy: Policy) -> datetime:
    """No row that names somebody lies before this, unless the promise is broken by more than a day."""
    return now - timedelta(days=policy.anonymize_after_days + 1)
