"""Erasures: what was asked, how far it is, and what remains of it: a receipt that names nobody."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, among, secret_of
from models.tombstone import digest


class TaskState(StrEnum):
    """How far something is that takes its time: the contract's `TaskState`."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


class Erasure(Base):
    """One erasure. `asked_by` stands for who asked and `tombstone` for who is erased, both as HMACs; the subject key
    and the user id are there until it is done, and then gone.

    `steps` are those that are done for good, `deleted` has the rows deleted so far by table, and `found` the rows
    that were looked at and name the person still. `written_anew_at` is when the tables that have no weeks were
    written anew since.
    """

    __tablename__ = "erasures"

    erasure_id: Mapped[UUID] = mapped_column(primary_key=True)
    asked_by: Mapped[bytes]
    tombstone: Mapped[bytes]
    state: Mapped[str]
    requested_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    subject_key: Mapped[UUID | None]
    user_id: Mapped[str | None]
    steps: Mapped[list[str]] = mapped_column(ARRAY(Text))
    rounds: Mapped[int]
    deleted: Mapped[dict[str, Any]]
    found: Mapped[dict[str, Any]]
    receipt: Mapped[dict[str, Any] | None]
    written_anew_at: Mapped[datetime | None]


async def being_erased(connection: AsyncConnection, user_ids: Collection[str]) -> set[str]:
    """Those of the people whose erasure is under way."""
    secret = secret_of(connection)
    by_digest = {digest(secret, user_id): user_id for user_id in user_ids}
    under_way = select(Erasure.tombstone).where(Erasure.finished_at.is_(None), among(Erasure.tombstone, by_digest))
    return {by_digest[each] for each in await connection.scalars(under_way)}
