"""Guardians: who may look at whom, made and ended by a SERVICE."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, Text, Uuid, column, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import among
from models.guardianship import Guardianship
from models.text import is_storable
from models.user import User, UserRole
from models.viewer import Role
from resolvers.connection import SUBJECT_KEYS
from resolvers.prepared import Prepared
from resolvers.reader import AnyRow
from resolvers.request import Request
from resolvers.user import Refusal

GUARDIANS = Prepared(
    select(
        func.guardians_of(SUBJECT_KEYS).table_valued(
            column("subject_key", Uuid),
            column("user_id", Text),
            column("role", Text),
            column("display_name", Text),
            column("until", DateTime(timezone=True)),
        )
    )
)
Link = tuple[AnyRow | None, AnyRow | None, list[Refusal]]
"""Guardian and child, where they are kept, and why nothing was done."""


async def guardians(request: Request, subject_keys: Sequence[UUID], _: None) -> dict[UUID, list[AnyRow]]:
    """The guardians of children whom the viewer may see, by user id, and until when they are; of others none."""
    found: dict[UUID, list[AnyRow]] = {key: [] for key in subject_keys}
    for row in await request.reader.rows(GUARDIANS, subject_keys=list(subject_keys)):
        found[row.subject_key].append(row)
    return found


async def link(request: Request, guardian_id: str, child_id: str, expires_at: datetime | None) -> Link:
    """Let the guardian see the child, until the link expires; a link that is there gets the new expiry."""
    request.require(Role.SERVICE, Role.ADMIN)
    async with request.databases.writing() as connection:
        guardian, child, refusals = await _pair(connection, guardian_id, child_id)
        if guardian and guardian.role != UserRole.PARENT:
            refusals.append(Refusal(["guardianId"], "INVALID", "guardianId must be a user with role PARENT"))
        if child and child.role != UserRole.STUDENT:
            refusals.append(Refusal(["childId"], "INVALID", "childId must be a user with role STUDENT"))
        if child and child.adult_at and child.adult_at <= request.now:
            refusals.append(Refusal(["childId"], "INVALID", "childId is of age: nobody is their guardian any more"))
        if expires_at and expires_at <= request.now:
            refusals.append(Refusal(["expiresAt"], "INVALID", "expiresAt must lie in the future"))
        if guardian and child and not refusals:
            statement = insert(Guardianship).values(
                subject_key=child.subject_key,
                guardian_key=guardian.subject_key,
                linked_at=request.now,
                expires_at=expires_at,
            )
            changed = await connection.scalar(
                statement.on_conflict_do_update(
                    index_elements=[Guardianship.subject_key, Guardianship.guardian_key],
                    set_={"expires_at": statement.excluded.expires_at},
                    where=Guardianship.expires_at.is_distinct_from(statement.excluded.expires_at),
                ).returning(Guardianship.subject_key)
            )
            if not changed:
                refusals.append(Refusal(["guardianId"], "ALREADY_DONE", "the two are linked so already"))
    return guardian, child, refusals


async def unlink(request: Request, guardian_id: str, child_id: str) -> Link:
    """End what the guardian sees of the child, from the next request on."""
    request.require(Role.SERVICE, Role.ADMIN)
    async with request.databases.writing() as connection:
        guardian, child, refusals = await _pair(connection, guardian_id, child_id)
        if guardian and child:
            ended = await connection.scalar(
                delete(Guardianship)
                .where(
                    Guardianship.subject_key == child.subject_key,
                    Guardianship.guardian_key == guardian.subject_key,
                )
                .returning(Guardianship.subject_key)
            )
            if not ended:
                refusals.append(Refusal(["guardianId"], "ALREADY_DONE", "the two are not linked"))
    return guardian, child, refusals


async def _pair(
    connection: AsyncConnection, guardian_id: str, child_id: str
) -> tuple[AnyRow | None, AnyRow | None, list[Refusal]]:
    wanted = [user_id for user_id in (guardian_id, child_id) if is_storable(user_id)]
    rows = await connection.execute(select(User.__table__).where(among(User.user_id, wanted)))
    found = {row.user_id: row for row in rows}
    refusals = [
        Refusal([field], "NOT_FOUND", f"{field} is no user that is kept")
        for field, user_id in (("guardianId", guardian_id), ("childId", child_id))
        if user_id not in found
    ]
    return found.get(guardian_id), found.get(child_id), refusals
