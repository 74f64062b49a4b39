"""Archives of what is kept of somebody: handed over to who asked for them, and written by `questlog export`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from models.partition import see_one_moment
from models.text import is_storable
from models.user import User
from models.viewer import Role
from questlog import private
from questlog.progress import progress
from questlog.supervisor import StartError
from resolvers.export import DownloadError, download
from resolvers.request import Request
from workers.export import TooLargeError, visible_ids, write_archive

NO_STORE = {"cache-control": "no-store"}


async def hand_over(request: Request, export_id: str) -> Response:
    """The archive as a file, for who asked for it; 404 for everybody else. Raises UnavailableError."""
    try:
        size, parts = await download(request, UUID(export_id))
    except (DownloadError, ValueError):
        return PlainTextResponse("there is no such export", 404, NO_STORE)

    return StreamingResponse(
        parts,
        headers=NO_STORE | {"content-length": str(size), "content-disposition": 'attachment; filename="export.zip"'},
        media_type="application/zip",
    )


async def write(engine: AsyncEngine, user_id: str, folder: Path) -> None:
    """Write the archive of a user into the folder, readable by its owner only, and print where it is.

    Raises StartError where there is no such user, or no such folder.
    """
    now = datetime.now(UTC)
    async with engine.connect() as connection:
        await see_one_moment(connection)
        person: Any = None
        if is_storable(user_id):
            person = (await connection.execute(select(User.__table__).where(User.user_id == user_id))).first()
        if person is None:
            raise StartError(f"there is no user {user_id!r}")
        path = folder / f"questlog-export-{person.subject_key}-{now:%Y%m%dT%H%M%SZ}.zip"
        visible = await visible_ids(connection, user_id, Role(person.role))
        try:
            with private.create(path) as file, progress("Writing", None):
                try:
                    await write_archive(connection, person.subject_key, visible, file, now)
                except BaseException:  # half of it is nobody's archive, and somebody's data
                    path.unlink()
                    raise
        except TooLargeError:
            raise StartError(f"there is more than an archive may hold of {user_id!r}") from None
        except OSError as error:
            raise StartError(f"{path} cannot be written: {error.strerror}") from None
    print(path)
