"""Consents and objections: who lets a learner's events be kept, and who does not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, DateTime, Text, Uuid, bindparam, column, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from models.consent import Consent, ConsentBasis
from models.guardianship import children_of
from models.storing import outlast_storing
from models.text import is_storable
from models.user import User, UserRole, subjects_of
from models.viewer import Role, Viewer
from resolvers.reader import AnyRow
from resolvers.request import ASKERS, Request
from resolvers.user import Refusal

LONGEST_TEXT = 200
EARLIEST = datetime(1900, 1, 2, tzinfo=UTC)
GIVERS = {
    ConsentBasis.PARENT: (UserRole.PARENT,),
    ConsentBasis.SCHOOL: (UserRole.ADMIN, UserRole.PARENT),
    ConsentBasis.SELF: (UserRole.STUDENT,),
}
Outcome = tuple[AnyRow | None, list[Refusal]]
"""Whom it is about, where the viewer may know of them, and why nothing was done."""


@dataclass(frozen=True)
class ConsentDraft:
    """A consent as it was sent."""

    user_id: str
    basis: ConsentBasis
    notice_version: str
    method: str | None
    given_by_id: str | None
    given_at: datetime | None


async def consents(request: Request, subject_keys: Sequence[UUID], _: None) -> dict[UUID, list[AnyRow]]:
    """The consents of learners whom the viewer may see, the last given first, each with whoever gave it; of others
    none."""
    theirs = func.consents_of(bindparam("children", list(subject_keys), type_=ARRAY(Uuid))).table_valued(
        column("subject_key", Uuid),
        *(column(name, Text) for name in ("basis", "method", "notice_version", "user_id", "role", "display_name")),
        *(column(name, DateTime(timezone=True)) for name in ("given_at", "revoked_at")),
    )
    found: dict[UUID, list[AnyRow]] = {key: [] for key in subject_keys}
    for row in await request.reader.rows(select(theirs)):
        found[row.subject_key].append(row)
    return found


async def record(request: Request, draft: ConsentDraft) -> Outcome:
    """Keep a consent, beside those that are there; a parent's own word for their child stands on no other basis."""
    request.require(Role.SERVICE, Role.ADMIN, Role.PARENT)
    async with request.databases.writing() as connection:
        learner = await _whom(connection, request, draft.user_id)
        if learner is None:
            return None, [_unknown("userId")]
        giver_id = request.viewer.user_id if request.viewer.role is Role.PARENT else draft.given_by_id
        giver = await _user(connection, giver_id) if giver_id else None
        refusals = await _refusals(connection, request, draft, learner, giver)
        if not refusals:
            await connection.execute(
                insert(Consent).values(
                    subject_key=learner.subject_key,
                    consent_id=uuid4(),
                    basis=draft.basis,
                    method=draft.method,
                    given_by_key=giver and giver.subject_key,
                    given_at=draft.given_at or request.now,
                    notice_version=draft.notice_version,
                )
            )
    request.standings.forget([draft.user_id])
    return learner, refusals


async def revoke(request: Request, user_id: str) -> Outcome:
    """Revoke all consents of a learner: what waits to be stored is withdrawn, what is stored stays."""
    request.require(Role.SERVICE, Role.ADMIN, Role.PARENT)
    async with request.databases.writing() as connection:
        learner = await _whom(connection, request, user_id)
        if learner is None:
            return None, [_unknown("userId")]
        revoked = await connection.execute(
            update(Consent)
            .where(Consent.subject_key == learner.subject_key, Consent.revoked_at.is_(None))
            .values(revoked_at=request.now)
        )
        if revoked.rowcount:
            await outlast_storing(connection)
    request.standings.forget([user_id])
    done = Refusal(["userId"], "ALREADY_DONE", "there is no consent that is in force")
    return learner, [] if revoked.rowcount else [done]


async def set_tracking(request: Request, user_id: str, *, objected: bool) -> Outcome:
    """Note that somebody objects to tracking, or does no more. Below the age of consent only a parent takes an
    objection back."""
    request.require(*ASKERS)
    await request.databases.welcome(request.viewer)
    async with request.databases.writing() as connection:
        is_themself = user_id == request.viewer.user_id
        user = await (_user(connection, user_id) if is_themself else _whom(connection, request, user_id))
        if user is None:
            return None, [_unknown("userId")]
        refusals = []
        if request.viewer.role is Role.ADMIN and not is_themself:
            refusals.append(Refusal(["userId"], "FORBIDDEN", "this is for themself and for their parents"))
        elif is_themself and not objected and await _is_under_age(connection, request, user_id):
            refusals.append(Refusal(["objected"], "FORBIDDEN", "at their age a parent must take the objection back"))
        elif user.tracking_objected == objected:
            refusals.append(Refusal(["objected"], "ALREADY_DONE", "it is so already"))
        if not refusals:
            await connection.execute(
                update(User).where(User.subject_key == user.subject_key).values(tracking_objected=objected)
            )
            if objected:
                await outlast_storing(connection)
    request.standings.forget([user_id])
    return user, refusals


async def _refusals(
    connection: AsyncConnection, request: Request, draft: ConsentDraft, learner: AnyRow, giver: AnyRow | None
) -> list[Refusal]:
    found = [*_malformed(request, draft, learner), *_wrong_giver(request.viewer, draft, learner, giver)]
    if draft.basis is ConsentBasis.SELF and await _is_under_age(connection, request, draft.user_id):
        found.append(_invalid("basis", "must be PARENT or SCHOOL below the age of consent"))
    same = select(Consent.consent_id).where(
        Consent.subject_key == learner.subject_key,
        Consent.basis == draft.basis,
        Consent.notice_version == draft.notice_version,
        Consent.given_by_key.is_not_distinct_from(giver and giver.subject_key),
        Consent.revoked_at.is_(None),
    )
    if not found and await connection.scalar(same):
        found.append(Refusal(["userId"], "ALREADY_DONE", "this consent is in force already"))
    return found


def _malformed(request: Request, draft: ConsentDraft, learner: AnyRow) -> Iterator[Refusal]:
    if learner.role != UserRole.STUDENT:
        yield _invalid("userId", "must be a user with role STUDENT")
    if not (is_storable(draft.notice_version) and 1 <= len(draft.notice_version) <= LONGEST_TEXT):
        yield _invalid("noticeVersion", f"must have 1 to {LONGEST_TEXT} characters that can be stored")
    if draft.method is not None and not (is_storable(draft.method) and len(draft.method) <= LONGEST_TEXT):
        yield _invalid("method", f"must have at most {LONGEST_TEXT} characters that can be stored")
    if draft.given_at and not EARLIEST <= draft.given_at <= request.now:
        yield _invalid("givenAt", f"must be after {EARLIEST:%Y} and not in the future")


def _wrong_giver(viewer: Viewer, draft: ConsentDraft, learner: AnyRow, giver: AnyRow | None) -> Iterator[Refusal]:
    if viewer.role is Role.PARENT:
        if draft.basis is not ConsentBasis.PARENT:
            yield Refusal(["basis"], "FORBIDDEN", "basis must be PARENT where a parent gives it")
        if draft.given_by_id not in (None, viewer.user_id):
            yield Refusal(["givenById"], "FORBIDDEN", "givenById must be the parent who gives it")
    elif draft.given_by_id and giver is None:
        yield _unknown("givenById")
    elif giver and giver.role not in GIVERS[draft.basis]:
        yield _invalid("givenById", f"must be a user with role {' or '.join(GIVERS[draft.basis])}")
    elif giver and draft.basis is ConsentBasis.SELF and giver.subject_key != learner.subject_key:
        yield _invalid("givenById", "must be the learner themself")


async def _whom(connection: AsyncConnection, request: Request, user_id: str) -> AnyRow | None:
    """The user, locked until the transaction ends; None where there is none, or none whose affairs are the viewer's."""
    viewer = request.viewer
    if viewer.role in (Role.STUDENT, Role.PARENT):
        children = await children_of(connection, [viewer.user_id or ""])
        if viewer.role is Role.STUDENT or (viewer.user_id, user_id) not in children:
            return None
    return await _user(connection, user_id)


async def _user(connection: AsyncConnection, user_id: str) -> AnyRow | None:
    if not is_storable(user_id):
        return None
    wanted = select(User.__table__).where(User.user_id == user_id).with_for_update(key_share=True)
    return (await connection.execute(wanted)).first()


async def _is_under_age(connection: AsyncConnection, request: Request, user_id: str) -> bool:
    subject = (await subjects_of(connection, [user_id]))[user_id]
    return subject.birth_date is not None and request.rules.consent.needs_consent(subject, request.now)


def _unknown(field: str) -> Refusal:
    return Refusal([field], "NOT_FOUND", f"{field} is no user that is kept")


def _invalid(field: str, message: str) -> Refusal:
    return Refusal([field], "INVALID", f"{field} {message}")
