"""A question costs the objects that its answer may hold, and its viewer's bucket holds so much."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from graphql import OperationDefinitionNode, get_introspection_query, parse, validate
from sqlalchemy import text

from models.viewer import Role
from questlog.demo.figures import LEARNERS
from questlog.embedded import EmbeddedServers
from questlog.settings import Settings
from schema.cost import price_of
from schema.root import SCHEMA
from tests.bench.reading import AT_RISK, OF_A_PARENT
from tests.platform import TRACK, Answer, Asker, Platform, new_api, until

ADA: Asker = (Role.ADMIN, "ada")
EVE: Asker = (Role.STUDENT, "eve")
USERS = "query ($first: Int) { users(first: $first) { nodes { id } } }"


MESSAGES = " ".join(f"a{each}: message" for each in range(41))


def cost(query: str, **variables: Any) -> int:
    document = parse(query)
    assert not validate(SCHEMA, document)
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    return price_of(SCHEMA, document, operation).cost.of(variables)


@pytest.mark.parametrize(
    ("query", "price"),
    [
        ("{ __typename }", 0),
        ('{ __type(name: "User") { name } }', 0),
        ('{ __type(name: "User") { fields { name args { name } type { ofType { name } } } } }', 6),
        ("{ __schema { queryType { name } } }", 1),
        ("{ __schema { types { name } } }", 101),
        ("{ a: __schema { types { name } } b: __schema { types { fields { name } enumValues { name } } } }", 602),
        (get_introspection_query(), 1116),
        ("{ viewer { role } }", 1),
        ("{ viewer { user { id displayName } } }", 2),
        ("{ viewer { children { id } } }", 11),
        ("{ users { nodes { id } } }", 21),
        ("{ users { pageInfo { hasNextPage } } }", 1),
        ("{ users(first: 5) { nodes { id } } }", 6),
        ("{ users(last: 5) { edges { cursor node { id } } } }", 6),
        ("{ users(first: 5) { edges { node { id } } nodes { id } } }", 11),
        ("{ users(first: 1000) { nodes { id } } }", 101),
        ("{ users(first: -1) { nodes { id } } }", 1),
        ("{ users(first: null) { nodes { id } } }", 21),
        ("{ users(first: 10) { nodes { events(first: 10) { nodes { id } } engagement { sessions } } } }", 151),
        ('{ engagement(userId: "a") { sessions } }', 3),
        ('{ engagement(userId: "a", days: 7) { sessions daily { xp } } }', 4),
        ('{ engagement(userId: "a", days: 91) { daily { dates events } } }', 17),
        ('{ engagement(userId: "a", days: 365) { a: daily { xp } b: daily { xp c: xp } } }', 79),
        ('{ engagement(userId: "a", days: 9999) { daily { xp } } }', 40),
        ("{ users(first: 5) { nodes { engagement(days: 30) { daily { xp } } } } }", 36),
        ("{ pageViews(first: 5) { nodes { path daily { dates views } } } }", 33),
        ("{ pageViews(days: 60, first: 5) { nodes { daily { views } } } }", 29),
        ("{ errors { totalErrors recentErrors(first: 3) { id } } }", 5),
        ('{ nodes(ids: ["a", "b", "c"]) { id } }', 3),
        ('{ nodes(ids: ["a", "b"]) { ... on User { journey { totalXp } } ... on Session { id } } }', 4),
        ('{ node(id: "a") { ... on Node { id } ... on User { sessions(first: 2) { nodes { id } } } } }', 4),
        ("{ viewer { HERE } }".replace("HERE", " ".join(f"a{each}: role" for each in range(20))), 1),
        ("{ viewer { HERE } }".replace("HERE", " ".join(f"a{each}: role" for each in range(41))), 3),
        ("{ activityEvents(first: 10) { nodes { data } } }", 11),
        ("{ activityEvents(first: 10) { nodes { a: data id } } }", 21),
        ("{ activityEvents(first: 10) { nodes { a: data b: data c: data } } }", 31),
        ("{ popularQuests { questId } }", 10),
        ("{ popularQuests(limit: 3) { questId } }", 3),
        ('{ journey(userId: "a") { recentCompletions { xp } } }', 6),
        ("{ eventCounts { count } }", 9),
        ("{ a: viewer { role } b: viewer { role } }", 2),
        ("{ viewer { role } viewer { user { id } } ...f ...f } fragment f on Query { viewer { user { role } } }", 2),
        ("{ viewer { user { ...f ...f } } } fragment f on User { journey { totalXp } }", 3),
        ("mutation { upsertUsers(input: {users: []}) { users { userId } } }", 12),
        ("mutation { upsertUsers(input: {users: []}) { userErrors { field code } } }", 13),
        ('mutation { linkGuardian(input: {guardianId: "a", childId: "b"}) { child { userId } } }', 12),
    ],
)
def test_an_object_costs_1_and_a_page_as_often_as_it_is_long(query: str, price: int) -> None:
    assert cost(query) == price


DASHBOARD = """
{
  viewer {
    children {
      displayName journey { totalXp recentCompletions { questTitle } }
      engagement(days: 90) { activeDays daily { dates events activeMinutes questsCompleted xp } }
    }
  }
}
"""
PAGES = "{ pageViews(days: 90, first: 50) { nodes { path views daily { dates views uniqueUsers } } } }"


@pytest.mark.parametrize("query", [DASHBOARD, PAGES, OF_A_PARENT, AT_RISK, LEARNERS, get_introspection_query()])
def test_pages_of_parents_and_admins_are_well_within_the_limit(query: str) -> None:
    assert cost(query, days=90) <= Settings.model_fields["question_cost"].default / 2


def test_variables_say_how_long_a_page_is() -> None:
    assert cost(USERS) == 21
    assert cost(USERS, first=3) == 4
    assert cost(USERS, first=3.0) == 4
    assert cost(USERS, first=None) == 21
    assert cost(USERS, first="three") == 2
    assert cost(USERS.replace("Int", "Int = 7")) == 8
    assert cost(USERS.replace("Int", "Int = 7"), first=3) == 4
    days = 'query ($days: Int! = 40) { engagement(userId: "a", days: $days) { daily { xp } } }'
    assert cost(days) == 6
    assert cost(days, days=100) == 12
    upsert = "mutation ($users: [UserInput!]!) { upsertUsers(input: {users: $users}) { userErrors { code } } }"
    assert cost(upsert, users=[{}] * 1000) == 2010
    assert cost(upsert.replace("]!)", "]! = [" + "{userId: 1, role: ADMIN}" * 2 + "])")) == 14
    assert cost(upsert, users={}) == cost(upsert, users=None) == cost(upsert) == 12
    whole = "mutation ($input: UpsertUsersInput!) { upsertUsers(input: $input) { userErrors { code } } }"
    assert cost(whole, input={"users": [{}] * 1000}) == 2010
    assert cost(whole, input=[]) == 12
    nodes = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert cost(nodes, ids=["a"] * 50) == 50
    assert cost(nodes, ids="a") == 1


def test_tracking_costs_nothing_but_what_is_told_of_an_event_again() -> None:
    events: list[Answer] = [{}] * 100
    told = "userErrors { index eventId field code message }"
    track = "mutation ($events: [TrackEventInput!]!) { trackEvents(input: {events: $events}) { HERE } }"
    assert cost(track.replace("HERE", f"__typename accepted {told}"), events=events) == 0
    assert cost(track.replace("HERE", f"{told} a: {told} b: {told}"), events=events) == 400
    assert cost(track.replace("HERE", "userErrors { HERE }").replace("HERE", MESSAGES), events=events) == 100


async def whole(api: Platform, query: str, asker: Asker = None, **variables: Any) -> Answer:
    """The answer with what it says of its cost."""
    headers = {"authorization": f"Bearer {api.token(*asker)}"} if asker else {}
    answer: Answer = (
        await api.client.post("/graphql", json={"query": query, "variables": variables}, headers=headers)
    ).json()
    return answer


async def test_what_costs_too_much_is_refused_before_anything_runs(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, question_cost=100) as api:
        (error,) = (await whole(api, USERS, ADA, first=100))["errors"]
        assert error["extensions"]["code"] == "QUERY_TOO_COMPLEX"
        assert error["extensions"]["cost"] == {"requestedQueryCost": 101, "maximumQueryCost": 100}
        async with api.superuser.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM users")) == 0
        assert (await whole(api, USERS, ADA, first=99))["data"]


async def test_a_bucket_runs_dry_and_is_the_viewers_own(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, question_cost=100, cost_maximum=130, cost_restore_rate=1) as api:
        answer = await whole(api, USERS, ADA, first=99)
        told = answer["extensions"]["cost"]
        assert (told["requestedQueryCost"], told["maximumQueryCost"]) == (100, 100)
        assert told["throttleStatus"] == {"maximumAvailable": 130, "currentlyAvailable": 30, "restoreRate": 1}
        (error,) = (await whole(api, USERS, ADA, first=99))["errors"]
        assert error["extensions"]["code"] == "RATE_LIMITED"
        assert 0 < error["extensions"]["retryAfterMs"] <= 70_000
        assert re.search(r"costs 100, and \d+ are left of 130", error["message"])
        assert (await whole(api, USERS, EVE, first=99))["data"]
        assert (await whole(api, "{ viewer { role } }"))["extensions"]["cost"]["throttleStatus"][
            "currentlyAvailable"
        ] == 129


async def test_a_bucket_fills_again(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, question_cost=100, cost_maximum=100, cost_restore_rate=500) as api:

        async def is_full_enough() -> bool:
            return "errors" not in await whole(api, USERS, ADA, first=99)

        for _ in range(3):
            await until(is_full_enough)


async def test_many_at_once_get_no_more_than_there_is(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, question_cost=100, cost_maximum=100, cost_restore_rate=1) as api:
        await whole(api, "{ __typename }", ADA)
        answers = await asyncio.gather(*(whole(api, USERS, ADA, first=24) for _ in range(10)))
        assert sum("errors" not in answer for answer in answers) == 4


NOT_COMPILED = TRACK.replace("accepted", "accepted @skip(if: false)")


@pytest.mark.parametrize("query", ["{ __typename }", TRACK, NOT_COMPILED])
async def test_what_costs_nothing_has_no_bucket(servers: EmbeddedServers, tmp_path: Path, query: str) -> None:
    async with new_api(servers, tmp_path) as api:
        assert "extensions" not in await whole(api, query, EVE, events=[])
        assert not await keys(api)


async def keys(api: Platform) -> list[bytes]:
    found: list[bytes] = await api.api.intake.queue.keys("questlog:cost:*")
    return found


async def test_a_bucket_names_no_address(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, cost_restore_rate=1) as api:
        await whole(api, "{ viewer { role } }")
        assert await keys(api) == [b"questlog:cost:address:127.0.0.0/24"]


async def test_without_valkey_everybody_may_ask(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(own_servers, tmp_path, question_cost=100, cost_maximum=100, cost_restore_rate=1) as api:
        await own_servers.valkey.stop()
        try:
            for _ in range(3):
                answer = await whole(api, USERS, ADA, first=99)
                assert answer["data"]
                assert answer["extensions"]["cost"] == {"requestedQueryCost": 100, "maximumQueryCost": 100}
        finally:
            await own_servers.valkey.start()
