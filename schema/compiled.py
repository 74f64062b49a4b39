"""The two mutations that clients send all day, compiled: a recognised document's variables go straight to the resolver.

Whatever is not recognised, in a document or in its variables, is left to the general execution, which answers the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLError,
    ObjectFieldNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableDefinitionNode,
    VariableNode,
    located_error,
    print_ast,
)

from models.taxonomy import EVENT_TYPES
from resolvers.request import Request
from resolvers.tracking import MOST_EVENTS, Client, EventDraft, track
from schema.scalars import moment, moment_text
from schema.tracking import camel, plain

KINDS = {camel(name): kind for name, kind in EVENT_TYPES.items()}

Read = Callable[[Any], Any]


class _Input(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    pass


class _Page(_Input):
    path: str
    title: str | None = None
    referrer: str | None = None


class _Client(_Input):
    user_agent: str | None = None
    ip_address: str | None = None


class _Event(_Input):
    """The contract's TrackEventInput, in the types that GraphQL takes as they are."""

    event_id: UUID
    occurred_at: str
    event: dict[str, Any]
    device_id: UUID | None = None
    page: _Page | None = None
    user_id: str | None = None
    client: _Client | None = None


@dataclass(frozen=True)
class Compiled:
    """A recognised document: where in its variables the events are, and how its answer is written."""

    operation_name: str | None
    variable: str
    events_of: Read
    field: FieldNode
    write: Read

    def drafts(self, variables: dict[str, Any]) -> list[EventDraft] | None:
        """The events that were sent; None where GraphQL would have to coerce or refuse any part of them."""
        try:
            events = self.events_of(variables[self.variable])
            return None if len(events) > MOST_EVENTS else [_draft(msgspec.convert(event, _Event)) for event in events]
        except (LookupError, TypeError, ValueError, msgspec.ValidationError, GraphQLError):
            return None

    async def execute(self, request: Request, drafts: Sequence[EventDraft]) -> ExecutionResult:
        """What the general execution answers."""
        try:
            taken = await track(request, drafts)
        except Exception as error:  # noqa: BLE001 - graphql-core turns any into an error with a place
            return ExecutionResult(data=None, errors=[located_error(error, [self.field], [_key(self.field)])])
        return ExecutionResult(data={_key(self.field): self.write(taken)}, errors=None)


def _draft(sent: _Event) -> EventDraft:
    ((field, payload),) = sent.event.items()
    kind = KINDS[field]
    return EventDraft(
        event_id=sent.event_id,
        occurred_at=moment(sent.occurred_at),
        field=field,
        kind=kind,
        payload=plain(kind, msgspec.convert(payload, kind)),
        device_id=sent.device_id,
        page_path=sent.page.path if sent.page else None,
        page_title=(sent.page.title or None) if sent.page else None,
        referrer=(sent.page.referrer or None) if sent.page else None,
        user_id=sent.user_id,
        client=Client(sent.client.user_agent or None, sent.client.ip_address or None) if sent.client else None,
        is_decoded=True,
    )


def compiled(parsed: DocumentNode) -> Compiled | None:
    """The valid document, where it is one of the two mutations in a plain form."""
    match parsed.definitions:
        case (
            OperationDefinitionNode(
                operation=OperationType.MUTATION,
                directives=None,
                variable_definitions=(VariableDefinitionNode(default_value=None, directives=None) as variable,),
                selection_set=SelectionSetNode(
                    selections=(FieldNode(directives=None, arguments=(argument,)) as field,)
                ),
            ) as operation,
        ):
            events_of = EVENTS.get((field.name.value, print_ast(variable.type), _shape(argument.value)))
            if events_of and field.selection_set and (write := _writer(field.selection_set, PAYLOAD)):
                name = operation.name.value if operation.name else None
                return Compiled(name, variable.variable.name.value, events_of, field, write)
    return None


def _shape(value: ValueNode) -> str | None:
    match value:
        case VariableNode():
            return "$"
        case ObjectValueNode(fields=(ObjectFieldNode(value=VariableNode()) as only,)):
            return f"{{{only.name.value}: $}}"
    return None


def _list(events: object) -> list[Any]:
    """GraphQL would make a list of anything else."""
    if not isinstance(events, list):
        raise TypeError
    return events


EVENTS: dict[tuple[str, str, str | None], Read] = {
    ("trackEvent", "TrackEventInput!", "$"): lambda event: [event],
    ("trackEvents", "TrackEventsInput!", "$"): lambda sent: _list(sent["events"]) if len(sent) == 1 else None,
    ("trackEvents", "[TrackEventInput!]!", "{events: $}"): _list,
}


def _writer(selection_set: SelectionSetNode, known: dict[str, Read]) -> Read | None:
    """Writes an object's fields in the order of the selection; None for a selection that is not plain."""
    reads: dict[str, Read] = {}
    names: set[str] = set()
    for field in selection_set.selections:
        if not isinstance(field, FieldNode) or field.directives or field.name.value in names or _key(field) in reads:
            return None
        names.add(field.name.value)
        read: Read | None = known[field.name.value]
        if field.selection_set:
            read = _each(known[field.name.value], _writer(field.selection_set, ERROR))
        if read is None:
            return None
        reads[_key(field)] = read
    return lambda row: {key: read(row) for key, read in reads.items()}


def _each(rows_of: Read, write: Read | None) -> Read | None:
    return write and (lambda row: [write(each) for each in rows_of(row)])


def _key(field: FieldNode) -> str:
    return field.alias.value if field.alias else field.name.value


ERROR: dict[str, Read] = {
    "__typename": lambda refused: "TrackEventError",
    "index": lambda refused: refused.index,
    "eventId": lambda refused: str(refused.event_id),
    "field": lambda refused: refused.error.field,
    "code": lambda refused: refused.error.code,
    "message": lambda refused: refused.error.message,
}
PAYLOAD: dict[str, Read] = {
    "__typename": lambda taken: "TrackEventsPayload",
    "accepted": lambda taken: taken.accepted,
    "rejected": lambda taken: len(taken.refused),
    "receivedAt": lambda taken: moment_text(taken.received_at),
    "userErrors": lambda taken: taken.refused,
}
