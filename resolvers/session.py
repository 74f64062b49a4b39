"""Reading sessions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select

from models.session import UserSession
from models.viewer import visible_to
from resolvers.connection import Key, Order, Page, Slice, columns_of, needs_of, page_of_each, rows_by_key
from resolvers.reader import AnyRow
from resolvers.request import Fields, Request

BY_START = Order("sessions", (UserSession.started_at, UserSession.session_id))
KEY = (UserSession.subject_key, UserSession.started_at, UserSession.session_id)
ALWAYS = (*KEY, UserSession.ended_at, UserSession.open_until, UserSession.device_type)
OTHERS = (
    UserSession.page_views,
    UserSession.events,
    UserSession.is_bounce,
    UserSession.entry_path,
    UserSession.exit_path,
    UserSession.browser,
    UserSession.os,
)
NEEDED_BY = {each.key: {each.key} for each in OTHERS}


async def sessions(
    request: Request, subject_keys: Sequence[UUID], page: Page, fields: Fields | None = None
) -> dict[UUID, Slice]:
    """That page of each subject's sessions, newest first."""
    return await page_of_each(request, subject_keys, _with(needs_of(NEEDED_BY, fields)), page)


@lru_cache(maxsize=50)
def _with(needs: frozenset[str]) -> Select[Any]:
    return select(*columns_of(ALWAYS, OTHERS, needs))


async def sessions_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The sessions of these subjects, starts and ids; None where there is none that the viewer may see."""
    visible = _with(needs_of(NEEDED_BY, None)).where(visible_to(request.viewer, UserSession.subject_key))
    return await rows_by_key(request, visible, KEY, keys)
