"""What means harm ends in an error with the right code, and tells no more than it must."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_required_argument,
    is_required_input_field,
)

from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.settings import Settings
from schema.node import global_id
from schema.root import SCHEMA
from tests.attacks import ATTACKS
from tests.household import ADMIN, CHILD, NOBODY, STRANGER, cursors, move_in, node_ids
from tests.platform import WIDE_LIMITS, Answer, Asker, Platform, new_platform
from tests.schema.test_statements import sent_by

ADA: Asker = (Role.ADMIN, ADMIN)
SAM: Asker = (Role.STUDENT, CHILD)
SERVICE: Asker = (Role.SERVICE, "the platform")
CODES = {
    "UNAUTHENTICATED",
    "FORBIDDEN",
    "NOT_FOUND",
    "BAD_USER_INPUT",
    "QUERY_TOO_COMPLEX",
    "RATE_LIMITED",
    "UNAVAILABLE",
    "GRAPHQL_PARSE_FAILED",
    "GRAPHQL_VALIDATION_FAILED",
}
TEXTS = (
    "",
    "\0",
    "a\0b",
    "\uffff",
    "\U0001f9d1\u200d\U0001f680",
    "\u202ea",
    "e" + "\u0301" * 500,
    "%_\\'\"; --",
    "x" * 9000,
)


@pytest.fixture(scope="module")
async def platform(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """In production, with as much to spend as the attacks need, and the household's people."""
    defaults = {name: Settings.model_fields[name].default for name in WIDE_LIMITS}
    settings = defaults | {"environment": "production", "cost_restore_rate": 0}
    async with new_platform(servers, tmp_path_factory.mktemp("platform"), **settings) as running:
        await move_in(running)
        yield running


async def attack(platform: Platform, body: bytes) -> tuple[int, Answer]:
    headers = {"authorization": f"Bearer {platform.token(Role.ADMIN, ADMIN)}", "content-type": "application/json"}
    answer = await platform.client.post("/graphql", content=body, headers=headers)
    return answer.status_code, answer.json()


def codes(answer: Answer) -> set[str]:
    return {error["extensions"]["code"] for error in answer.get("errors", [])}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_gets_its_code_and_the_next_question_its_answer(platform: Platform, name: str) -> None:
    for _ in range(2):
        status, answer = await attack(platform, ATTACKS[name].body)
        assert status in (200, 400)
        assert "data" not in answer or None in answer["data"].values()
        assert answer["errors"][0]["extensions"]["code"] == ATTACKS[name].code, answer["errors"][0]
        assert codes(answer) <= CODES
        assert len(json.dumps(answer)) < 100_000
    assert (await platform.data("{ viewer { role } }"))["viewer"]


# --------------------------------------------------------------------------------- what cannot be stored or read

VALUES: dict[str, Any] = {
    "UUID": lambda: str(uuid4()),
    "DateTime": lambda: datetime.now(UTC).isoformat(),
    "Date": lambda: "2015-01-31",
    "Int": lambda: 1,
    "Float": lambda: 0.5,
    "BigInt": lambda: 1,
    "Boolean": lambda: True,
    "JSON": dict,
    "String": lambda: "a",
    "ID": lambda: "sam",
}


def good(of_type: GraphQLInputType) -> Any:
    """A value that is taken."""
    nullable = get_nullable_type(of_type)
    if isinstance(nullable, GraphQLList):
        return [good(nullable.of_type)]
    if isinstance(nullable, GraphQLEnumType):
        return next(iter(nullable.values))
    if isinstance(nullable, GraphQLInputObjectType):
        required = {name: field for name, field in nullable.fields.items() if is_required_input_field(field)}
        if nullable.is_one_of:
            required = dict([next(iter(nullable.fields.items()))])
        return {name: good(field.type) for name, field in required.items()}
    return VALUES[get_named_type(of_type).name]()


def spoiled(of_type: GraphQLInputType, text: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values in each of which one text is this one, and where."""
    nullable = get_nullable_type(of_type)
    if isinstance(nullable, GraphQLList):
        for where, value in spoiled(nullable.of_type, text, path):
            yield where, [value]
    elif isinstance(nullable, GraphQLInputObjectType):
        for name, field in nullable.fields.items():
            for where, value in spoiled(field.type, text, f"{path}.{name}"):
                yield where, {name: value} if nullable.is_one_of else {**good(nullable), name: value}
    elif get_named_type(of_type).name in ("String", "ID"):
        yield path, text
    elif get_named_type(of_type).name == "JSON":
        yield path, {text: [text, {"a": text}]}


def fields(
    parent: GraphQLObjectType, above: str = "HERE", seen: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, Any]]:
    """Every field that has arguments: where it stands, its name, and what it is."""
    for name, field in parent.fields.items():
        of_type = get_named_type(field.type)
        if field.args:
            yield above, name, field
        if isinstance(of_type, GraphQLObjectType) and of_type.name not in seen:
            required = {each: good(arg.type) for each, arg in field.args.items() if is_required_argument(arg)}
            given = ", ".join(f"{each}: {json.dumps(value)}" for each, value in required.items())
            here = f"{name}({given})" if given else name
            yield from fields(of_type, above.replace("HERE", f"{here} {{ HERE }}"), (*seen, of_type.name))


def questions(text: str) -> Iterator[tuple[str, str, Any]]:
    """For each text in an argument: where it stands, an operation, and its one variable."""
    roots = (("query", SCHEMA.query_type), ("mutation", SCHEMA.mutation_type))
    for kind, root in roots:
        assert root
        for above, name, field in fields(root, seen=(root.name,)) if kind == "query" else fields_of(root):
            for argument, arg in field.args.items():
                required = {
                    each: good(other.type)
                    for each, other in field.args.items()
                    if is_required_argument(other) and each != argument
                }
                given = [f"{each}: {json.dumps(value)}" for each, value in required.items()] + [f"{argument}: $x"]
                below = " { __typename }" if is_composite_type(get_named_type(field.type)) else ""
                asked = above.replace("HERE", f"{name}({', '.join(given)}){below}")
                for where, value in spoiled(arg.type, text, argument):
                    yield f"{above} {name} {where}", f"{kind} ($x: {arg.type}) {{ {asked} }}", value


def fields_of(root: GraphQLObjectType) -> Iterator[tuple[str, str, Any]]:
    for name, field in root.fields.items():
        yield "HERE", name, field


PLACES = [where for where, _, _ in questions("a")]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_any_text_in_any_argument_is_answered(platform: Platform, text: str) -> None:
    for where, query, value in questions(text):
        answer = await platform.ask(query, SERVICE if query.startswith("mutation") else ADA, x=value)
        assert codes(answer) <= CODES, (where, answer)


def test_the_arguments_are_those_of_the_schema() -> None:
    assert len(PLACES) > 100
    for place in (
        "containing",
        "activityEvents types",
        "nodes ids",
        "events after",
        "groups before",
        "input.users.userId",
    ):
        assert any(place in where for where in PLACES), place


@pytest.mark.parametrize("escape", [r"\u0000", r"\uD83D\uDE80", r"\u{1F680}", r"\u{110000}", r"\uDE80"])
async def test_escapes_in_literals(platform: Platform, escape: str) -> None:
    for query in (
        f'{{ user(userId: "{escape}") {{ id }} }}',
        f'{{ node(id: "{escape}") {{ id }} }}',
        f'{{ pageViews(pathPrefix: "{escape}") {{ nodes {{ path }} }} }}',
        f'{{ activityEvents(containing: {{a: "{escape}"}}, types: ["{escape}"]) {{ nodes {{ id }} }} }}',
        f'{{ users(after: "{escape}") {{ nodes {{ id }} }} }}',
    ):
        assert codes(await platform.ask(query, ADA)) <= CODES, query


# ------------------------------------------------------------------------------------- ids and cursors of others

KEYS = {
    "no base64": "!!!",
    "no JSON": "YWJj",
    "no list": "MQ",
    "an empty list": "W10",
    "nothing": "",
    "a kind of ours without a key": global_id("User"),
    "a kind that is none of ours": global_id("Nobody", "sam"),
    "too long a key": global_id("User", "sam", "sam"),
    "a key that is no UUID": global_id("ActivityEvent", "a", "b", "c"),
    "a key that cannot be stored": global_id("User", "\0"),
    "a year that is none": global_id("Session", uuid4(), "0000-00-00T00:00:00Z", uuid4()),
    "a deep one": "W1" * 4000,
}


@pytest.mark.parametrize("name", KEYS)
async def test_wrong_ids_find_nothing_and_wrong_cursors_are_refused(platform: Platform, name: str) -> None:
    found = await platform.data("query ($x: ID!) { node(id: $x) { id } nodes(ids: [$x]) { id } }", ADA, x=KEYS[name])
    assert found == {"node": None, "nodes": [None]}
    answer = await platform.ask("query ($x: String) { users(after: $x) { nodes { id } } }", ADA, x=KEYS[name])
    assert codes(answer) == {"BAD_USER_INPUT"}


async def test_an_id_or_a_cursor_of_something_else_is_none(platform: Platform) -> None:
    for kind, node_id in (await node_ids(platform, CHILD)).items():
        for other in {"User", "ActivityEvent", "Session", "Milestone"} - {kind}:
            query = f"query ($x: ID!) {{ node(id: $x) {{ ... on {other} {{ id }} }} user(userId: $x) {{ id }} }}"
            answer = await platform.ask(query, ADA, x=node_id)
            assert answer["data"] == {"node": {}, "user": None}
            assert codes(answer) == {"NOT_FOUND"}
    of_lists = await cursors(platform, CHILD)
    for cursor in of_lists.values():
        answer = await platform.ask("query ($x: String) { users(after: $x) { nodes { id } } }", ADA, x=cursor)
        assert codes(answer) == {"BAD_USER_INPUT"}


# ------------------------------------------------------------------------------------ not found, or not theirs

OF_SOMEBODY = {
    "user": "query ($x: ID!) { user(userId: $x) { id displayName events { nodes { id } } } }",
    "engagement": "query ($x: ID!) { engagement(userId: $x) { sessions daily { xp } } }",
    "journey": "query ($x: ID!) { journey(userId: $x) { totalXp milestones { nodes { id } } } }",
    "eventCounts": "query ($x: ID!) { eventCounts(userId: $x) { count } }",
}
OF_NODES = "query ($x: ID!) { node(id: $x) { id } nodes(ids: [$x, $x]) { id } }"


async def told(platform: Platform, query: str, asker: Asker, who: str) -> tuple[Answer, list[tuple[str, list[type]]]]:
    """The answer, and the statements that it took, with the types of what they were asked."""
    with sent_by(platform) as sent:
        answer = await platform.ask(query, asker, x=who)
    return answer, [(statement, [type(each) for each in parameters]) for statement, parameters in sent]


@pytest.mark.parametrize("asker", [SAM, (Role.PARENT, "pat")])
@pytest.mark.parametrize("name", OF_SOMEBODY)
async def test_nobody_can_tell_that_somebody_is_there(platform: Platform, name: str, asker: Asker) -> None:
    await platform.data("{ viewer { role } }", asker)
    not_theirs = await told(platform, OF_SOMEBODY[name], asker, STRANGER)
    not_there = await told(platform, OF_SOMEBODY[name], asker, NOBODY)
    assert codes(not_theirs[0]) == {"NOT_FOUND"}
    assert not_theirs == not_there
    assert not_theirs[1]


@pytest.mark.parametrize("asker", [None, SAM, (Role.PARENT, "pat")])
@pytest.mark.parametrize("kind", ["User", "ActivityEvent", "Session", "Milestone"])
async def test_nobody_can_tell_that_a_node_is_there(platform: Platform, kind: str, asker: Asker) -> None:
    await platform.data("{ viewer { role } }", asker)
    theirs = (await node_ids(platform, STRANGER))[kind]
    nobodys = global_id("User", NOBODY) if kind == "User" else global_id(kind, *nobodys_key(kind))
    not_theirs = await told(platform, OF_NODES, asker, theirs)
    assert not_theirs[0] == {"data": {"node": None, "nodes": [None, None]}}
    assert not_theirs == await told(platform, OF_NODES, asker, nobodys)


def nobodys_key(kind: str) -> list[object]:
    key = [uuid4(), uuid4(), datetime.now(UTC).isoformat()]
    return [key[0], key[2], key[1]] if kind == "Session" else key


# ------------------------------------------------------------------------------------------ what the schema tells

TYPOS: dict[str, tuple[str, Any]] = {
    "a field": ("{ viewr { role } }", None),
    "a field below": ("{ viewer { rolle } }", None),
    "a field of another type": ("{ node(id: 1) { userId } }", None),
    "an object without its fields": ("{ viewer { user } }", None),
    "an argument": ('{ user(userIdd: "a") { id } }', None),
    "an argument of a directive": ("{ viewer @skip(iff: true) { role } }", None),
    "a directive": ("{ viewer @skipp(if: true) { role } }", None),
    "an input field": ("mutation { linkGuardian(input: {guardianIdd: 1}) { userErrors { code } } }", None),
    "an enum value": ("{ users(role: STUDENTT) { nodes { id } } }", None),
    "an enum value as text": ('{ users(role: "STUDENT") { nodes { id } } }', None),
    "a default": ("query ($x: UserRole = STUDENTT) { users(role: $x) { nodes { id } } }", None),
    "a type": ("query ($x: UserRolle) { users(role: $x) { nodes { id } } }", None),
    "a type of a fragment": ("{ viewer { ... on Viewerr { role } } }", None),
    "a fragment": ("{ viewer { ...rolee } } fragment role on Viewer { role }", None),
    "a variable": ("query ($role: UserRole) { users(role: $rolee) { nodes { id } } }", None),
    "an enum value in a variable": ("query ($x: UserRole) { users(role: $x) { nodes { id } } }", "STUDENTT"),
    "an input field in a variable": (
        "mutation ($x: LinkGuardianInput!) { linkGuardian(input: $x) { userErrors { code } } }",
        {"guardianIdd": "a"},
    ),
    "an event in a variable": (
        "mutation ($x: EventInput!) { trackEvent(input: {event: $x}) { accepted } }",
        {"pageVieww": {}},
    ),
}
SUGGESTING = {
    "a field",
    "a field below",
    "an object without its fields",
    "an argument",
    "an enum value",
    "a type",
    "an enum value in a variable",
}


@pytest.mark.parametrize("name", TYPOS)
async def test_only_admins_are_told_what_was_meant(platform: Platform, name: str) -> None:
    query, variable = TYPOS[name]
    for asker in (None, SAM, SERVICE):
        answer = await platform.ask(query, asker, x=variable)
        assert codes(answer) <= {"GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT"}
        assert codes(answer)
        assert "did you mean" not in json.dumps(answer).lower()
    if name in SUGGESTING:
        assert "Did you mean" in json.dumps(await platform.ask(query, ADA, x=variable))


@pytest.mark.parametrize("asked", ["__schema { queryType { name } }", '__type(name: "User") { name }'])
async def test_only_admins_may_look_into_the_schema(platform: Platform, asked: str) -> None:
    for asker in (None, SAM, SERVICE):
        for query in (f"{{ {asked} }}", f"{{ ...a }} fragment a on Query {{ {asked} }}"):
            assert codes(await platform.ask(query, asker)) == {"GRAPHQL_VALIDATION_FAILED"}
        assert await platform.data("{ __typename viewer { __typename } }", asker)
    assert await platform.data(f"{{ {asked} }}", ADA)
