"""A Valkey of one's own must keep what it acknowledges: where it does not, or does not tell, somebody hears of it. And
whichever server goes away under a command is named as what is at fault."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from questlog.embedded import EmbeddedServers
from questlog.reach import check_durability
from tests.questlog.test_serve import assert_one_line, questlog
from workers.queue import open_queue


@pytest.mark.parametrize(
    ("command", "name", "wrong", "right"),
    [
        (["work"], "appendonly", "no", "yes"),
        (["serve", "--port", "0"], "appendfsync", "everysec", "always"),
        (["work"], "maxmemory-policy", "volatile-lru", "noeviction"),
    ],
)
async def test_a_valkey_that_may_lose_events_is_refused_in_production(
    own_servers: EmbeddedServers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    command: list[str],
    name: str,
    wrong: str,
    right: str,
) -> None:
    production = {
        "QUESTLOG_DATABASE_URL": own_servers.database_url,
        "QUESTLOG_REDIS_URL": own_servers.redis_url,
        "QUESTLOG_ENVIRONMENT": "production",
        "QUESTLOG_JWT_SECRET": "a secret of more than thirty-two characters",
        "QUESTLOG_ERASURE_SECRET": "another secret of more than thirty-two characters",
    }
    said = f"Valkey has {name} {wrong}, by which acknowledged events can be lost: set {name} {right}"
    queue = await open_queue(own_servers.redis_url)
    await queue.config_set(name, wrong)
    try:
        assert_one_line(questlog(tmp_path, *command, **production), said)
        await check_durability(own_servers.redis_url, "development")
    finally:
        await queue.config_set(name, right)
        await queue.aclose(close_connection_pool=True)
    assert said in caplog.text


async def test_a_valkey_that_does_not_tell_its_settings_is_used_with_a_warning(
    own_servers: EmbeddedServers, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await open_queue(own_servers.redis_url)
    await queue.acl_setuser(
        "managed", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"], commands=["-config"]
    )
    try:
        managed = own_servers.redis_url.replace(f":{own_servers.valkey.password}", "managed:secret")
        await check_durability(managed, "production")
    finally:
        await queue.acl_deluser("managed")
        await queue.aclose(close_connection_pool=True)
    assert "see that it has appendonly yes, appendfsync always, maxmemory-policy noeviction" in caplog.text


async def test_the_embedded_valkey_is_what_is_wanted(
    own_servers: EmbeddedServers, caplog: pytest.LogCaptureFixture
) -> None:
    await check_durability(own_servers.redis_url, "production")
    assert not caplog.text


@dataclass
class Door:
    """Lets its first caller through, and nobody after them: at a Unix socket, which goes with the first, or a port."""

    to: str
    socket: Path | None = None
    callers: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Where it is, until it is closed."""
        if self.socket:
            listening = await asyncio.start_unix_server(self.answer, self.socket)
        else:
            listening = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        async with listening:
            yield str(self.socket or "127.0.0.1:{1}".format(*listening.sockets[0].getsockname()))

    async def answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Let the first caller through."""
        self.callers += 1
        if self.callers > 1:
            writer.transport.abort()
            return
        if self.socket:
            self.socket.unlink(missing_ok=True)
        from_server, to_server = await asyncio.open_unix_connection(self.to)
        await asyncio.gather(forward(reader, to_server), forward(from_server, writer))


async def forward(here: StreamReader, there: StreamWriter) -> None:
    """Send on what comes, until it ends."""
    with suppress(OSError):
        while some := await here.read(65536):
            there.write(some)
            await there.drain()
    there.close()


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize("command", [["status"], ["export", "kim"], ["import-milestones", "kim.csv"]])
async def test_a_postgresql_that_goes_away_under_a_command_is_said_in_one_line(
    own_servers: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], is_file: bool
) -> None:
    url = urlsplit(own_servers.database_url)
    (folder,) = parse_qs(url.query)["host"]
    monkeypatch.chdir(tmp_path)
    Path("kim.csv").write_text("userId,kind,occurredAt,questId\nkim,QUEST_COMPLETED,2019-03-31T01:30:00Z,q\n")
    # The first caller only looks whether it is there at all.
    door = Door(f"{folder}/.s.PGSQL.5432", tmp_path / ".s.PGSQL.5432" if is_file else None)
    async with door.open() as place:
        where = f"{url.path}?host={tmp_path}" if is_file else f"{place}{url.path}"
        settings = {
            "QUESTLOG_DATABASE_URL": f"postgresql://{url.username}:{url.password}@{where}",
            "QUESTLOG_REDIS_URL": own_servers.redis_url,
            "QUESTLOG_ERASURE_SECRET": "a secret of more than thirty-two characters",
        }
        refused = await asyncio.to_thread(questlog, tmp_path, *command, **settings)
    assert_one_line(refused, "PostgreSQL is away, or too busy")
    assert door.callers == 1 if is_file else door.callers > 1


@pytest.mark.parametrize("is_file", [True, False])
async def test_a_valkey_that_goes_away_under_a_command_is_said_in_one_line(
    own_servers: EmbeddedServers, tmp_path: Path, is_file: bool
) -> None:
    url = urlsplit(own_servers.redis_url)
    door = Door(url.path, tmp_path / "valkey" if is_file else None)
    async with door.open() as place:
        secret = f":{own_servers.valkey.password}@"
        settings = {
            "QUESTLOG_DATABASE_URL": own_servers.database_url,
            "QUESTLOG_REDIS_URL": f"unix://{secret}{place}" if is_file else f"redis://{secret}{place}",
            "QUESTLOG_ERASURE_SECRET": "a secret of more than thirty-two characters",
        }
        refused = await asyncio.to_thread(questlog, tmp_path, "status", **settings)
    assert_one_line(refused, "Valkey is away, or too busy")
    assert door.callers == 1 if is_file else door.callers > 1
