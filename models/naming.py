"""Where events name people: in fields that are there for it, and anywhere in what is a platform's own."""

from collections.abc import Collection
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Text, and_, cast, func, or_

from models.event import UserActivityEvent
from models.taxonomy import EVENT_TYPES, PERSON, CustomEvent, EventType, marked


def named_in(kind: type[EventType], payload: dict[str, Any]) -> set[str]:
    """The people whom a payload names in the fields that are there for it."""
    return {payload[field] for field in marked(kind, PERSON) & payload.keys()}


def without(people: Collection[str], kind: type[EventType], payload: dict[str, Any]) -> dict[str, Any]:
    """The payload without the ids of these people: in the fields that are there for it, and anywhere in the data of a
    custom event."""
    if kind is CustomEvent:
        cleaned: dict[str, Any] = _stripped(payload, people)
        return cleaned
    named = marked(kind, PERSON)
    return {field: value for field, value in payload.items() if not (field in named and value in people)}


def _stripped(value: Any, people: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _stripped(each, people)
            for key, each in value.items()
            if key not in people and not (isinstance(each, str) and each in people)
        }
    if isinstance(value, list):
        return [_stripped(each, people) for each in value if not (isinstance(each, str) and each in people)]
    return value


NAMING: dict[str, list[str]] = {}
"""The fields that are there to name people, each with the types of events that have it."""
for _name, _kind in EVENT_TYPES.items():
    for _field in sorted(marked(_kind, PERSON)):
        NAMING.setdefault(_field, []).append(_name)
NAMERS = {name for names in NAMING.values() for name in names}
"""The types of events that have such a field."""


def names(user_id: str) -> ColumnElement[bool]:
    """Whether an event names somebody where that can be told from any other text."""
    event = UserActivityEvent
    in_its_field = (
        and_(event.event_type.in_(types), event.event_data.contains({field: user_id}))
        for field, types in NAMING.items()
    )
    anywhere = func.strpos(cast(event.event_data, Text), orjson.dumps(user_id).decode()) > 0
    return or_(*in_its_field, and_(event.event_type.not_in(EVENT_TYPES), anywhere))
