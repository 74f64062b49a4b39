"""A whole installation for tests: the real API in this process, a real arq worker, real PostgreSQL and Valkey."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import uvicorn
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Route

from models.analytics import DirtyDay
from models.base import connect
from models.risk import AssessmentDue
from models.rollup import DirtySpan
from models.viewer import Role
from questlog.app import Api, create_app
from questlog.database import LOGINS, Logins, logins
from questlog.embedded import EmbeddedServers
from questlog.migration import migrate
from questlog.settings import Settings
from questlog.signin import sign_token
from workers.analytics import refresh
from workers.main import create_worker
from workers.queue import open_queue
from workers.risk import assess_due
from workers.rollup import roll_up

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SECRET = "a secret of the tests, and of nobody else's"
TRACK = """
mutation ($events: [TrackEventInput!]!) {
  trackEvents(input: {events: $events}) {
    accepted rejected receivedAt userErrors { index eventId field code message }
  }
}
"""
UPSERT = """
mutation ($users: [UserInput!]!) {
  upsertUsers(input: {users: $users}) { users { userId role displayName } userErrors { field code message } }
}
"""
LINK = """
mutation ($guardianId: ID!, $childId: ID!, $expiresAt: DateTime) {
  linkGuardian(input: {guardianId: $guardianId, childId: $childId, expiresAt: $expiresAt}) {
    guardian { userId } child { userId } userErrors { field code message }
  }
}
"""
CONSENT = """
mutation ($userId: ID!, $basis: ConsentBasis!, $notice: String!, $method: String, $by: ID, $at: DateTime) {
  recordConsent(input: {
    userId: $userId, basis: $basis, noticeVersion: $notice, method: $method, givenById: $by, givenAt: $at
  }) { person { userId role displayName } userErrors { field code message } }
}
"""
REVOKE = """
mutation ($userId: ID!) {
  revokeConsent(input: {userId: $userId}) { person { userId } userErrors { field code message } }
}
"""
SET_TRACKING = """
mutation ($userId: ID!, $objected: Boolean!) {
  setTracking(input: {userId: $userId, objected: $objected}) { person { userId } userErrors { field code message } }
}
"""

WIDE_LIMITS = {
    "cost_restore_rate": 0,
    "cost_maximum": 10**6,
    "question_cost": 10**6,
    "document_tokens": 10_000,
    "document_aliases": 1000,
    "document_root_fields": 1000,
}
"""A test may ask in one question whatever it has to compare, and so may a whole module's tests of one viewer."""

Answer = dict[str, Any]
Asker = tuple[Role, str] | None
SERVICE: Asker = (Role.SERVICE, "the platform")


@dataclass
class Platform:
    """What tests do to an installation. `asker` is a role and a user id, None without a token."""

    settings: Settings
    logins: Logins
    superuser: AsyncEngine
    worker_engine: AsyncEngine
    client: httpx.AsyncClient
    app: Starlette

    @property
    def api(self) -> Api:
        """The API's own part of the app, whose pools a test may look at or exchange."""
        endpoints = (route.endpoint for route in self.app.routes if isinstance(route, Route))
        return next(endpoint for endpoint in endpoints if isinstance(endpoint, Api))

    def token(self, role: Role, user_id: str, hours: float = 1) -> str:
        """A good token."""
        return sign_token(self.settings, user_id=user_id, role=role, hours=hours)

    async def ask(self, query: str, asker: Asker = None, **variables: Any) -> Answer:
        """The whole answer to a GraphQL request, but for what it says of its cost."""
        # With one id for all, answers can be compared.
        headers = {"X-Request-Id": "the-same-for-all-asked"}
        if asker:
            headers["Authorization"] = f"Bearer {self.token(*asker)}"
        body = {"query": query, "variables": variables}
        answer: Answer = (await self.client.post("/graphql", json=body, headers=headers)).json()
        answer.pop("extensions", None)
        return answer

    async def data(self, query: str, asker: Asker = None, **variables: Any) -> Any:
        """The data of an answer that has no errors."""
        answer = await self.ask(query, asker, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def upsert(self, *users: Answer) -> None:
        """Make users known: UserInput objects, all of which must be taken."""
        answer = await self.data(UPSERT, SERVICE, users=users)
        assert not answer["upsertUsers"]["userErrors"]

    async def link(self, guardian_id: str, child_id: str, expires_at: datetime | None = None) -> None:
        """Link a guardian with a child."""
        until = expires_at and expires_at.isoformat()
        answer = await self.data(LINK, SERVICE, guardianId=guardian_id, childId=child_id, expiresAt=until)
        assert not answer["linkGuardian"]["userErrors"]

    async def consent(self, user_id: str, given_by: str | None = None, *, revoke: bool = False) -> None:
        """Record that a parent consents, or somebody at school where nobody is named; and revoke it again."""
        basis = "PARENT" if given_by else "SCHOOL"
        sent = {"userId": user_id, "basis": basis, "notice": "2026-01", "method": "a form", "by": given_by}
        assert not (await self.data(CONSENT, SERVICE, **sent))["recordConsent"]["userErrors"]
        if revoke:
            assert not (await self.data(REVOKE, SERVICE, userId=user_id))["revokeConsent"]["userErrors"]

    async def track(self, events: Sequence[Answer], asker: Asker = SERVICE) -> Answer:
        """Send TrackEventInput objects; the payload, whatever was refused."""
        payload: Answer = (await self.data(TRACK, asker, events=events))["trackEvents"]
        return payload

    async def settle(self) -> None:
        """Return once everything that was acknowledged is stored, everything stored is derived, and everybody whom it
        concerns assessed."""
        queue = await open_queue(self.settings.redis_url or "")
        try:

            async def empty() -> bool:
                return all(job.startswith(b"cron:") for job in await queue.zrange("arq:queue", 0, -1))

            await until(empty)
        finally:
            await queue.aclose(close_connection_pool=True)
        while await self.dirty():
            async with self.worker_engine.begin() as connection:
                await roll_up(connection, datetime.now(UTC), anonymize_after_days=self.settings.anonymize_after_days)
        await until(self.assessed)
        while await self.unsummed():
            async with self.worker_engine.begin() as connection:
                await refresh(connection, datetime.now(UTC), anonymize_after_days=self.settings.anonymize_after_days)

    async def assessed(self) -> bool:
        """Whether nobody is due to be assessed any more, after all who are free were."""
        async with self.worker_engine.begin() as connection:
            while await assess_due(connection, datetime.now(UTC)):
                pass
            due = select(AssessmentDue).where(AssessmentDue.due_at <= datetime.now(UTC))
            return not (await connection.execute(due)).first()

    async def unsummed(self) -> int:
        """How many marks wait for the platform's numbers to be summed again."""
        async with self.worker_engine.connect() as connection:
            return await connection.scalar(select(func.count()).select_from(DirtyDay)) or 0

    async def dirty(self) -> int:
        """How many spans wait for a roll-up."""
        async with self.worker_engine.connect() as connection:
            return await connection.scalar(select(func.count()).select_from(DirtySpan)) or 0


def browser(app: Starlette) -> httpx.AsyncClient:
    """Somebody who uses the app without a network between."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://questlog", headers={"user-agent": BROWSER}
    )


@asynccontextmanager
async def listening(app: Starlette) -> AsyncIterator[str]:
    """The app behind a real server, at this URL, for those who need a network between."""

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(uvicorn.Config(app, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/graphql"
        finally:
            server.should_exit = True
            await serving


async def until(true: Callable[[], Awaitable[object]], seconds: float = 120) -> None:
    """Return once it is true; raises TimeoutError where it does not become so in that time."""
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - nothing tells what another process has done
            await asyncio.sleep(0.01)


@asynccontextmanager
async def temporary_servers(home: Path) -> AsyncIterator[EmbeddedServers]:
    """Servers whose data goes with them: root's lies outside of home."""
    try:
        async with EmbeddedServers(home) as running:
            yield running
    finally:
        shutil.rmtree((home / "servers").resolve())


async def prepare_template(servers: EmbeddedServers) -> None:
    """Migrate the servers' own database, of which every platform gets a copy."""
    await migrate(logins(Settings(database_url=servers.database_url)))


@asynccontextmanager
async def new_platform(servers: EmbeddedServers, home: Path, **settings: Any) -> AsyncIterator[Platform]:
    """An installation with an empty database and queue of its own; no other may run on these servers beside it."""
    async with new_api(servers, home, **settings) as platform, working(platform):
        yield platform


@asynccontextmanager
async def working(platform: Platform) -> AsyncIterator[None]:
    """A worker beside the API, which does not take Valkey for away where the test keeps their loop busy."""
    worker = create_worker(
        platform.logins.worker,
        f"{platform.settings.redis_url}?socket_timeout=60&socket_connect_timeout=60",
        anonymize_after_days=platform.settings.anonymize_after_days,
        consent_rule=platform.settings.consent_rule,
        erasure_key=platform.settings.erasure_key,
        handle_signals=False,
    )
    running = asyncio.create_task(worker.async_run())
    try:
        yield
    finally:
        # Between two looks at the queue, so that nothing breaks off in the middle of one.
        worker.allow_pick_jobs = False
        await asyncio.sleep(0.05)
        # Python 3.11's wait_for, by which redis-py sends, may swallow a cancellation.
        while not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=0.1)
        await asyncio.gather(running, return_exceptions=True)
        # arq would cancel what is still begun, and pass that on to whoever closes it.
        await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
        await worker.close()


@asynccontextmanager
async def new_api(servers: EmbeddedServers, home: Path, **settings: Any) -> AsyncIterator[Platform]:
    """An installation without a worker: nothing is stored or derived but by the test."""
    database = f"t{uuid4().hex}"
    maintenance = connect(in_database(servers.superuser_url, "postgres"), pool_size=1)
    autocommit = maintenance.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {database} TEMPLATE questlog OWNER questlog"))
    await maintenance.dispose()
    owner_url = in_database(servers.database_url, database)
    template = logins(Settings(database_url=servers.database_url))
    named: dict[str, Any] = {f"{name}_database_url": in_database(getattr(template, name), database) for name in LOGINS}
    settings = WIDE_LIMITS | named | {"erasure_secret": SECRET} | settings
    configured = Settings(home=home, database_url=owner_url, redis_url=servers.redis_url, jwt_secret=SECRET, **settings)
    queue = await open_queue(servers.redis_url)
    await queue.flushdb()
    await queue.aclose(close_connection_pool=True)
    urls = logins(configured)
    app = create_app(configured)
    platform = Platform(
        configured,
        urls,
        connect(in_database(servers.superuser_url, database), pool_size=2),
        connect(urls.worker, pool_size=2, secret=SECRET.encode()),
        browser(app),
        app,
    )
    async with app.router.lifespan_context(app):
        try:
            yield platform
        finally:
            # The database stays until its server goes: ext4 makes files slowly where many were deleted lately.
            await platform.client.aclose()
            await platform.superuser.dispose()
            await platform.worker_engine.dispose()


def in_database(url: str, database: str) -> str:
    """The same login's URL of another database."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)
