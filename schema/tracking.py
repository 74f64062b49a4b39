"""Sending events: an input for each type, made from the taxonomy."""

from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
import strawberry
from msgspec.inspect import IntType, Metadata, UnionType, type_info
from strawberry.scalars import JSON

from models.taxonomy import EVENT_TYPES, EventType
from resolvers.tracking import Client, EventDraft, RefusedEvent, Taken
from schema import enums
from schema.scalars import BigInt


@strawberry.enum(description="Why an event was not taken.")
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


def _graphql_type(field: msgspec.structs.FieldInfo) -> Any:
    kind = type_info(field.type)
    members = kind.types if isinstance(kind, UnionType) else (kind,)
    (member,) = (each for each in members if not isinstance(each, msgspec.inspect.NoneType))
    while isinstance(member, Metadata):
        member = member.type
    shape: Any
    if isinstance(member, msgspec.inspect.StrType):
        shape = strawberry.ID if field.name.endswith("_id") else str
    elif isinstance(member, IntType):
        shape = BigInt if (member.le or 0) > 2**31 else int
    elif isinstance(member, msgspec.inspect.EnumType):
        shape = getattr(enums, member.cls.__name__)
    else:
        shape = float if isinstance(member, msgspec.inspect.FloatType) else JSON
    return shape if field.required else shape | None


def _payload_input(kind: type[EventType]) -> type:
    fields = msgspec.structs.fields(kind)
    body = {field.name: strawberry.field(default=strawberry.UNSET) for field in fields if not field.required}
    annotations = {field.name: _graphql_type(field) for field in fields}
    made = type(f"{kind.payload_name()}Input", (), {"__annotations__": annotations, **body})
    return strawberry.input(made, description=f"What a {kind.payload_name()} event carries.")


def _event_input() -> type:
    payloads: dict[str, type] = {}
    for kind in EVENT_TYPES.values():
        if kind.payload_name() not in payloads:
            payloads[kind.payload_name()] = _payload_input(kind)
    annotations = {name: payloads[kind.payload_name()] | None for name, kind in EVENT_TYPES.items()}
    body = {name: strawberry.field(default=strawberry.UNSET) for name in EVENT_TYPES}
    made = type("EventInput", (), {"__annotations__": annotations, **body})
    return strawberry.input(made, one_of=True, description="Exactly one of these: the type of event and its payload.")


EventInput: Any = _event_input()


@strawberry.input(description="The page that something happened on.")
class PageInput:
    """The contract's PageInput."""

    path: str = strawberry.field(description="Its path; query and fragment are dropped.")
    title: str | None = strawberry.field(default=strawberry.UNSET, description="Its title.")
    referrer: str | None = strawberry.field(default=strawberry.UNSET, description="The page before.")


@strawberry.input(description="The browser that a SERVICE speaks for.")
class ClientInput:
    """The contract's ClientInput."""

    user_agent: str | None = strawberry.field(default=strawberry.UNSET, description="Its User-Agent header.")
    ip_address: str | None = strawberry.field(
        default=strawberry.UNSET, description="Its address, which is kept only cut."
    )


@strawberry.input(description="An event.")
class TrackEventInput:
    """The contract's TrackEventInput."""

    event_id: UUID = strawberry.field(
        description="Made by the client: the same id and time from the same subject is the same event."
    )
    occurred_at: datetime = strawberry.field(description="When it happened.")
    event: EventInput = strawberry.field(description="What happened.")
    device_id: UUID | None = strawberry.field(default=strawberry.UNSET, description="The browser.")
    page: PageInput | None = strawberry.field(default=strawberry.UNSET, description="The page it happened on.")
    user_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Of whom it tells; for a SERVICE, anyone else writes as themself."
    )
    client: ClientInput | None = strawberry.field(
        default=strawberry.UNSET, description="The browser; for a SERVICE, of anyone else it is read off their request."
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


@strawberry.input(description="Several events.")
class TrackEventsInput:
    """The contract's TrackEventsInput."""

    events: list[TrackEventInput] = strawberry.field(description="1 to 500 of them.")


@strawberry.type(description="Why an event was not taken.")
class TrackEventError:
    """The contract's TrackEventError."""

    index: int = strawberry.field(description="Its place among the events that were sent, from 0.")
    event_id: UUID | None = strawberry.field(description="Its id.")
    field: list[str] = strawberry.field(description="The field at fault, from the event down.")
    code: TrackEventErrorCode = strawberry.field(description="What is wrong with it.")
    message: str = strawberry.field(description="The same in words.")

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

    accepted: int = strawberry.field(description="Safely kept, and counted once however often they are sent.")
    rejected: int = strawberry.field(description="Not kept, for the reasons below.")
    received_at: datetime = strawberry.field(description="The server's clock, for clients to set theirs by.")
    user_errors: list[TrackEventError] = strawberry.field(description="At least one for each rejected event.")

    @classmethod
    def of(cls, taken: Taken) -> "TrackEventsPayload":
        """What was taken, in this shape."""
        return cls(
            accepted=taken.accepted,
            rejected=len(taken.refused),
            received_at=taken.received_at,
            user_errors=[TrackEventError.of(refused) for refused in taken.refused],
        )
