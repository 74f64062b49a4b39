"""Real clients ask a real server: a list page by page, a mutation with user errors, and by a token that is too old."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from gql import Client, GraphQLRequest
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport

from models.viewer import Role
from tests.platform import Platform

CLIENTS = Path(__file__).parent
LEARNERS = [f"learner-{number}" for number in range(5)]
EXPECTED = {"users": [*LEARNERS, "root"], "userErrors": ["INVALID"], "expired": "UNAUTHENTICATED"}
USERS = """
query Users($first: Int!, $after: String) {
  users(first: $first, after: $after) { edges { node { userId } } pageInfo { hasNextPage endCursor } }
}
"""
UPSERT = """
mutation Upsert($input: UpsertUsersInput!) { upsertUsers(input: $input) { userErrors { field code message } } }
"""


@pytest.fixture(scope="module")
async def url(platform: Platform) -> AsyncIterator[str]:
    """Where the platform's app is served, by a port of this machine."""
    await platform.upsert(*({"userId": user_id, "role": "STUDENT"} for user_id in LEARNERS))
    server = uvicorn.Server(uvicorn.Config(platform.app, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it by nothing else
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/graphql"
    server.should_exit = True
    await serving


@pytest.fixture(scope="module")
def compiled() -> None:
    """What relay-compiler makes of Relay's documents and the printed schema."""
    cli = CLIENTS / "node_modules" / "relay-compiler" / "cli.js"
    subprocess.run(["node", cli, "relay.config.json"], cwd=CLIENTS, check=True)


async def run(script: str, url: str, platform: Platform) -> Any:
    """What a script prints that asks as an admin, with a good token and with an old one."""
    tokens = [platform.token(Role.ADMIN, "root", hours) for hours in (1, -1)]
    process = await asyncio.create_subprocess_exec(
        "node", CLIENTS / script, url, *tokens, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return json.loads(printed)


async def test_gql_reads_a_list_page_by_page_and_what_went_wrong(url: str, platform: Platform) -> None:
    def transport(hours: float) -> HTTPXAsyncTransport:
        token = platform.token(Role.ADMIN, "root", hours)
        return HTTPXAsyncTransport(url=url, headers={"authorization": f"Bearer {token}"}, trust_env=False)

    users: list[str] = []
    after, more = None, True
    async with Client(transport=transport(1), fetch_schema_from_transport=True) as session:
        while more:
            asked = GraphQLRequest(USERS, variable_values={"first": 2, "after": after})
            page = (await session.execute(asked))["users"]
            users += [edge["node"]["userId"] for edge in page["edges"]]
            after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
        nobody = {"users": [{"userId": "", "role": "STUDENT"}]}
        upsert = await session.execute(GraphQLRequest(UPSERT, variable_values={"input": nobody}))
    with pytest.raises(TransportQueryError) as raised:
        async with Client(transport=transport(-1)) as session:
            await session.execute(GraphQLRequest(USERS, variable_values={"first": 2}))
    assert users == EXPECTED["users"]
    assert [error["code"] for error in upsert["upsertUsers"]["userErrors"]] == EXPECTED["userErrors"]
    assert [error["extensions"]["code"] for error in raised.value.errors or []] == [EXPECTED["expired"]]


async def test_urql_reads_a_list_page_by_page_and_what_went_wrong(url: str, platform: Platform) -> None:
    assert await run("urql.js", url, platform) == EXPECTED


@pytest.mark.long
async def test_apollo_reads_a_list_page_by_page_and_what_went_wrong(url: str, platform: Platform) -> None:
    assert await run("apollo.js", url, platform) == EXPECTED


@pytest.mark.long
@pytest.mark.usefixtures("compiled")
async def test_relay_reads_a_list_page_by_page_and_what_went_wrong(url: str, platform: Platform) -> None:
    assert await run("relay.js", url, platform) == EXPECTED


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_schemathesis_finds_nothing_that_the_server_cannot_answer(
    url: str, platform: Platform, tmp_path: Path
) -> None:
    report = tmp_path / "report.har"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", url, "--header"),
        f"Authorization: Bearer {platform.token(Role.ADMIN, 'root')}",
        *("--checks", "not_a_server_error", "--phases", "fuzzing", "--max-examples", "30", "--seed", "1"),
        *("--generation-database", "none", "--no-color", "--report", "har", "--report-har-path", report),
        cwd=tmp_path,
    )
    # Its status tells of a NOT_FOUND, too, which it takes for the server's fault.
    assert await process.wait() in {0, 1}
    answers = [entry["response"] for entry in json.loads(report.read_text())["log"]["entries"]]
    assert len(answers) > 300
    assert {answer["status"] for answer in answers} <= {200, 400}
    assert not [answer for answer in answers if "INTERNAL_SERVER_ERROR" in answer["content"]["text"]]
