"""Reading events: a learner's own list, everybody's for an admin, and how many there were of each category."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Label,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal,
    not_,
    null,
    or_,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute

from models.base import among
from models.contribution import DailyContribution
from models.engagement import CATEGORIES
from models.event import UserActivityEvent, minute_of
from models.session import LONGEST, UserSession
from models.taxonomy import EVENT_TYPES, PERSON, Category, Logout, event_type, marked
from models.text import is_storable
from models.user import User
from models.viewer import Role, visible_to
from resolvers.connection import Key, Order, Page, Slice, columns_of, needed, needs_of, page_of_each, rows_by_key
from resolvers.errors import BadUserInputError
from resolvers.reader import AnyRow
from resolvers.request import Fields, Request
from resolvers.user import users_by_key

OF_ONE = Order("events", (UserActivityEvent.occurred_at, UserActivityEvent.event_id))
OF_ALL = Order(
    "activityEvents", (UserActivityEvent.occurred_at, UserActivityEvent.event_id, UserActivityEvent.subject_key)
)
PASSIVE = [name for name, kind in EVENT_TYPES.items() if kind.passive]
KEY = (UserActivityEvent.subject_key, UserActivityEvent.event_id, UserActivityEvent.occurred_at)
ALWAYS = (*KEY, UserActivityEvent.event_type)
WHOSE = select(User.user_id).where(User.subject_key == UserActivityEvent.subject_key).scalar_subquery()
"""Whose an event is; None where nobody signed it."""
OTHERS = (
    UserActivityEvent.received_at,
    UserActivityEvent.device_id,
    UserActivityEvent.page_path,
    UserActivityEvent.event_data,
)
NEEDED_BY = {each.key: {each.key} for each in OTHERS} | {
    "event_data": {"data"},
    "user_id": {"device_id"},
    "session_id": {"session_id"},
}


BY_PARAMETER = {
    "types": UserActivityEvent.event_type == any_(bindparam("types", type_=ARRAY(Text()))),
    "since": UserActivityEvent.occurred_at >= bindparam("since", type_=DateTime(timezone=True)),
    "until": UserActivityEvent.occurred_at < bindparam("until", type_=DateTime(timezone=True)),
}
"""Conditions, by the field of a filter that is their parameter: a statement is kept, and who asks may name 25,000
types."""


@dataclass(frozen=True)
class EventFilter:
    """Which events are wanted; `since` is included and `until` is not. An empty list of types wants none."""

    categories: frozenset[str] | None = None
    types: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parameters(self) -> dict[str, object]:
        """Those of `conditions`."""
        types = None if self.types is None else sorted({name for name in self.types if is_storable(name)})
        given = {"types": types, "since": self.since, "until": self.until}
        return {name: value for name, value in given.items() if value is not None}

    def conditions(self) -> tuple[ColumnElement[bool], ...]:
        """The filter as SQL; the same objects for all filters that differ in their parameters alone."""
        return _conditions(self.categories, tuple(name for name in BY_PARAMETER if getattr(self, name) is not None))


@lru_cache(maxsize=100)
def _conditions(categories: frozenset[str] | None, parameters: tuple[str, ...]) -> tuple[ColumnElement[bool], ...]:
    by_category = () if categories is None else (_is_of(categories),)
    return (*by_category, *(BY_PARAMETER[name] for name in parameters))


def _is_of(categories: Collection[str]) -> ColumnElement[bool]:
    """Whether an event's type is of one of these categories; a type that the taxonomy does not know is custom."""
    stored_as = UserActivityEvent.event_type
    named = among(stored_as, [name for name, kind in EVENT_TYPES.items() if kind.category in categories])
    return or_(named, not_(among(stored_as, EVENT_TYPES))) if Category.CUSTOM in categories else named


@dataclass(frozen=True)
class EventsQuestion:
    """A page of a learner's events."""

    page: Page
    filter: EventFilter


def _with(needs: frozenset[str]) -> Select[Any]:
    columns = [*columns_of(ALWAYS, OTHERS, needs), *needed(needs, user_id=WHOSE)]
    if "session_id" in needs:
        return _with_session(columns)
    return select(*columns, null().label("session_id"))


def _shown(request: Request, fields: Fields | None = None) -> Select[Any]:
    """Those that the viewer may see."""
    return _with(needs_of(NEEDED_BY, fields)).where(visible_to(request.viewer, UserActivityEvent.subject_key))


def _with_session(columns: Sequence[InstrumentedAttribute[Any] | Label[Any]]) -> Select[Any]:
    """Events, each with the session that it belongs to."""
    event, candidate = UserActivityEvent, UserSession
    session = (
        select(
            candidate.session_id,
            candidate.started_at,
            candidate.ended_at,
            candidate.first_event_id,
            candidate.logout_id,
        )
        .where(
            candidate.subject_key == event.subject_key,
            candidate.device_id.is_not_distinct_from(event.device_id),
            candidate.started_at <= event.occurred_at,
            candidate.started_at > event.occurred_at - LONGEST,
            ~and_(event.from_service, event.device_id.is_(None)),
        )
        .order_by(candidate.started_at.desc())
        .limit(1)
        .lateral("session")
    )
    # Of events at the very moment of its first and last one, the order of events tells which belong.
    ends = event.event_type == Logout.type_name()
    belongs = and_(
        event.occurred_at <= session.c.ended_at,
        or_(
            among(event.event_type, PASSIVE),
            and_(ends, event.event_id == session.c.logout_id),
            and_(~ends, or_(event.occurred_at > session.c.started_at, event.event_id >= session.c.first_event_id)),
        ),
    )
    return select(*columns, session.c.session_id).select_from(event).outerjoin(session, belongs)


@lru_cache(maxsize=100)
def _of_each(conditions: tuple[ColumnElement[bool], ...], needs: frozenset[str]) -> Select[Any]:
    return _with(needs).where(*conditions)


async def events(
    request: Request, subject_keys: Sequence[UUID], question: EventsQuestion, fields: Fields | None = None
) -> dict[UUID, Slice]:
    """That page of each subject's events, newest first."""
    statement = _of_each(question.filter.conditions(), needs_of(NEEDED_BY, fields))
    return await page_of_each(request, subject_keys, statement, question.page, **question.filter.parameters())


async def activity_events(
    request: Request, page: Page, wanted: EventFilter, containing: object | None, fields: Fields | None = None
) -> Slice:
    """A page of everybody's events, newest first, whose payloads hold the object `containing`.

    Raises BadUserInputError where that is no object, or none that any payload could hold.
    """
    request.require(Role.ADMIN)
    if containing is not None and not (isinstance(containing, dict) and is_storable(containing)):
        raise BadUserInputError("containing must be a JSON object, of text and numbers that a payload could hold")
    statement = _by_minute(_shown(request, fields).where(*wanted.conditions()), page, wanted)
    if containing is not None:
        statement = statement.where(UserActivityEvent.event_data.contains(containing))
    rows = await request.reader.rows(page.of(statement), **page.parameters(), **wanted.parameters())
    return page.slice(rows)


def _by_minute(statement: Select[Any], page: Page, wanted: EventFilter) -> Select[Any]:
    """The statement with what its index needs to know of the page and the filter: from which minute to which."""
    minute = minute_of(UserActivityEvent.occurred_at)
    newest, oldest = (place and place[0] for place in (page.after, page.before))
    in_time = [
        *(minute <= minute_of(literal(at)) for at in (newest, wanted.until) if at),
        *(minute >= minute_of(literal(at)) for at in (oldest, wanted.since) if at),
    ]
    return statement.where(*in_time).order_by(minute.desc() if page.descending else minute)


async def events_by_key(request: Request, keys: Sequence[Key]) -> list[AnyRow | None]:
    """The events of these subjects, ids and times; None where there is none that the viewer may see."""
    return await rows_by_key(request, _shown(request), KEY, keys)


async def shown_data(request: Request, row: AnyRow) -> dict[str, Any]:
    """An event's payload, without the ids of people whom the viewer may not see."""
    data: dict[str, Any] = row.event_data
    named = {field: data[field] for field in marked(event_type(row.event_type), PERSON) & data.keys()}
    if not named or request.viewer.role is Role.ADMIN:
        return data
    people = await request.loader(users_by_key).load_many([(user_id,) for user_id in named.values()])
    hidden = {field for field, person in zip(named, people, strict=True) if person is None}
    return {field: value for field, value in data.items() if field not in hidden}


async def event_counts_of_all(request: Request, days: int) -> list[int]:
    """Everybody's events of the last UTC days, today included, by category in the enum's order."""
    request.require(Role.ADMIN)
    today = request.now.astimezone(UTC).date()
    sums = [
        func.coalesce(func.sum(DailyContribution.events_by_category[index + 1]), 0) for index in range(len(CATEGORIES))
    ]
    window = DailyContribution.day.between(today - timedelta(days=days - 1), today)
    rows = await request.reader.rows(
        select(*sums).where(window, visible_to(request.viewer, DailyContribution.subject_key))
    )
    return list(rows[0])
