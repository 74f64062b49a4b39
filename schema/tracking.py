"""Sending events: an input for each type, made from the taxonomy."""

from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
import strawberry
from msgspec.inspect import FloatType, IntType, Metadata, StrType, UnionType, type_info
from strawberry.scalars import JSON

from models.taxonomy import CLEARED, EVENT_TYPES, PERSON, SERVICE_ONLY, EventType, longest_kept, marked
from resolvers.tracking import Client, EventDraft, RefusedEvent, Taken
from schema import enums
from schema.scalars import LARGEST_INT, BigInt

MARKS = {
    SERVICE_ONLY: "Taken from a SERVICE alone, unless the installation trusts its clients.",
    PERSON: "Shown only to those who may see that person.",
    CLEARED: "Gone once the event is anonymised.",
}


class TrackEventErrorCode(StrEnum):
    """The contract's TrackEventErrorCode."""

    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    TOO_LARGE = "TOO_LARGE"
    TOO_OLD = "TOO_OLD"
    IN_FUTURE = "IN_FUTURE"
    FORBIDDEN = "FORBIDDEN"
    UNKNOWN_USER = "UNKNOWN_USER"
    CONSENT_REQUIRED = "CONSENT_REQUIRED"
    TRACKING_OBJECTED = "TRACKING_OBJECTED"
    BOT = "BOT"


enums.enum(
    TrackEventErrorCode,
    "Why an event was not taken.",
    INVALID_PAYLOAD="A value is out of its range, does not fit the others, or cannot be stored.",
    TOO_LARGE="It has more than 8 KiB, or its custom data more than 4 KiB.",
    TOO_OLD="It happened more than 7 days ago; from a SERVICE, on a day whose figures are closed.",
    IN_FUTURE="It is said to happen more than 5 minutes after it was received.",
    FORBIDDEN="Whoever sent it may not send this type or this field, or not of this person.",
    UNKNOWN_USER="The user of whom it tells is not kept: upsertUsers makes them known.",
    CONSENT_REQUIRED="The learner is too young to be tracked without a consent, and none is recorded.",
    TRACKING_OBJECTED="The learner, or their browser, objected to being tracked.",
    BOT="The user agent is a program's that visits pages by itself.",
)


def camel(name: str) -> str:
    """A type's name as the field of an input that holds it."""
    head, *rest = name.split("_")
    return head + "".join(map(str.title, rest))


def plain(kind: type[EventType], payload: object) -> dict[str, Any]:
    """A payload as JSON has it, in camel case, without what was not sent or is null."""
    return {
        sent_as: value.value if isinstance(value, StrEnum) else value
        for sent_as, name in _names(kind)
        if (value := getattr(payload, name)) is not None and value is not strawberry.UNSET
    }


@cache
def _names(kind: type[EventType]) -> list[tuple[str, str]]:
    return [(field.encode_name, field.name) for field in msgspec.structs.fields(kind)]


def _value_of(field: msgspec.structs.FieldInfo) -> tuple[msgspec.inspect.Type, str]:
    """What a field holds where it holds something, and what the taxonomy says of it."""
    kind = type_info(field.type)
    members = kind.types if isinstance(kind, UnionType) else (kind,)
    (member,) = (each for each in members if not isinstance(each, msgspec.inspect.NoneType))
    told = ""
    while isinstance(member, Metadata):
        told = (member.extra_json_schema or {}).get("description", told)
        member = member.type
    return member, told


def _graphql_type(field: msgspec.structs.FieldInfo) -> Any:
    member, _ = _value_of(field)
    shape: Any
    if isinstance(member, StrType):
        shape = strawberry.ID if field.name.endswith("_id") else str
    elif isinstance(member, IntType):
        shape = BigInt if (member.le or 0) > LARGEST_INT else int
    elif isinstance(member, msgspec.inspect.EnumType):
        shape = getattr(enums, member.cls.__name__)
    else:
        shape = float if isinstance(member, FloatType) else JSON
    return shape if field.required else shape | None


def _payload_input(kind: type[EventType]) -> type:
    fields = msgspec.structs.fields(kind)
    body = {field.name: _input_field(field.required, _description(kind, field)) for field in fields}
    annotations = {field.name: _graphql_type(field) for field in fields}
    made = type(f"{kind.payload_name()}Input", (), {"__annotations__": annotations, **body})
    carried_by = " or ".join(
        camel(name) for name, each in EVENT_TYPES.items() if each.payload_name() == kind.payload_name()
    )
    return strawberry.input(made, description=f"What is told with an event of type {carried_by}.")


def _input_field(required: bool, description: str) -> Any:
    """A field of an input, which may be left out unless it is required."""
    if required:
        return strawberry.field(description=description)
    return strawberry.field(default=strawberry.UNSET, description=description)


def _description(kind: type[EventType], field: msgspec.structs.FieldInfo) -> str:
    """What the taxonomy says of a field, with its range and its marks."""
    member, told = _value_of(field)
    sentences = [told]
    if isinstance(member, IntType | FloatType):
        sentences.append("0 or more." if member.le == LARGEST_INT else f"{member.ge:,} to {member.le:,}.")
    if isinstance(member, StrType) and member.max_length:
        sentences.append(f"{member.min_length} to {member.max_length} characters.")
    if most := longest_kept(kind).get(field.encode_name):
        sentences.append(f"Only {most:,} characters are kept.")
    return " ".join(sentences + [said for mark, said in MARKS.items() if field.encode_name in marked(kind, mark)])


def _event_input() -> type:
    payloads: dict[str, type] = {}
    for kind in EVENT_TYPES.values():
        if kind.payload_name() not in payloads:
            payloads[kind.payload_name()] = _payload_input(kind)
    annotations = {name: payloads[kind.payload_name()] | None for name, kind in EVENT_TYPES.items()}
    body = {name: _input_field(required=False, description=_said_of(kind)) for name, kind in EVENT_TYPES.items()}
    made = type("EventInput", (), {"__annotations__": annotations, **body})
    return strawberry.input(made, one_of=True, description="Exactly one of these: the type of event and its payload.")


def _said_of(kind: type[EventType]) -> str:
    from_a_service = f" {MARKS[SERVICE_ONLY]}" if kind.service_only else ""
    return f"{kind.__doc__}{from_a_service}"


EventInput: Any = _event_input()


@strawberry.input(description="The page that something happened on.")
class PageInput:
    """The contract's PageInput."""

    path: str = strawberry.field(
        description="Its place on the site, such as /quests/7; query and fragment are dropped."
    )
    title: str | None = strawberry.field(
        default=strawberry.UNSET, description="What its tab is called; gone once the event is anonymised."
    )
    referrer: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="The address of the page that led there; gone once the event is anonymised.",
    )


@strawberry.input(description="The browser that a SERVICE speaks for.")
class ClientInput:
    """The contract's ClientInput."""

    user_agent: str | None = strawberry.field(
        default=strawberry.UNSET, description="The User-Agent header that the browser sends; a bot's event is refused."
    )
    ip_address: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="The IP address that it asks from, which is kept only cut: to /24, or /48 of IPv6.",
    )


@strawberry.input(description="Something that happened, to be kept.")
class TrackEventInput:
    """The contract's TrackEventInput."""

    event_id: UUID = strawberry.field(
        description="Made by the client: the same id and time from the same subject is the same event."
    )
    occurred_at: datetime = strawberry.field(
        description="When it happened, by the client's clock: at most 5 minutes in the future, and 7 days "
        "ago unless a SERVICE sends it."
    )
    event: EventInput = strawberry.field(description="What happened: its type, with what is to be told of it.")
    device_id: UUID | None = strawberry.field(
        default=strawberry.UNSET,
        description="The browser, by an id that the client keeps; left out: the one in its cookie.",
    )
    page: PageInput | None = strawberry.field(
        default=strawberry.UNSET, description="Where on the site it happened; a pageView needs it."
    )
    user_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Of whom it tells. A SERVICE must say; anyone else writes as themself."
    )
    client: ClientInput | None = strawberry.field(
        default=strawberry.UNSET,
        description="The browser that a SERVICE speaks for; of anyone else it is read off their request.",
    )

    def draft(self) -> EventDraft:
        """What was sent, for judging."""
        name, payload = next((name, payload) for name, payload in vars(self.event).items() if payload)
        kind = EVENT_TYPES[name]
        return EventDraft(
            event_id=self.event_id,
            occurred_at=self.occurred_at,
            field=camel(name),
            kind=kind,
            payload=plain(kind, payload),
            device_id=self.device_id or None,
            page_path=self.page.path if self.page else None,
            page_title=(self.page.title or None) if self.page else None,
            referrer=(self.page.referrer or None) if self.page else None,
            user_id=None if self.user_id in (None, strawberry.UNSET) else self.user_id,
            client=Client(self.client.user_agent or None, self.client.ip_address or None) if self.client else None,
        )


@strawberry.input(description="Several events, each judged by itself.")
class TrackEventsInput:
    """The contract's TrackEventsInput."""

    events: list[TrackEventInput] = strawberry.field(
        description="What happened, in any order; 1 to 500 of them, and no more than 500 in all fields of an operation."
    )


@strawberry.type(description="Why an event was not taken.")
class TrackEventError:
    """The contract's TrackEventError."""

    index: int = strawberry.field(description="The event's place among those that were sent, from 0.")
    event_id: UUID | None = strawberry.field(description="Which event it was, by the id that the client made.")
    field: list[str] = strawberry.field(
        description="What is at fault, as the names of the fields that lead to it from the event down."
    )
    code: TrackEventErrorCode = strawberry.field(description="What is wrong, for a program to act on.")
    message: str = strawberry.field(description="What is wrong, for people to read.")

    @classmethod
    def of(cls, refused: RefusedEvent) -> "TrackEventError":
        """The refusal in this shape."""
        error = refused.error
        return cls(
            index=refused.index,
            event_id=refused.event_id,
            field=error.field,
            code=TrackEventErrorCode(error.code),
            message=error.message,
        )


@strawberry.type(description="What became of the events that were sent.")
class TrackEventsPayload:
    """The contract's TrackEventsPayload."""

    accepted: int = strawberry.field(
        description="How many are safely kept, each counted once however often it is sent."
    )
    rejected: int = strawberry.field(description="How many are not kept, for the reasons in userErrors.")
    received_at: datetime = strawberry.field(description="The server's clock, for clients to set theirs by.")
    user_errors: list[TrackEventError] = strawberry.field(
        description="Why events were rejected: at least one for each."
    )

    @classmethod
    def of(cls, taken: Taken) -> "TrackEventsPayload":
        """What was taken, in this shape."""
        return cls(
            accepted=taken.accepted,
            rejected=len(taken.refused),
            received_at=taken.received_at,
            user_errors=[TrackEventError.of(refused) for refused in taken.refused],
        )
