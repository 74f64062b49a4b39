"""Errors: how many there were, the groups they fall into, and each by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    SQLColumnExpression,
    Uuid,
    column,
    func,
    null,
    select,
    true,
)

from models.error import ErrorEvent, ErrorGroup, ErrorType
from models.viewer import Role, visible_to
from resolvers.connection import LARGEST_SIZE, Key, Order, Page, Slice, check_range, rows_by_key
from resolvers.reader import AnyRow
from resolvers.request import Request
from resolvers.window import Window, platform_window

MOST_RECENT = Order("groups", (column("latest", DateTime(timezone=True)), column("group_id", Uuid())))
KEY = (ErrorEvent.subject_key, ErrorEvent.event_id, ErrorEvent.occurred_at)
DAYS_OF_A_NODE = 7
SAMPLE = [each for each in ErrorEvent.__table__.columns if each.name != "group_id"]


@dataclass(frozen=True)
class ErrorsQuestion:
    """Which errors are asked about: those of a window, of one type or of all."""

    window: Window
    error_type: ErrorType | None = None

    def conditions(self, request: Request) -> list[ColumnElement[bool]]:
        """The same as SQL, for those that the viewer may see."""
        wanted = [
            ErrorEvent.occurred_at >= self.window.since,
            ErrorEvent.occurred_at < self.window.until,
            visible_to(request.viewer, ErrorEvent.subject_key),
        ]
        return [*wanted, ErrorEvent.error_type == self.error_type] if self.error_type else wanted


async def error_counts(request: Request, questions: Sequence[ErrorsQuestion]) -> list[dict[ErrorType, int]]:
    """How many errors of each type there were, in the enum's order; of the one that is asked for, where one is."""
    return [await _counts(request, question) for question in questions]


async def _counts(request: Request, question: ErrorsQuestion) -> dict[ErrorType, int]:
    rows = await request.reader.rows(
        select(ErrorEvent.error_type, func.count().label("errors"))
        .where(*question.conditions(request))
        .group_by(ErrorEvent.error_type)
    )
    counted = {ErrorType(row.error_type): row.errors for row in rows}
    asked = [question.error_type] if question.error_type else list(ErrorType)
    return {kind: counted.get(kind, 0) for kind in asked}


async def error_groups(request: Request, question: ErrorsQuestion, page: Page) -> Slice:
    """A page of the groups of these errors, most recent first: with their count and users in the window, when they were
    first and last seen ever, and the columns of their latest error."""
    latest = func.max(ErrorEvent.occurred_at).label("latest")
    found = select(ErrorEvent.group_id, latest, *_how_many(question.window)).where(*question.conditions(request))
    groups = found.group_by(ErrorEvent.group_id).subquery()
    shown = page.of(select(groups)).subquery()
    sample = _latest(shown.c.group_id, question.conditions(request))
    in_order = (shown.c[each.key].desc() if page.descending else shown.c[each.key] for each in MOST_RECENT.columns)
    rows = await request.reader.rows(
        select(shown, ErrorGroup.first_seen_at, ErrorGroup.last_seen_at, sample)
        .join(ErrorGroup, ErrorGroup.group_id == shown.c.group_id)
        .join(sample, true())
        .order_by(*in_order),
        **page.parameters(),
    )
    return page.slice(rows)


async def error_groups_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The groups of these ids, with their count and users of the last 7 days; None where there is none, or the viewer
    is no admin."""
    if request.viewer.role is not Role.ADMIN:
        return [None] * len(keys)
    window = await platform_window(request, DAYS_OF_A_NODE)
    in_group = ErrorEvent.group_id == ErrorGroup.group_id
    recent = select(*_how_many(window)).where(in_group, *ErrorsQuestion(window).conditions(request)).lateral("recent")
    sample = _latest(ErrorGroup.group_id, [visible_to(request.viewer, ErrorEvent.subject_key)])
    groups = (
        select(ErrorGroup.__table__, recent, sample).select_from(ErrorGroup).join(recent, true()).join(sample, true())
    )
    return await rows_by_key(request, groups, [ErrorGroup.group_id], keys)


async def recent_errors(request: Request, question: ErrorsQuestion, first: int) -> list[AnyRow]:
    """The newest of these errors; raises BadUserInputError where it is not 1 to 100 that are asked for."""
    check_range("first", first, 1, LARGEST_SIZE)
    return await request.reader.rows(_newest_first().where(*question.conditions(request)).limit(first))


async def errors_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The errors of these subjects, ids and times; None where there is none, or the viewer is no admin."""
    if request.viewer.role is not Role.ADMIN:
        return [None] * len(keys)
    visible = select(ErrorEvent.__table__).where(visible_to(request.viewer, ErrorEvent.subject_key))
    return await rows_by_key(request, visible, KEY, keys)


def _how_many(window: Window) -> list[ColumnElement[Any]]:
    """How many errors, and of how many subjects; that is null where they cannot be told apart."""
    users = func.count(ErrorEvent.subject_key.distinct())
    return [func.count().label("errors"), (users if window.tells_people_apart else null()).label("users_affected")]


def _newest_first() -> Select[Any]:
    return select(*SAMPLE).order_by(ErrorEvent.occurred_at.desc(), ErrorEvent.event_id.desc(), ErrorEvent.subject_key)


def _latest(group_id: SQLColumnExpression[Any], conditions: Sequence[ColumnElement[bool]]) -> FromClause:
    return _newest_first().where(ErrorEvent.group_id == group_id, *conditions).limit(1).lateral("sample")
