"""Erasing somebody: who may ask for it, and what became of it."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import among, secret_of
from models.erasure import Erasure
from models.text import is_storable
from models.tombstone import digest
from models.user import subjects_of
from models.viewer import Role
from resolvers.errors import NotFoundError
from resolvers.reader import AnyRow
from resolvers.request import Request
from resolvers.user import Refusal, user
from workers.erasure import begin

COLUMNS = (Erasure.erasure_id, Erasure.state, Erasure.requested_at, Erasure.finished_at, Erasure.receipt)
Asked = tuple[AnyRow | None, list[Refusal]]
"""The erasure, and why there is none."""


async def erase(request: Request, user_id: str) -> Asked:
    """Set the tombstone and begin to erase: oneself where of age, a parent their child, an admin or a SERVICE anybody.

    Asked again by whoever asked first, the same erasure is told of.
    """
    request.require_token()
    may_ask = request.viewer.role is Role.SERVICE or await _is_visible(request, user_id)
    async with request.databases.writing() as connection:
        if user_id == request.viewer.user_id and may_ask and not await _is_of_age(connection, request):
            return None, [Refusal(["userId"], "FORBIDDEN", "at their age a parent must ask for it")]
        by = _asker(connection, request)
        if may_ask and is_storable(user_id):
            await begin(connection, user_id, by, request.now)
        theirs = digest(secret_of(connection), user_id)
        asked = select(*COLUMNS).where(Erasure.tombstone == theirs, Erasure.asked_by == by)
        found = (await connection.execute(asked.order_by(Erasure.requested_at.desc()).limit(1))).first()
    request.standings.forget([user_id])
    return found, [] if found else [Refusal(["userId"], "NOT_FOUND", "userId is no user that is kept")]


async def _is_visible(request: Request, user_id: str) -> bool:
    try:
        await user(request, user_id)
    except NotFoundError:
        return False
    return True


async def _is_of_age(connection: AsyncConnection, request: Request) -> bool:
    found = await subjects_of(connection, [request.viewer.user_id or ""])
    return not any(request.rules.consent.needs_consent(subject, request.now) for subject in found.values())


async def erasure(request: Request, erasure_id: UUID) -> AnyRow:
    """An erasure, for who asked for it and for admins; raises NotFoundError for everybody else, and where there is
    none."""
    request.require_token()
    (found,) = await erasures_by_key(request, [(erasure_id,)])
    if found is None:
        raise NotFoundError("there is none that has this id")
    return found


async def erasures_by_key(request: Request, keys: Sequence[tuple[UUID]]) -> list[AnyRow | None]:
    """The erasures of these ids; None where there is none that the viewer may see."""
    if request.viewer.user_id is None:
        return [None for _ in keys]
    async with request.databases.writing() as connection:
        wanted = select(*COLUMNS).where(among(Erasure.erasure_id, [erasure_id for (erasure_id,) in keys]))
        if request.viewer.role is not Role.ADMIN:
            wanted = wanted.where(Erasure.asked_by == _asker(connection, request))
        found = {row.erasure_id: row for row in await connection.execute(wanted)}
    return [found.get(erasure_id) for (erasure_id,) in keys]


def _asker(connection: AsyncConnection, request: Request) -> bytes:
    """What stands for the viewer: whoever was erased themself has no account any more, and may read the receipt by
    their token."""
    return digest(secret_of(connection), request.viewer.role, request.viewer.user_id or "")
