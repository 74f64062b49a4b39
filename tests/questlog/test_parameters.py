"""Requests that are none, and in which media type and status each request is answered."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.media_type import GRAPHQL, JSON, preferred
from tests.platform import Platform, new_api

ROLE = "{ viewer { role } }"
ANSWER = {"viewer": {"role": "ANONYMOUS"}}


@pytest.fixture(scope="module")
async def api(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with new_api(servers, tmp_path_factory.mktemp("api"), queries_by_get=True) as platform:
        yield platform


async def post(api: Platform, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": JSON} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.client.post("/graphql", content=content, headers=sent)


def message(answer: httpx.Response) -> str:
    assert set(answer.json()) == {"errors"}
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["extensions"]["requestId"] == answer.headers["x-request-id"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b'\xef\xbb\xbf{"query": "{ viewer { role } }"}', "the body is no JSON"),
        (b'{"query": "\xff"}', "the body is no JSON"),
        (b'{"query": "{ viewer { role } }", "variables": {"a": NaN}}', "the body is no JSON"),
        (b'{"query": "\\ud800"}', "the body is no JSON"),
        (b"[" * 5000 + b"]" * 5000, "the body is no JSON"),
        ([{"query": ROLE}], "the body must be an object, and is an array"),
        (7, "the body must be an object"),
        ({}, "query or documentId is needed"),
        ({"qeury": ROLE}, "query or documentId is needed"),
        ({"query": None}, "query or documentId is needed"),
        ({"query": ROLE, "documentId": "a"}, "query and documentId exclude each other"),
        ({"query": 1}, "query must be a string, and is a number"),
        ({"documentId": True}, "documentId must be a string, and is a boolean"),
        ({"query": ROLE, "operationName": []}, "operationName must be a string, and is an array"),
        ({"query": ROLE, "variables": "{}"}, "variables must be an object, and is a string"),
        ({"query": ROLE, "extensions": 1.5}, "extensions must be an object, and is a number"),
    ],
)
@pytest.mark.parametrize("accept", [JSON, GRAPHQL])
async def test_what_is_no_request_is_refused_with_the_reason(
    api: Platform, body: Any, reason: str, accept: str
) -> None:
    answer = await post(api, body, accept=accept)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == f"{accept}; charset=utf-8"
    assert message(answer).startswith(reason)


async def test_of_a_name_that_is_there_twice_the_last_counts(api: Platform) -> None:
    answer = await post(api, b'{"query": "{ nothing }", "query": "{ viewer { role } }"}')
    assert answer.json()["data"] == ANSWER


async def test_an_empty_operation_name_is_none(api: Platform) -> None:
    assert (await post(api, {"query": ROLE, "operationName": ""})).json()["data"] == ANSWER
    assert (await api.client.get("/graphql", params={"query": ROLE, "operationName": ""})).json()["data"] == ANSWER


@pytest.mark.parametrize(
    "content_type", [JSON, f"{JSON};charset=UTF-8", 'Application/JSON; charset="utf-8"; x=y', f"{JSON}; charset=utf8"]
)
async def test_a_body_is_json_in_utf_8(api: Platform, content_type: str) -> None:
    assert (await post(api, {"query": ROLE}, content_type=content_type)).json()["data"] == ANSWER


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/graphql",
        f"{JSON}; charset=iso-8859-1",
    ],
)
async def test_a_body_of_any_other_type_is_refused(api: Platform, content_type: str) -> None:
    answer = await post(api, {"query": ROLE}, content_type=content_type)
    assert answer.status_code == 415
    assert JSON in message(answer)


async def test_a_packed_body_is_refused(api: Platform) -> None:
    answer = await post(api, gzip.compress(b'{"query": "{ viewer { role } }"}'), content_encoding="gzip")
    assert answer.status_code == 415
    assert "identity" in message(answer)


async def test_a_body_that_is_said_not_to_be_packed_is_read(api: Platform) -> None:
    assert (await post(api, {"query": ROLE}, content_encoding="Identity")).json()["data"] == ANSWER


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
async def test_other_methods_are_refused(api: Platform, method: str) -> None:
    answer = await api.client.request(method, "/graphql")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_queries_by_get_are_answered_where_that_is_switched_on(
    api: Platform, servers: EmbeddedServers, tmp_path: Path
) -> None:
    asked = {"query": "query A($n: String!) { __type(name: $n) { name } } query B { viewer { role } }"}
    typed = asked | {"operationName": "A", "variables": '{"n": "User"}', "extensions": "{}"}
    assert (await api.client.get("/graphql", params=typed)).json() == {"data": {"__type": {"name": "User"}}}
    assert (await api.client.get("/graphql", params=asked | {"operationName": "B"})).json()["data"] == ANSWER
    async with new_api(servers, tmp_path) as other:
        answer = await other.client.get("/graphql", params={"query": ROLE})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_mutation_by_get_is_refused(api: Platform) -> None:
    mutation = "mutation M { __typename } query Q { viewer { role } }"
    answer = await api.client.get("/graphql", params={"query": mutation, "operationName": "M"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert message(answer) == "a mutation must be sent by POST"
    assert (await api.client.get("/graphql", params={"query": mutation, "operationName": "Q"})).json()["data"] == ANSWER


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "query or documentId is needed"),
        ("query=%FF", "the URL's query is not in UTF-8"),
        ("query=%7Bviewer%7Brole%7D%7D&query=x", "query is in the URL twice"),
        ("query=%7Bviewer%7Brole%7D%7D&variables=%7B", "variables is no JSON"),
        ("query=%7Bviewer%7Brole%7D%7D&extensions=[]", "extensions must be an object, and is an array"),
    ],
)
async def test_a_url_that_is_no_request_is_refused(api: Platform, query: str, reason: str) -> None:
    answer = await api.client.get(f"/graphql?{query}")
    assert answer.status_code == 400
    assert message(answer).startswith(reason)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ viewer {} }", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { viewer { role } } query B { viewer { role } }", "GRAPHQL_VALIDATION_FAILED"),
        ("query ($id: ID!) { user(userId: $id) { id } }", "BAD_USER_INPUT"),
    ],
)
async def test_a_request_of_which_nothing_is_executed_has_no_data(api: Platform, query: str, code: str) -> None:
    for accept, status in ((JSON, 200), (GRAPHQL, 400)):
        for _ in range(2):
            answer = await post(api, {"query": query}, accept=accept)
            assert answer.status_code == status
            assert set(answer.json()) == {"errors"}
            assert {error["extensions"]["code"] for error in answer.json()["errors"]} == {code}


async def test_an_error_of_a_field_stands_beside_the_data(api: Platform) -> None:
    for accept in (JSON, GRAPHQL):
        answer = await post(api, {"query": "{ viewer { role } intake { accepted } }"}, accept=accept)
        assert answer.status_code == 200
        assert answer.json()["data"] == ANSWER | {"intake": None}


async def test_a_wrong_token_is_refused_in_the_type_that_is_asked_for(api: Platform) -> None:
    for accept in (JSON, GRAPHQL):
        answer = await post(api, {"query": ROLE}, accept=accept, authorization="Bearer x")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.headers["content-type"] == f"{accept}; charset=utf-8"


async def test_a_client_that_takes_neither_type_is_told(api: Platform) -> None:
    answer = await post(api, {"query": ROLE}, accept="text/html")
    assert answer.status_code == 406
    assert answer.headers["content-type"] == f"{JSON}; charset=utf-8"
    assert GRAPHQL in message(answer)


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}; charset=utf-8, {JSON}; charset=utf-8", GRAPHQL),
        (f"{JSON}, {GRAPHQL}", JSON),
        (f"{GRAPHQL};q=0.5, {JSON};q=0.9", JSON),
        (f"{JSON};q=0.5, {GRAPHQL.upper()} ; Q=0.9", GRAPHQL),
        (f"{GRAPHQL},{JSON};q=0.9", GRAPHQL),
        (f"*/*;q=0.1, {GRAPHQL};q=0", JSON),
        (f"{GRAPHQL}, */*", GRAPHQL),
        (f"text/html, {GRAPHQL};q=often, */*;q=0.1", JSON),
        (f"{GRAPHQL}; charset=iso-8859-1, {JSON};q=0.1", JSON),
        (f"{GRAPHQL};q=inf, {JSON};q=0.1", JSON),
        (f"{GRAPHQL};q=nan, {JSON};q=0.1", JSON),
        (f"{GRAPHQL};q=1.1, {JSON};q=0.1", JSON),
        (f"{GRAPHQL};q=-1, {JSON};q=0.1", JSON),
        (f"{JSON};q=0", None),
        ("text/html", None),
        ("*/*;q=0", None),
    ],
)
def test_the_media_type_is_the_one_that_the_client_likes_best(accept: str, best: str | None) -> None:
    assert preferred(accept) == best


async def test_several_accept_headers_are_read_as_one(api: Platform) -> None:
    headers = [("content-type", JSON), ("accept", f"{JSON};q=0.5"), ("accept", GRAPHQL)]
    for query, status in ((ROLE, 200), ("{", 400)):
        answer = await api.client.post("/graphql", json={"query": query}, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, f"{GRAPHQL}; charset=utf-8")


async def test_answers_are_the_same_in_both_types(api: Platform) -> None:
    query = '{ node(id: "x") { id } user(userId: "nobody") { id } viewer { user { id } } }'
    token = f"Bearer {api.token(Role.ADMIN, 'root')}"
    answers = [
        (await post(api, {"query": query}, accept=accept, authorization=token, x_request_id="the-same-for-both")).json()
        for accept in (JSON, GRAPHQL)
    ]
    assert answers[0] == answers[1]
    assert answers[0]["errors"][0]["extensions"]["code"] == "NOT_FOUND"
