"""Frame: the CPU that a known small query costs apart from its resolvers, and what each step has of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
import orjson
from graphql import execute, graphql, parse
from starlette.requests import Request as HttpRequest
from starlette.routing import Route
from starlette.types import Message, Scope

from models.viewer import Role
from questlog.access import answer
from questlog.app import Api, create_app
from questlog.body import body_of
from questlog.documents import documents_of
from questlog.embedded import EmbeddedServers
from questlog.parameters import parameters
from questlog.settings import Settings, with_erasure_secret, with_secret
from questlog.signin import TokenVerifier, authorization_of, sign_token
from questlog.supervisor import Supervisor
from schema.root import SCHEMA
from tests.bench.home import temporary_home
from tests.processes import cpu_seconds

QUERY = "{ __typename }"
BODY = orjson.dumps({"query": QUERY})
TIMES, ROUNDS = 1000, 3
REQUESTS = 2000


async def main() -> None:
    """Measure, and print."""
    with temporary_home() as home:
        settings = with_erasure_secret(with_secret(Settings(home=home), make=True), make=True)
        token = sign_token(settings, user_id="ada", role=Role.STUDENT, hours=1)
        scope = request(token)
        steps = await all_steps(settings, scope)
        async with EmbeddedServers(home) as servers:
            app = create_app(
                settings.model_copy(update={"database_url": servers.database_url, "redis_url": servers.redis_url})
            )
            async with app.router.lifespan_context(app):
                whole = await cost(lambda: respond(app, scope))
                api = next(
                    route.endpoint
                    for route in app.routes
                    if isinstance(route, Route) and isinstance(route.endpoint, Api)
                )
                bare = await cost(lambda: respond(api, scope))
        async with Supervisor(settings, port=0, worker=False) as running:
            process = running.apis[0].process
            assert process
            through_http = await ask(running.url, token, process.pid)
    print(f"\n{'step':46}µs")
    for name, seconds in steps.items():
        print(f"{name:46}{1e6 * seconds:.0f}")
    print(f"{'the handler of /graphql, in all':46}{1e6 * bare:.0f}")
    print(f"{'the app: metrics and limits, but no log line':46}{1e6 * whole:.0f}")
    print(f"{'the API process, over HTTP':46}{1e6 * through_http:.0f}")


async def all_steps(settings: Settings, scope: Scope) -> dict[str, float]:
    """What each step of a request costs by itself, in seconds."""
    verifier = TokenVerifier(settings)
    documents = documents_of(settings)
    parsed = parse(QUERY)

    async def read() -> object:
        http = HttpRequest(scope, receive)
        return parameters(http, await body_of(http))

    async def verify() -> object:
        return await verifier.verify(authorization_of(HttpRequest(scope, receive).headers))

    async def look_up() -> object:
        return documents.get(QUERY, is_open=True)

    async def run() -> object:
        return execute(SCHEMA, parsed)

    async def encode() -> object:
        return answer(scope, {"data": {"__typename": "Query"}}, 200)

    async def from_text() -> object:
        return await graphql(SCHEMA, QUERY)

    return {
        "read the parameters": await cost(read),
        "verify the token": await cost(verify),
        "find the document": await cost(look_up),
        "execute it, as graphql-core by itself does": await cost(run),
        "encode the answer": await cost(encode),
        "(parse, validate and execute it each time)": await cost(from_text),
    }


async def cost(task: Callable[[], Awaitable[object]]) -> float:
    """The CPU seconds that it takes: the least of several rounds, each of which does it many times."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES):
            await task()
        rounds.append((time.process_time() - began) / TIMES)
    return min(rounds)


def request(token: str) -> Scope:
    """A request as uvicorn hands it over."""
    headers = {
        "host": "questlog",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "accept": "application/graphql-response+json, application/json;q=0.9",
        "authorization": f"Bearer {token}",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/graphql",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def receive() -> Message:
    """The body in one piece."""
    return {"type": "http.request", "body": BODY, "more_body": False}


async def respond(app: Callable[..., Awaitable[None]], scope: Scope) -> None:
    """One request through the app, without a network; raises AssertionError unless it is answered well."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(dict(scope), receive, send)
    assert sent[0]["status"] == 200
    assert sent[1]["body"] == b'{"data":{"__typename":"Query"}}'


async def ask(url: str, token: str, pid: int) -> float:
    """The CPU seconds that the process spends on one request of many over one connection."""
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        for requests in (REQUESTS // 10, REQUESTS):
            before = cpu_seconds([pid])
            for _ in range(requests):
                (await client.post(url, json={"query": QUERY})).raise_for_status()
    return (cpu_seconds([pid]) - before) / REQUESTS


if __name__ == "__main__":
    asyncio.run(main())
