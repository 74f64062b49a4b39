"""Every name in the schema says what it means, and every deprecation what to use instead, and until when it works."""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    specified_scalar_types,
)

PRINTED = build_schema((Path(__file__).parents[2] / "schema" / "schema.graphql").read_text())
"""As clients get it."""
GRAPHQL_S_OWN = specified_scalar_types.keys() | {"skip", "include", "deprecated", "specifiedBy", "oneOf"}
FILLERS = {"a", "an", "the", "it", "is", "of", "this", "that", "their", "in", "on", "for", "and", "or", "to", "by", ""}

Told = tuple[str, str | None, str | None]
"""A name by where it stands, its description, and why it is deprecated."""


def everything(schema: GraphQLSchema) -> Iterator[Told]:
    for kind in schema.type_map.values():
        if not kind.name.startswith("__") and kind.name not in GRAPHQL_S_OWN:
            yield kind.name, kind.description, None
            yield from members(kind)
    for directive in schema.directives:
        if directive.name not in GRAPHQL_S_OWN:
            yield f"@{directive.name}", directive.description, None


def members(kind: GraphQLNamedType) -> Iterator[Told]:
    if isinstance(kind, GraphQLEnumType):
        for name, value in kind.values.items():
            yield f"{kind.name}.{name}", value.description, value.deprecation_reason
    elif isinstance(kind, GraphQLInputObjectType | GraphQLObjectType | GraphQLInterfaceType):
        for name, field in kind.fields.items():
            yield f"{kind.name}.{name}", field.description, field.deprecation_reason
            for argument, of in getattr(field, "args", {}).items():
                yield f"{kind.name}.{name}({argument}:)", of.description, of.deprecation_reason


def words(text: str) -> set[str]:
    """A text's words, those within a camelCase or SNAKE_CASE name apart, without plurals and fillers."""
    apart = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)
    return {word.lower().rstrip("s") for word in apart} - FILLERS


def says_nothing(place: str, description: str | None) -> bool:
    """Whether there is no description, or no word in it that the name itself does not say."""
    return not words(description or "") - words(place)


def badly_deprecated(reason: str | None) -> bool:
    """Whether a reason does not say what to use, and after which day the name may be gone."""
    if reason is None:
        return False
    try:
        instead, _, day = reason.removesuffix(".").rpartition("Gone after ")
        date.fromisoformat(day)
    except ValueError:
        return True
    return not words(instead)


def test_every_name_has_a_description_that_says_more_than_the_name() -> None:
    assert not [place for place, description, _ in everything(PRINTED) if says_nothing(place, description)]


def test_every_deprecation_says_what_to_use_and_until_when_the_name_works() -> None:
    assert not {place: reason for place, _, reason in everything(PRINTED) if badly_deprecated(reason)}


@pytest.mark.parametrize(
    ("place", "description"),
    [
        ("User", None),
        ("User", ""),
        ("User", " "),
        ("User", "A user."),
        ("User.displayName", "Its display name"),
        ("User.displayName", "The user's displayName."),
        ("MilestoneKind.QUEST_STARTED", "Quest started"),
        ("Query.user(userId:)", "The id of the user."),
    ],
)
def test_a_description_that_says_nothing_is_found(place: str, description: str | None) -> None:
    assert says_nothing(place, description)


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        (None, False),
        ("Use engagement. Gone after 2027-06-30.", False),
        ("Use engagement. Gone after 2027-06-30", False),
        ("No longer supported", True),
        ("Use engagement.", True),
        ("Gone after 2027-06-30.", True),
        ("Use engagement. Gone after 2027-13-30.", True),
        ("Use engagement. Gone after next summer.", True),
    ],
)
def test_a_deprecation_without_a_way_out_or_a_day_is_found(reason: str | None, bad: bool) -> None:
    assert badly_deprecated(reason) is bad


def test_no_kind_of_name_is_overlooked() -> None:
    bare = build_schema(
        """
        directive @d on FIELD
        interface Node { id(a: Int @deprecated): ID! @deprecated }
        type Query implements Node { id(a: Int): ID! }
        enum Colour { RED @deprecated }
        input Paint { colour: Colour @deprecated }
        scalar Long
        """
    )
    found = {place: reason for place, description, reason in everything(bare) if says_nothing(place, description)}
    assert found.keys() == {
        *("@d", "Node", "Node.id", "Node.id(a:)", "Query", "Query.id", "Query.id(a:)"),
        *("Colour", "Colour.RED", "Paint", "Paint.colour", "Long"),
    }
    assert {place for place, reason in found.items() if badly_deprecated(reason)} == {
        *("Node.id", "Node.id(a:)", "Colour.RED", "Paint.colour"),
    }
