"""Who is whose guardian, and until when."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, ForeignKey, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, aliased, mapped_column

from models.base import Base, among
from models.user import User, UserRole

LINKED_PEOPLE = {"childId", "studentId"}
Pair = tuple[str, str]
"""User ids of a guardian and a child."""


class Guardianship(Base):
    """One link: the child is its subject, the guardian the one who may look."""

    __tablename__ = "guardianships"

    subject_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    guardian_key: Mapped[UUID] = mapped_column(ForeignKey("users.subject_key", ondelete="CASCADE"), primary_key=True)
    linked_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


def in_force(child: type[User]) -> ColumnElement[bool]:
    """Whether a link with this child still counts at the transaction's time: one that expires now does not, nor one
    with somebody who becomes 18 now."""
    return and_(
        or_(Guardianship.expires_at.is_(None), Guardianship.expires_at > func.now()),
        or_(child.adult_at.is_(None), child.adult_at > func.now()),
    )


async def children_of(connection: AsyncConnection, guardian_ids: Sequence[str]) -> set[Pair]:
    """The pairs of these guardians and their children that are linked now."""
    guardian, child = aliased(User), aliased(User)
    rows = await connection.execute(
        select(guardian.user_id, child.user_id)
        .select_from(Guardianship)
        .join(guardian, guardian.subject_key == Guardianship.guardian_key)
        .join(child, child.subject_key == Guardianship.subject_key)
        .where(among(guardian.user_id, guardian_ids), in_force(child))
    )
    return {(guardian_id, child_id) for guardian_id, child_id in rows}


def names_people(payload: Mapping[str, Any]) -> bool:
    """Whether the payload names somebody who must be linked with the event's user."""
    return not LINKED_PEOPLE.isdisjoint(payload)


def stranger_in(
    payload: Mapping[str, Any], user_id: str | None, role: UserRole | None, children: Collection[Pair]
) -> str | None:
    """The field of the payload that names somebody of whom this user may not tell; None where there is none.

    A parent may name their own children alone, a learner themself; an admin may name anybody.
    """
    if role is UserRole.ADMIN:
        return None
    for field in payload.keys() & LINKED_PEOPLE:
        is_themself = payload[field] == user_id and role is UserRole.STUDENT
        if not (is_themself or (user_id, payload[field]) in children):
            return field
    return None
