"""Requests that mean harm: each by its name, with its body and the code that it must get."""

from dataclasses import dataclass
from typing import Any

import orjson

DIGITS = "9" * 5000
MIB = 2**20


@dataclass(frozen=True)
class Attack:
    """A body that an admin sends, and the code of the error that answers it."""

    code: str
    body: bytes


def _asked(code: str, query: str, **variables: Any) -> Attack:
    return Attack(code, orjson.dumps({"query": query, "variables": variables}))


def _with_variable(code: str, query: str, variables: str) -> Attack:
    """With variables that are no good JSON, or none that this process could write."""
    return Attack(code, b'{"query": %b, "variables": {"x": %b}}' % (orjson.dumps(query), variables.encode()))


def _fragments(number: int, on: str, body: str) -> str:
    """Each of them names the next, as {next}, and the last one the first."""
    return " ".join(
        f"fragment f{each} on {on} {{ {body.format(each=each, next=f'f{(each + 1) % number}')} }}"
        for each in range(number)
    )


def _chain(number: int, on: str, body: str, last: str) -> str:
    return _fragments(number, on, body).replace("...f0", last)


def _all_others(number: int) -> str:
    """Fragments that each spread all that come after them, and ask for what there is not."""
    return "{ viewer { ...f0 } } " + " ".join(
        f"fragment f{one} on Viewer {{ role x {' '.join(f'...f{other}' for other in range(one + 1, number))} }}"
        for one in range(number)
    )


def _big(query: str) -> str:
    """With as much in place of HERE as a body may hold."""
    return query.replace("HERE", "x" * (MIB - 1000))


COMPLEX, INVALID, UNPARSED, BAD = (
    "QUERY_TOO_COMPLEX",
    "GRAPHQL_VALIDATION_FAILED",
    "GRAPHQL_PARSE_FAILED",
    "BAD_USER_INPUT",
)
OF_IDS = "query ($x: [ID!]!) { nodes(ids: $x) { id } }"
OF_DAYS = "query ($x: Int!) { eventCounts(days: $x) { count } }"
OF_RISK = "query ($x: Float!) { atRiskStudents(threshold: $x) { nodes { user { userId } } } }"
OF_PAYLOADS = "query ($x: JSON) { activityEvents(containing: $x) { nodes { id } } }"
FIELDS = " ".join(f"f{each}: fields {{ name args {{ name }} }}" for each in range(5))
TWENTY_TIMES = " ".join(f"a{each}: trackEvents(input: {{events: $x}}) {{ accepted }}" for each in range(20))
TOLD_50_TIMES = " ".join(f"a{each}: userErrors {{ message }}" for each in range(50))
TRACK = "mutation ($x: [TrackEventInput!]!) { trackEvents(input: {events: $x}) { accepted } }"

EVENT = {
    "eventId": "12345678-1234-5678-1234-567812345678",
    "occurredAt": "2026-01-31T09:30:00Z",
    "event": {"tutorOpened": {}},
}

ATTACKS = {
    "aliases": _asked(COMPLEX, "{" + " ".join(f"a{each}: viewer {{ role }}" for each in range(300)) + "}"),
    "aliases in fragments": _asked(
        COMPLEX,
        "{ "
        + " ".join("...a" for _ in range(9))
        + " viewer { ...b } } fragment a on Query { "
        + " ".join(f"a{each}: __typename" for each in range(30))
        + " } fragment b on Viewer { "
        + " ".join(f"a{each}: role" for each in range(30))
        + " }",
    ),
    "many at the root": _asked(
        COMPLEX, "query { " + " ".join(f"a{each}: intake {{ waiting }}" for each in range(40)) + "}"
    ),
    "one field again and again": _asked(COMPLEX, "{ viewer { " + "role " * 1900 + "} }"),
    "one object again and again": _asked(COMPLEX, "{" + "viewer { role } " * 400 + "}"),
    "one list again and again": _asked(COMPLEX, "{" + "users(first: 1, role: STUDENT) { nodes { id } } " * 100 + "}"),
    "fragments that double": _asked(
        COMPLEX,
        "{ viewer { ...f0 } } " + _chain(90, "Viewer", "a: user {{ ...{next} }} b: user {{ ...{next} }}", "role"),
    ),
    "fragments that multiply": _asked(
        COMPLEX,
        "{ viewer { ...f0 } } "
        + _chain(14, "Viewer", " ".join(f"a{n}: user {{{{ ...{{next}} }}}}" for n in range(15)), "role"),
    ),
    "fragments that spread all others": _asked(COMPLEX, _all_others(40)),
    "some fragments that spread all others": _asked(INVALID, _all_others(24)),
    "fragments side by side": _asked(
        INVALID,
        "{ viewer { "
        + " ".join(f"...f{each}" for each in range(98))
        + "} } "
        + _fragments(98, "Viewer", "x{each} y{each} z{each}"),
    ),
    "a circular fragment": _asked(INVALID, "{ viewer { ...f0 } } " + _fragments(1, "Viewer", "role ...{next}")),
    "circular fragments": _asked(INVALID, "{ viewer { ...f0 } } " + _fragments(99, "Viewer", "...{next}")),
    "circular fragments below fields": _asked(
        INVALID, "{ viewer { ...f0 } } " + _fragments(60, "Viewer", "user {{ ...{next} ...{next} }}")
    ),
    "thousands of fragments": _asked(COMPLEX, "{ __typename } " + _fragments(3000, "Viewer", "role")),
    "thousands of operations": _asked(COMPLEX, " ".join(f"query q{each} {{ __typename }}" for each in range(3000))),
    "hundreds of operations": _asked(COMPLEX, " ".join(f"query q{each} {{ __typename }}" for each in range(300))),
    "thousands of variables": _asked(
        COMPLEX, "query (" + " ".join(f"$v{each}: Int" for each in range(3000)) + ") { __typename }"
    ),
    "hundreds of variables": _asked(
        INVALID, "query (" + " ".join(f"$v{each}: Int" for each in range(480)) + ") { __typename }"
    ),
    "unknown fields": _asked(INVALID, "{ viewer { " + " ".join(f"rolle{each}" for each in range(1900)) + "} }"),
    "unknown arguments": _asked(
        INVALID, "{ users(" + " ".join(f"a{each}: 1" for each in range(600)) + ") { nodes { id } } }"
    ),
    "selections 10,000 deep": _asked(COMPLEX, "{ viewer " * 10_000 + "}" * 10_000),
    "selections 190 deep": _asked(COMPLEX, "{ viewer " * 190 + "}" * 190),
    "inline fragments 10,000 deep": _asked(
        COMPLEX, "{ viewer " + "{ ... on Viewer " * 10_000 + "{ role }" + "}" * 10_001
    ),
    "lists 10,000 deep": _asked(COMPLEX, "{ nodes(ids: " + "[" * 10_000 + "]" * 10_000 + ") { id } }"),
    "lists 190 deep": _asked(INVALID, "{ nodes(ids: " + "[" * 190 + "]" * 190 + ") { id } }"),
    "objects 10,000 deep": _asked(
        COMPLEX, "{ activityEvents(containing: " + "{a: " * 10_000 + "1" + "}" * 10_000 + ") { nodes { id } } }"
    ),
    "types 10,000 deep": _asked(COMPLEX, "query ($x: " + "[" * 10_000 + "Int" + "]" * 10_000 + ") { __typename }"),
    "lists 10,000 deep in a variable": _with_variable(BAD, OF_IDS, "[" * 10_000 + "]" * 10_000),
    "lists 1,000 deep in a variable": _with_variable(BAD, OF_IDS, "[" * 1000 + "]" * 1000),
    "objects 10,000 deep in a variable": _with_variable(BAD, OF_PAYLOADS, '{"a": ' * 10_000 + "1" + "}" * 10_000),
    "objects 1,000 deep in a variable": _with_variable(BAD, OF_PAYLOADS, '{"a": ' * 1000 + "1" + "}" * 1000),
    "a megabyte of directives": _asked(COMPLEX, "{ viewer " + "@skip(if: false) " * (MIB // 18) + "{ role } }"),
    "some directives": _asked(COMPLEX, "{ viewer " + "@skip(if: false) " * 300 + "{ role } }"),
    "unknown directives": _asked(COMPLEX, "{ viewer " + "@x " * 900 + "{ role } }"),
    "a megabyte of one string": _asked(COMPLEX, _big('{ user(userId: "HERE") { id } }')),
    "a megabyte of one block string": _asked(COMPLEX, _big('{ user(userId: """HERE""") { id } }')),
    "a megabyte of comment": _asked(COMPLEX, _big("{ viewer { role } } # HERE")),
    "a megabyte of commas": _asked(COMPLEX, "," * (MIB - 1000) + "{ viewer { role } }"),
    "a megabyte of one name": _asked(COMPLEX, _big("{ HERE }")),
    "a megabyte of one string in a variable": _asked(
        "NOT_FOUND", "query ($x: ID!) { user(userId: $x) { id } }", x="x" * (MIB - 1000)
    ),
    "200,000 ids": _asked(COMPLEX, OF_IDS, x=["a"] * 200_000),
    "200,000 wrong ids": _asked(COMPLEX, OF_IDS, x=[{}] * 200_000),
    "200,000 events": _asked(COMPLEX, TRACK, x=[{}] * 200_000),
    "25,000 wrong events": _asked(BAD, TRACK, x=[{}] * 25_000),
    "4,200 events": _asked(BAD, TRACK.replace("accepted", "...{ accepted }"), x=[EVENT] * 4200),
    "events 20 times": _asked(BAD, f"mutation ($x: [TrackEventInput!]!) {{ {TWENTY_TIMES} }}", x=[EVENT] * 200),
    "25,000 keys": _asked(BAD, TRACK, x=[{f"k{each}": 1 for each in range(25_000)}]),
    "70,000 keys": _asked(COMPLEX, TRACK, x=[{f"k{each}": 1 for each in range(70_000)}]),
    "1,000 users 20 times": _asked(
        COMPLEX,
        "mutation ($x: [UserInput!]!) { "
        + " ".join(f"a{each}: upsertUsers(input: {{users: $x}}) {{ userErrors {{ code }} }}" for each in range(20))
        + " }",
        x=[{"userId": str(each), "role": "STUDENT"} for each in range(1000)],
    ),
    "introspection 20 times": _asked(
        COMPLEX, "{" + " ".join(f"a{each}: __schema {{ types {{ fields {{ name }} }} }}" for each in range(20)) + "}"
    ),
    "introspection of everything twice": _asked(
        COMPLEX, "{ __schema { " + " ".join(f"a{each}: types {{ {FIELDS} }}" for each in range(2)) + " } }"
    ),
    "what is told of events 50 times": _asked(COMPLEX, TRACK.replace("accepted", TOLD_50_TIMES), x=[EVENT] * 500),
    "payloads 50 times": _asked(
        COMPLEX,
        "{ activityEvents(first: 100) { nodes { " + " ".join(f"a{each}: data" for each in range(50)) + " } } }",
    ),
    "half a string": _asked(UNPARSED, '{ user(userId: "'),
    "half of a surrogate pair": _asked(UNPARSED, '{ user(userId: "\\uD800") { id } }'),
    "half of a surrogate pair in a variable": _with_variable(BAD, OF_IDS, '["\\ud800"]'),
    "an Int past 2^31": _asked(INVALID, "{ eventCounts(days: 2147483648) { count } }"),
    "an Int of 5,000 digits": _asked(COMPLEX, f"{{ eventCounts(days: {DIGITS}) {{ count }} }}"),
    "an ID of 5,000 digits": _asked(COMPLEX, f"{{ user(userId: {DIGITS}) {{ id }} }}"),
    "a Float of 5,000 digits": _asked(
        COMPLEX, f"{{ atRiskStudents(threshold: {DIGITS}) {{ nodes {{ user {{ id }} }} }} }}"
    ),
    "5,000 digits in JSON": _asked(COMPLEX, f"{{ activityEvents(containing: {{a: {DIGITS}}}) {{ nodes {{ id }} }} }}"),
    "an Int past 2^31 in a variable": _asked(BAD, OF_DAYS, x=2**31),
    "an Int past 2^63 in a variable": _with_variable(BAD, OF_DAYS, str(2**70)),
    "an Int of 5,000 digits in a variable": _with_variable(BAD, OF_DAYS, DIGITS),
    "a default of 5,000 digits": _asked(COMPLEX, f"query ($x: Int = {DIGITS}) {{ eventCounts(days: $x) {{ count }} }}"),
    "an infinite Float": _asked(BAD, "{ atRiskStudents(threshold: 1e999) { nodes { user { id } } } }"),
    "an infinite Float in a variable": _with_variable(BAD, OF_RISK, "1e999"),
    "an infinite number in JSON": _asked(BAD, "{ activityEvents(containing: {a: 1e999}) { nodes { id } } }"),
    "NaN in a variable": _with_variable(BAD, OF_RISK, "NaN"),
    "long pages of long pages": _asked(
        COMPLEX, "{ users(first: 100) { nodes { events(first: 100) { nodes { id } } } } }"
    ),
    "columns of days again and again": _asked(
        COMPLEX,
        "{ users(first: 100) { nodes { engagement(days: 365) { "
        + " ".join(f"d{each}: daily {{ dates events activeMinutes questsCompleted xp }}" for each in range(20))
        + " } } } }",
    ),
    "columns of days of many pages": _asked(
        COMPLEX, "{ pageViews(days: 365, first: 100) { nodes { daily { dates views uniqueUsers } } } }"
    ),
    "long pages by a variable": _asked(
        COMPLEX, "query ($x: Int) { users(first: $x) { nodes { events(first: $x) { nodes { id } } } } }", x=100
    ),
}
