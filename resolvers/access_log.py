"""Who read whose data, for those whom it is about."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, Uuid, bindparam, column, func, select

from models.access_log import AccessLogEntry
from models.viewer import visible_to
from resolvers.connection import Key, Order, Page, Slice, page_of_each, rows_by_key
from resolvers.reader import AnyRow
from resolvers.request import Request

BY_TIME = Order("accessLog", (AccessLogEntry.at, AccessLogEntry.access_id))
KEY = (AccessLogEntry.subject_key, AccessLogEntry.access_id)
OTHERS = (AccessLogEntry.viewer_role, AccessLogEntry.at, AccessLogEntry.fields)
ENTRIES: Select[Any] = select(*KEY).add_columns(*OTHERS)


async def access_log(request: Request, subject_keys: Sequence[UUID], page: Page) -> dict[UUID, Slice]:
    """That page of who read each subject's data, newest first."""
    return await page_of_each(request, subject_keys, ENTRIES, page)


async def accesses_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The entries of these subjects and ids; None where there is none that the viewer may see."""
    visible = ENTRIES.where(visible_to(request.viewer, AccessLogEntry.subject_key))
    return await rows_by_key(request, visible, KEY, keys)


async def viewers(
    request: Request, keys: Sequence[tuple[UUID, UUID]], _: None
) -> dict[tuple[UUID, UUID], AnyRow | None]:
    """Who it was, by subject and entry, where the viewer may see the entry; None whose account is gone."""
    subjects, accesses = ([*dict.fromkeys(part)] for part in zip(*keys, strict=True))
    they = func.viewers_of(
        bindparam("subjects", subjects, type_=ARRAY(Uuid)), bindparam("accesses", accesses, type_=ARRAY(Uuid))
    ).table_valued(
        column("access_id", Uuid), column("user_id", Text), column("role", Text), column("display_name", Text)
    )
    found = {row.access_id: row for row in await request.reader.rows(select(they))}
    return {key: found.get(key[1]) for key in keys}
