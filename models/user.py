"""The people of the platform, and how they become known."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, among, unnest
from models.consent import is_consented
from models.risk import AssessmentDue
from models.tombstone import erased_among


class UserRole(StrEnum):
    """Who is kept: the contract's `UserRole`."""

    STUDENT = "STUDENT"
    PARENT = "PARENT"
    ADMIN = "ADMIN"


class User(Base):
    """One person. `subject_key` stands for them in every table; `user_id` is the platform's own id.

    `adult_at` is when they become 18, where their birth date is known.
    """

    __tablename__ = "users"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    display_name: Mapped[str | None]
    time_zone: Mapped[str]
    birth_date: Mapped[date | None]
    adult_at: Mapped[datetime | None]
    tracking_objected: Mapped[bool]
    known_since: Mapped[datetime]
    first_seen_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]


class Arrival(NamedTuple):
    """Somebody whose own token says who they are, and when it did."""

    user_id: str
    role: UserRole
    at: datetime


class Subject(NamedTuple):
    """Of whom events tell: the key in every table, the IANA zone their days are counted in, the kept role, and what
    says whether their events may be kept."""

    key: UUID
    time_zone: str
    role: UserRole
    birth_date: date | None
    objected: bool
    consented: bool


async def make_known(connection: AsyncConnection, arrivals: Iterable[Arrival]) -> None:
    """Keep whoever is not kept yet, in UTC until their zone is known; whoever is stays as they are, and whoever was
    erased stays so.

    Whoever is new is due to be assessed.
    """
    earliest = {person.user_id: person for person in sorted(arrivals, key=lambda person: person.at, reverse=True)}
    if not earliest:
        return
    asked = unnest([User.user_id], [(user_id,) for user_id in earliest])
    kept = select(User.user_id).where(User.user_id == asked.c.user_id)
    unknown = set(await connection.scalars(select(asked.c.user_id).where(~kept.exists())))
    unknown -= await erased_among(connection, unknown)
    if not unknown:
        return
    rows = unnest(
        [User.subject_key, User.user_id, User.role, User.known_since],
        [(uuid4(), *earliest[user_id]) for user_id in unknown],
    )
    # One order for everybody: two batches that bring the same people never wait for each other in a circle.
    new = await connection.execute(
        insert(User)
        .from_select(rows.c.keys(), select(rows).order_by(rows.c.user_id))
        .on_conflict_do_nothing(index_elements=[User.user_id])
        .returning(User.subject_key, User.known_since)
    )
    if due := new.all():
        rows = unnest([AssessmentDue.subject_key, AssessmentDue.due_at], due)
        await connection.execute(insert(AssessmentDue).from_select(rows.c.keys(), rows.select()))


async def subjects_of(connection: AsyncConnection, user_ids: Sequence[str]) -> dict[str, Subject]:
    """The subjects of those of the users who are known, by user id."""
    columns = User.subject_key, User.time_zone, User.role, User.birth_date, User.tracking_objected
    found = await connection.execute(
        select(User.user_id, *columns, is_consented(User.subject_key, User.birth_date).label("consented")).where(
            among(User.user_id, user_ids)
        )
    )
    return {
        row.user_id: Subject(
            row.subject_key, row.time_zone, UserRole(row.role), row.birth_date, row.tracking_objected, row.consented
        )
        for row in found
    }
