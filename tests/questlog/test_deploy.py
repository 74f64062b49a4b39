"""A new API beside the old one, then the old one stopped: everybody who is connected gets an answer."""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from subprocess import Popen

import asyncpg
import httpx
import orjson
import pytest
from pydantic import SecretStr

from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.process import spawn
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import SHORTEST_PAUSE, keep_running
from tests.histories import as_input
from tests.platform import BROWSER, SECRET, TRACK, until
from tests.questlog.test_serve import Installation, serving
from tests.workers.storing import NOW, visit

CLIENTS = 8
REQUESTS_BEFORE = 40


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


@pytest.fixture
async def servers(home: Path) -> AsyncIterator[EmbeddedServers]:
    async with EmbeddedServers(home) as running:
        yield running


class Client:
    """One of those whom a proxy lets through: on its connection as long as that lasts, on a new one to whom is new."""

    def __init__(self, installation: Installation, token: str) -> None:
        self.url = installation.url
        self.accepted = 0
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {token}", "user-agent": BROWSER}, trust_env=False, timeout=20
        )

    async def send_until(self, enough: asyncio.Event, new: Installation, pause: float) -> None:
        async with self._http:
            while not enough.is_set():
                body = {"query": TRACK, "variables": {"events": [as_input(visit(NOW), "ada")]}}
                response = await self._http.post(self.url, json=body)
                assert response.json()["data"]["trackEvents"]["accepted"] == 1, response.text
                self.accepted += 1
                if response.headers.get("connection") == "close":
                    self.url = new.url
                await asyncio.sleep(pause)


@pytest.mark.long
async def test_a_deploy_loses_no_request(servers: EmbeddedServers, tmp_path: Path) -> None:
    named = {
        "QUESTLOG_DATABASE_URL": servers.database_url,
        "QUESTLOG_REDIS_URL": servers.redis_url,
        "QUESTLOG_JWT_SECRET": SECRET,
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with serving(tmp_path / "old" / "home", "--workers", "2", **named) as old:
        token = sign_token(Settings(jwt_secret=SecretStr(SECRET)), user_id="ada", role=Role.STUDENT, hours=1)
        clients = [Client(old, token) for _ in range(CLIENTS)]
        with serving(tmp_path / "new" / "home", **named) as new:
            enough = asyncio.Event()
            async with asyncio.TaskGroup() as sending:
                for index, client in enumerate(clients):
                    sending.create_task(client.send_until(enough, new, pause=0.5 if index % 2 else 0))
                await until_accepted(clients, REQUESTS_BEFORE)
                status, said = await asyncio.to_thread(old.end, signal.SIGTERM)
                assert status == 0
                assert {orjson.loads(line)["level"] for line in said.splitlines()} <= {"INFO"}
                assert {client.url for client in clients} == {new.url}
                await until_accepted(clients, REQUESTS_BEFORE)
                enough.set()
            await until_stored(servers, sum(client.accepted for client in clients))


async def until_accepted(clients: list[Client], more: int) -> None:
    """Return once the clients have sent so many more."""
    before = sum(client.accepted for client in clients)

    async def so_many() -> bool:
        return sum(client.accepted for client in clients) >= before + more

    await until(so_many)


async def until_stored(servers: EmbeddedServers, number: int) -> None:
    """Return once exactly so many events are in the table."""
    connection = await asyncpg.connect(servers.superuser_url)

    async def all_are() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM user_activity_events") == number)

    await until(all_are)
    await connection.close()


class Failing:
    """A part that ends as soon as it has begun, and remembers when."""

    name = "the failing part"
    process: Popen[bytes] | None = None

    def __init__(self) -> None:
        self.starts: list[float] = []

    async def start(self) -> None:
        self.starts.append(time.monotonic())
        self.process = spawn(["false"])


async def test_what_keeps_ending_is_started_again_after_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    part = Failing()
    watching = asyncio.create_task(keep_running(part))

    async def started_often() -> bool:
        return len(part.starts) == 4

    await until(started_often)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert part.process
    part.process.wait()
    pauses = [later - earlier for earlier, later in pairwise(part.starts)]
    assert all(pause >= SHORTEST_PAUSE * 2 ** (1 + index) for index, pause in enumerate(pauses))
    assert "the failing part ended with status 1 and is started again" in caplog.text
