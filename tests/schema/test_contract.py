"""The schema holds the agreed surface, letter by letter, and is the one that is checked in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    DefinitionNode,
    EnumTypeDefinitionNode,
    FieldDefinitionNode,
    InputObjectTypeDefinitionNode,
    InputValueDefinitionNode,
    InterfaceTypeDefinitionNode,
    ObjectTypeDefinitionNode,
    ObjectTypeExtensionNode,
    ScalarTypeDefinitionNode,
    parse,
    print_ast,
)

from models.viewer import Role
from schema.root import schema
from tests.platform import Platform

TESTS = Path(__file__).parents[1]
PRINTED = TESTS.parent / "schema" / "schema.graphql"
BUILT = TESTS / "contract.graphql"
AGREED = TESTS.parents[1] / "shared" / "contract" / "schema.graphql"

Surface = dict[str, str]
"""What each name of a schema is, by where it stands: `Query.user(userId:)` is an `ID!`."""


def surface(sdl: str) -> Surface:
    found: dict[str, str] = {}
    for definition in parse(sdl).definitions:
        for place, what in _places(definition):
            # Of a type and its extensions, the first says what it is.
            found.setdefault(place, what)
    return found


def _places(definition: DefinitionNode) -> Iterator[tuple[str, str]]:
    match definition:
        case (
            ObjectTypeDefinitionNode()
            | ObjectTypeExtensionNode()
            | InterfaceTypeDefinitionNode()
            | InputObjectTypeDefinitionNode()
        ):
            name = definition.name.value
            kind = "input" if isinstance(definition, InputObjectTypeDefinitionNode) else "type"
            kind = "interface" if isinstance(definition, InterfaceTypeDefinitionNode) else kind
            marks = [f"@{directive.name.value}" for directive in definition.directives or ()]
            interfaces = [interface.name.value for interface in getattr(definition, "interfaces", None) or ()]
            yield name, " ".join([kind, *sorted(interfaces), *marks])
            for field in definition.fields or ():
                yield from _field(name, field)
        case EnumTypeDefinitionNode():
            yield definition.name.value, "enum"
            for value in definition.values or ():
                yield f"{definition.name.value}.{value.name.value}", "value"
        case ScalarTypeDefinitionNode():
            yield definition.name.value, "scalar"


def _field(type_name: str, field: FieldDefinitionNode | InputValueDefinitionNode) -> Iterator[tuple[str, str]]:
    place = f"{type_name}.{field.name.value}"
    yield place, _with_default(field)
    for argument in getattr(field, "arguments", None) or ():
        yield f"{place}({argument.name.value}:)", _with_default(argument)


def _with_default(value: FieldDefinitionNode | InputValueDefinitionNode) -> str:
    default = getattr(value, "default_value", None)
    return print_ast(value.type) + (f" = {print_ast(default)}" if default else "")


def owner(place: str) -> str:
    return place.partition(".")[0]


PRINTED_SURFACE = surface(schema.as_str())
CONTRACT = surface(BUILT.read_text())


def test_the_schema_holds_all_of_the_contract() -> None:
    assert {place: PRINTED_SURFACE.get(place) for place in CONTRACT} == CONTRACT


def test_enums_have_the_values_of_the_contract_and_no_others() -> None:
    enums = {place for place, what in CONTRACT.items() if what == "enum"}
    ours = {place for place in PRINTED_SURFACE if owner(place) in enums}
    assert ours == {place for place in CONTRACT if owner(place) in enums}


def test_no_argument_or_input_field_is_demanded_beyond_the_contract() -> None:
    owners = {place for place, what in CONTRACT.items() if what.startswith("input")}
    more = {
        place: what
        for place, what in PRINTED_SURFACE.items()
        if place not in CONTRACT and (place.partition("(")[0] in CONTRACT or owner(place) in owners)
    }
    assert not more


@pytest.mark.skipif(not AGREED.exists(), reason="the agreed contract is no part of the project")
def test_the_copy_of_the_contract_agrees_with_it() -> None:
    assert surface(AGREED.read_text()) == CONTRACT


@pytest.mark.parametrize(
    "node", ["User", "ActivityEvent", "Session", "Milestone", "AtRiskStudent", "PageView", "ErrorGroup", "Access"]
)
def test_connections_have_edges_nodes_and_page_info(node: str) -> None:
    expected = {
        f"{node}Connection.edges": f"[{node}Edge!]!",
        f"{node}Connection.nodes": f"[{node}!]!",
        f"{node}Connection.pageInfo": "PageInfo!",
        f"{node}Edge.node": f"{node}!",
        f"{node}Edge.cursor": "String!",
    }
    assert expected.items() <= PRINTED_SURFACE.items()


def test_payload_inputs_are_those_of_the_taxonomy() -> None:
    taxonomy: dict[str, Any] = json.loads((TESTS / "taxonomy.json").read_text())
    expected = {
        f"{name}.{field['name']}": field["type"] for name, fields in taxonomy["inputs"].items() for field in fields
    }
    expected |= {f"EventInput.{event['field']}": event["input"] for event in taxonomy["events"]}
    expected |= {f"SafetySeverity.{value}": "value" for value in ("LOW", "MEDIUM", "HIGH", "CRITICAL")}
    owners = {owner(place) for place in expected}
    ours = {place: what for place, what in PRINTED_SURFACE.items() if "." in place and owner(place) in owners}
    assert ours == expected


def test_the_command_prints_the_checked_in_schema() -> None:
    command = [sys.executable, "-m", "questlog", "schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS.parent).stdout
    assert printed == schema.as_str() + "\n"
    assert PRINTED.read_text() == printed, "the schema has changed: questlog schema > schema/schema.graphql"


@pytest.mark.parametrize("body", [b"5", b"null", b'"x"', b"[]", b"[5]", b"", b"{", b"{}", b"NaN", b"\xff"])
async def test_a_body_that_is_no_request_is_the_client_s_fault(platform: Platform, body: bytes) -> None:
    answer = await platform.client.post("/graphql", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "written", ["2026-W01-1T00:00:00Z", "20260101T000000Z", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"]
)
async def test_a_moment_that_is_not_by_rfc_3339_is_refused(platform: Platform, written: str) -> None:
    query = "query ($from: DateTime) { activityEvents(from: $from) { nodes { id } } }"
    answer = await platform.ask(query, (Role.ADMIN, "root"), **{"from": written})
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]


async def test_very_many_types_are_one_argument(platform: Platform) -> None:
    query = "query ($types: [String!]) { activityEvents(types: $types) { nodes { id } } }"
    types = [f"type_{number}" for number in range(29_000)]
    assert await platform.data(query, (Role.ADMIN, "root"), types=types) == {"activityEvents": {"nodes": []}}


async def test_introspection_tells_that_an_event_is_of_one_type(platform: Platform) -> None:
    query = "{ __schema { types { name isOneOf } } }"
    kinds = (await platform.data(query))["__schema"]["types"]
    assert [kind["name"] for kind in kinds if kind["isOneOf"]] == ["EventInput"]
