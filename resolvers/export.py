"""Archives of all that is kept of somebody: who may ask for one, and who gets it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Select, Text, bindparam, delete, insert, select
from sqlalchemy.orm import aliased

from models.access_log import Access
from models.base import among
from models.erasure import TaskState
from models.export import DataExport, DataExportPart
from models.user import User
from models.viewer import VIEWER_ID, visible_to
from resolvers.errors import ForbiddenError, NotFoundError, UnauthenticatedError
from resolvers.reader import AnyRow, Reader
from resolvers.request import ASKERS, Request
from resolvers.user import Refusal, user

MOST_OFFERED = 5
READ = frozenset(["DataExport.downloadUrl"])
"""What whoever fetches an archive of somebody else has read, as the access log says it."""
UNDER_WAY = (TaskState.WAITING, TaskState.RUNNING)
Asked = tuple[AnyRow | None, list[Refusal]]
"""The export, and why there is none."""


class DownloadError(Exception):
    """There is no such archive, or none for the viewer, or it is not ready, or offered no more."""


async def export(request: Request, user_id: str) -> Asked:
    """Ask for an archive of somebody whom the viewer may see; while one is under way, it is that one.

    Of those that are ready the viewer keeps the last few of each person.
    """
    request.require(*ASKERS)
    try:
        whose = (await user(request, user_id)).subject_key
        asker = (await user(request, request.viewer.user_id or "")).subject_key
    except NotFoundError:
        return None, [Refusal(["userId"], "NOT_FOUND", "userId is no user that is kept")]
    theirs = DataExport.subject_key == whose, DataExport.asked_by_key == asker
    async with request.databases.writing() as connection:
        # Locked, so that two who ask at once ask for one; somebody erased meanwhile is there no more.
        there = select(User.subject_key).where(User.subject_key == whose).with_for_update(key_share=True)
        if await connection.scalar(there) is None:
            return None, [Refusal(["userId"], "NOT_FOUND", "userId is no user that is kept")]
        earlier = select(DataExport.__table__).where(*theirs).order_by(DataExport.requested_at.desc())
        rows = (await connection.execute(earlier)).all()
        pending = next((row for row in rows if row.state in UNDER_WAY), None)
        if pending:
            return pending, []
        gone = [row.export_id for row in rows[MOST_OFFERED - 1 :]]
        await connection.execute(delete(DataExport).where(*theirs, among(DataExport.export_id, gone)))
        made = insert(DataExport).values(
            subject_key=whose,
            export_id=uuid4(),
            asked_by_key=asker,
            asked_as=request.viewer.role,
            state=TaskState.WAITING,
            requested_at=request.now,
        )
        return (await connection.execute(made.returning(*DataExport.__table__.columns))).one(), []


async def data_export(request: Request, export_id: UUID) -> AnyRow:
    """An export, for who asked for it; raises NotFoundError for everybody else, and where there is none."""
    request.require(*ASKERS)
    (found,) = await exports_by_key(request, [(export_id,)])
    if found is None:
        raise NotFoundError("there is none that has this id")
    return found


async def exports_by_key(request: Request, keys: Sequence[tuple[UUID]]) -> list[AnyRow | None]:
    """The exports of these ids; None where there is none that the viewer asked for, of somebody they still may see."""
    wanted = _theirs(request).where(among(DataExport.export_id, [export_id for (export_id,) in keys]))
    found = {row.export_id: row for row in await request.reader.rows(wanted)}
    return [found.get(export_id) for (export_id,) in keys]


def _theirs(request: Request) -> Select[Any]:
    asker = aliased(User)
    return (
        select(DataExport.__table__)
        .join(asker, asker.subject_key == DataExport.asked_by_key)
        .where(asker.user_id == bindparam(VIEWER_ID, type_=Text()), visible_to(request.viewer, DataExport.subject_key))
    )


async def download(request: Request, export_id: UUID) -> tuple[int, AsyncIterator[bytes]]:
    """The archive's size and its bytes, part by part; raises DownloadError, and UnavailableError where that cannot be
    told."""
    try:
        row = await data_export(request, export_id)
    except (UnauthenticatedError, ForbiddenError, NotFoundError) as error:
        raise DownloadError from error
    if row.state != TaskState.DONE or row.expires_at <= request.now:
        raise DownloadError
    await request.close()
    viewer = request.viewer
    request.access_log.note(Access(row.subject_key, viewer.user_id or "", viewer.role, request.now, READ))
    return row.size, _parts(request, row)


async def _parts(request: Request, row: AnyRow) -> AsyncIterator[bytes]:
    """Each looked up by itself: whoever takes them slowly holds no connection, and has all the time. Raises
    DownloadError where the archive is offered no more, or was made anew meanwhile."""
    this = (
        DataExport.export_id == row.export_id,
        DataExport.state == TaskState.DONE,
        DataExport.expires_at == row.expires_at,
    )
    parts = select(DataExportPart.content).join(
        DataExport,
        (DataExport.subject_key == DataExportPart.subject_key) & (DataExport.export_id == DataExportPart.export_id),
    )
    left, number = row.size, 0
    while left > 0:
        reader = Reader(request.databases, request.viewer, request.rules.seconds_to_answer)
        try:
            found = await reader.rows(parts.where(*this, DataExportPart.number == number))
        finally:
            await reader.close()
        if not found:
            raise DownloadError
        yield found[0].content
        left, number = left - len(found[0].content), number + 1
