"""Reading sessions."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select

from models.session import UserSession
from models.viewer import visible_to
from resolvers.connection import Key, Order, Page, Slice, page_of_each, rows_by_key
from resolvers.request import Request

BY_START = Order("sessions", (UserSession.started_at, UserSession.session_id))
KEY = (UserSession.subject_key, UserSession.started_at, UserSession.session_id)


async def sessions(request: Request, subject_keys: Sequence[UUID], page: Page) -> dict[UUID, Slice]:
    """That page of each subject's sessions, newest first."""
    return await page_of_each(request, subject_keys, select(UserSession.__table__), page)


async def sessions_by_key(request: Request, keys: Sequence[Key]) -> list[Row[Any] | None]:
    """The sessions of these subjects, starts and ids; None where there is none that the viewer may see."""
    visible = select(UserSession.__table__).where(visible_to(request.viewer, UserSession.subject_key))
    return await rows_by_key(request, visible, KEY, keys)
