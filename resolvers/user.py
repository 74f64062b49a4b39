"""People: who is kept, whom the viewer may see, and what a SERVICE tells of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Text, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from models.age import adult_at
from models.base import among, unnest
from models.erasure import being_erased
from models.horizon import horizon
from models.rollup import mark_dirty
from models.storing import begin_storing
from models.text import is_storable
from models.tombstone import lift_tombstones
from models.user import Arrival, User, UserRole, make_known
from models.viewer import VIEWER_ID, Role, Viewer, visible_to
from resolvers.connection import Key, Order, Page, Slice, rows_by_key
from resolvers.errors import BadUserInputError, NotFoundError
from resolvers.prepared import Prepared
from resolvers.reader import AnyRow
from resolvers.request import ASKERS, Request

BY_USER_ID = Order("users", (User.user_id,), newest_first=False)
LONGEST_NAME = 200
LONGEST_ID = 200
MOST_UPSERTS = 1000
EARLIEST_BIRTH = date(1900, 1, 1)
TIME_ZONES = set((files("tzdata") / "zones").read_text().split()) - {"Factory"}
SENT = ("role", "display_name", "time_zone", "birth_date", "adult_at")
# The same instant bears dates up to two days apart around the world.
ZONES_APART = timedelta(days=2)


def _visible_users(viewer: Viewer) -> Select[Any]:
    return select(User.__table__).where(visible_to(viewer, User.subject_key))


async def user(request: Request, user_id: str) -> AnyRow:
    """The user, where the viewer may see them; raises NotFoundError where there is no such user or they may not."""
    rows = []
    if is_storable(user_id):
        rows = await request.reader.rows(_visible_users(request.viewer).where(User.user_id == user_id))
    if not rows:
        raise NotFoundError("there is no such user")
    return rows[0]


async def users_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The users of these ids; None where there is none that the viewer may see."""
    return await rows_by_key(request, _visible_users(request.viewer), [User.user_id], keys)


async def users(request: Request, page: Page, role: UserRole | None) -> Slice:
    """A page of the users whom the viewer may see, by user id."""
    request.require(*ASKERS)
    statement = _visible_users(request.viewer)
    if role:
        statement = statement.where(User.role == role)
    return page.slice(await request.reader.rows(page.of(statement), **page.parameters()))


async def themself_and_children(request: Request) -> tuple[AnyRow | None, list[AnyRow]]:
    """The viewer's own row, and a parent's children by user id."""
    if request.viewer.role not in ASKERS:
        return None, []
    visible = visible_to(request.viewer, User.subject_key)
    rows = await request.reader.rows(_themself_and_children(visible, request.viewer.role))
    themself = next((row for row in rows if row.user_id == request.viewer.user_id), None)
    return themself, [row for row in rows if row is not themself]


@cache
def _themself_and_children(visible: ColumnElement[bool], role: Role) -> Prepared:
    statement = select(User.__table__).where(visible).order_by(User.user_id)
    if role is Role.ADMIN:
        statement = statement.where(User.user_id == bindparam(VIEWER_ID, type_=Text()))
    return Prepared(statement)


KEEP: Final = object()
"""For a field that was not sent: what is kept stays."""


@dataclass(frozen=True)
class UserDraft:
    """What a SERVICE sends of a user: None clears, KEEP keeps."""

    user_id: str
    role: UserRole
    display_name: str | object | None = KEEP
    time_zone: str | object | None = KEEP
    birth_date: date | object | None = KEEP

    def upon(self, earlier: "UserDraft") -> "UserDraft":
        """The same with what it keeps taken from an earlier one."""
        return replace(earlier, **{name: sent for name, sent in vars(self).items() if sent is not KEEP})


@dataclass(frozen=True)
class Refusal:
    """Why a part of what was sent is not taken."""

    field: list[str]
    code: str
    message: str


async def upsert(request: Request, drafts: Sequence[UserDraft]) -> tuple[list[dict[str, Any]], list[Refusal]]:
    """Keep the users as they are sent; gives the rows of those who were taken, and why others were not.

    Where a zone changes, all days that are not sealed are derived again; where a role does, the risk. A user sent
    twice is as if they were sent one after the other. Whoever was erased is known from now on as somebody new.
    """
    request.require(Role.SERVICE, Role.ADMIN)
    if not 1 <= len(drafts) <= MOST_UPSERTS:
        raise BadUserInputError(f"users has {len(drafts)} entries, and must have 1 to {MOST_UPSERTS}")
    refusals = [refusal for index, draft in enumerate(drafts) for refusal in _refusals(index, draft, request)]
    refused = {int(refusal.field[1]) for refusal in refusals}
    taken: dict[str, UserDraft] = {}
    for index, draft in enumerate(drafts):
        if index not in refused:
            taken[draft.user_id] = draft.upon(taken.get(draft.user_id, draft))
    if not taken:
        return [], refusals
    async with request.databases.writing() as connection:
        await begin_storing(connection)
        for user_id in await being_erased(connection, taken):
            del taken[user_id]
            index = next(index for index, draft in enumerate(drafts) if draft.user_id == user_id)
            refusals.append(Refusal(["users", str(index), "userId"], "INVALID", "userId is being erased: try later"))
        await lift_tombstones(connection, list(taken))
        kept = await _keep(connection, list(taken.values()), request) if taken else []
    request.standings.forget(taken)
    return kept, refusals


async def _keep(connection: AsyncConnection, drafts: Sequence[UserDraft], request: Request) -> list[dict[str, Any]]:
    await make_known(connection, [Arrival(draft.user_id, draft.role, request.now) for draft in drafts])
    known = select(User.__table__).where(among(User.user_id, [draft.user_id for draft in drafts]))
    locked = known.order_by(User.user_id).with_for_update(key_share=True)
    before = {row.user_id: row for row in await connection.execute(locked)}
    rows = [_row(draft, before[draft.user_id]) for draft in drafts]
    asked = unnest(
        [User.subject_key, *(getattr(User, name) for name in SENT)],
        [(row["subject_key"], *(row[name] for name in SENT)) for row in rows],
    )
    await connection.execute(
        update(User).where(User.subject_key == asked.c.subject_key).values({name: asked.c[name] for name in SENT})
    )
    sealed_before = horizon(request.now, request.rules.anonymize_after_days)
    moved = [
        (row["subject_key"], sealed_before, request.now + ZONES_APART)
        for row in rows
        if row["time_zone"] != before[row["user_id"]].time_zone
    ]
    recast = [
        (row["subject_key"], request.now, request.now) for row in rows if row["role"] != before[row["user_id"]].role
    ]
    if moved or recast:
        await mark_dirty(connection, moved + recast)
    return rows


def _row(draft: UserDraft, kept: AnyRow) -> dict[str, Any]:
    def sent(value: object, before: object) -> object:
        return before if value is KEEP else value

    time_zone = str(sent(draft.time_zone, kept.time_zone) or "UTC")
    birth_date = sent(draft.birth_date, kept.birth_date)
    return {
        "subject_key": kept.subject_key,
        "user_id": draft.user_id,
        "role": draft.role.value,
        "display_name": sent(draft.display_name, kept.display_name),
        "time_zone": time_zone,
        "birth_date": birth_date,
        "adult_at": adult_at(birth_date, time_zone) if isinstance(birth_date, date) else None,
    }


def _refusals(index: int, draft: UserDraft, request: Request) -> list[Refusal]:
    def refuse(name: str, message: str) -> Refusal:
        return Refusal(["users", str(index), name], "INVALID", f"{name} {message}")

    found = []
    if not (is_storable(draft.user_id) and 1 <= len(draft.user_id) <= LONGEST_ID):
        found.append(refuse("userId", f"must have 1 to {LONGEST_ID} characters that can be stored"))
    if isinstance(draft.display_name, str) and not (
        is_storable(draft.display_name) and len(draft.display_name) <= LONGEST_NAME
    ):
        found.append(refuse("displayName", f"must have at most {LONGEST_NAME} characters that can be stored"))
    if isinstance(draft.time_zone, str) and draft.time_zone not in TIME_ZONES:
        found.append(refuse("timeZone", "must be a zone of the IANA database, such as Europe/London"))
    if isinstance(draft.birth_date, date) and not EARLIEST_BIRTH <= draft.birth_date <= request.now.date():
        found.append(refuse("birthDate", f"must be between {EARLIEST_BIRTH} and today"))
    return found
