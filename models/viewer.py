"""Who is asking, and whose rows they may see: the only such rule in the code, and the same one that migrations give to
the database."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

from sqlalchemy import ColumnElement, Text, bindparam, false, select, true, union_all
from sqlalchemy.orm import InstrumentedAttribute, aliased

from models.guardianship import Guardianship, in_force
from models.user import User


class Role(StrEnum):
    """Who asks: the contract's `Role`."""

    ANONYMOUS = "ANONYMOUS"
    STUDENT = "STUDENT"
    PARENT = "PARENT"
    ADMIN = "ADMIN"
    SERVICE = "SERVICE"


@dataclass(frozen=True)
class Viewer:
    """Whoever a request comes from; `user_id` is None for one without a token."""

    role: Role
    user_id: str | None = None


ANONYMOUS = Viewer(Role.ANONYMOUS)
VIEWER_ID = "viewer_id"
"""The parameter of a statement that is the viewer's user id."""


def visible_to(viewer: Viewer, subject_key: InstrumentedAttribute[UUID] | ColumnElement[UUID]) -> ColumnElement[bool]:
    """Whether the viewer may see the rows of this subject: an admin everybody's, a parent their own and their
    children's until those are 18, a learner their own, nobody else any. The statement's parameter VIEWER_ID must say
    who the viewer is."""
    return _visible_to(viewer.role, subject_key)


# Made once: to make it takes longer than to answer it.
@lru_cache(maxsize=100)
def _visible_to(role: Role, subject_key: InstrumentedAttribute[UUID] | ColumnElement[UUID]) -> ColumnElement[bool]:
    if role is Role.ADMIN:
        return true()
    if role not in (Role.STUDENT, Role.PARENT):
        return false()
    viewer_id = bindparam(VIEWER_ID, type_=Text())
    oneself, guardian, child = aliased(User), aliased(User), aliased(User)
    themself = select(oneself.subject_key).where(oneself.user_id == viewer_id)
    if role is Role.STUDENT:
        return subject_key.in_(themself)
    children = (
        select(Guardianship.subject_key)
        .join(guardian, guardian.subject_key == Guardianship.guardian_key)
        .join(child, child.subject_key == Guardianship.subject_key)
        .where(guardian.user_id == viewer_id, in_force(child))
    )
    return subject_key.in_(union_all(themself, children))
