"""The scalars of the contract."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import NewType
from uuid import UUID

import strawberry
from graphql import GraphQLError
from strawberry.schema.types.scalar import DEFAULT_SCALAR_REGISTRY
from strawberry.types.scalar import ScalarDefinition

BigInt = NewType("BigInt", int)
LARGEST_INT = 2**31 - 1
LARGEST = 2**53
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def moment(value: object) -> datetime:
    """A DateTime as it was sent, in UTC; raises GraphQLError."""
    try:
        if isinstance(value, str) and RFC_3339.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise GraphQLError(f"DateTime must be RFC 3339 with an offset, such as 2026-01-31T09:30:00Z, and is {value!r}")


def moment_text(value: datetime) -> str:
    """A DateTime as it is answered."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _big_integer(value: object) -> BigInt:
    if isinstance(value, bool) or not isinstance(value, int) or not -LARGEST <= value <= LARGEST:
        raise GraphQLError(f"BigInt must be a whole number between -2^53 and 2^53, and is {value!r}")
    return BigInt(value)


def _described(scalar: object, description: str) -> ScalarDefinition:
    """One of Strawberry's own, with more to say."""
    return replace(DEFAULT_SCALAR_REGISTRY[scalar], description=description)


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="A moment by RFC 3339, always with an offset, such as 2026-01-31T09:30:00Z; answered in UTC.",
        serialize=moment_text,
        parse_value=moment,
    ),
    BigInt: strawberry.scalar(
        name="BigInt",
        description="A whole number that may be past 2^31, up to 2^53, as a JSON number.",
        serialize=_big_integer,
        parse_value=_big_integer,
    ),
    date: _described(
        date, "A calendar day, such as 2026-01-31: in the learner's own time zone, unless a field says otherwise."
    ),
    UUID: _described(UUID, "A universally unique id (RFC 9562), such as 3f2504e0-4f89-41d3-9a0c-0305e82c3301."),
}
