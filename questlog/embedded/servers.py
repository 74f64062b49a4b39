"""Both servers of a home, started and stopped together."""

import fcntl
import json
import os
import secrets
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from questlog import private
from questlog.embedded.house import EmbeddedError, House
from questlog.embedded.postgres import PostgresServer
from questlog.embedded.valkey import ValkeyServer


class EmbeddedServers:
    """PostgreSQL and Valkey with their data under `home`: `async with EmbeddedServers(home) as servers`.

    `connections` is how many PostgreSQL takes.
    Start them from a thread that lives as long as they shall: on Linux the kernel ends them with it.
    """

    def __init__(self, home: Path, connections: int = 60) -> None:
        self.home = home.absolute()
        self.connections = connections
        self.postgres: PostgresServer
        self.valkey: ValkeyServer
        self._stack = AsyncExitStack()

    @property
    def database_url(self) -> str:
        """The owner's login to the database `questlog`."""
        return self.postgres.url("questlog", self.postgres.owner_password, "questlog")

    @property
    def superuser_url(self) -> str:
        """The login that bypasses every rule; the product never uses it."""
        return self.postgres.url("postgres", self.postgres.superuser_password, "questlog")

    @property
    def redis_url(self) -> str:
        """Valkey, for redis-py and arq."""
        return self.valkey.url

    @classmethod
    def running(cls, home: Path) -> Self:
        """The servers that another process runs, for their URLs; raises EmbeddedError where none does."""
        servers = cls(home)
        try:
            house = House.open(servers.home)
            lock = os.open(house.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedError(f"{home} is of no use to the embedded servers: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            servers._enter(house)
            return servers
        finally:
            os.close(lock)
        raise EmbeddedError(f"Questlog does not run on {home}: start questlog serve, or set QUESTLOG_HOME")

    def _enter(self, house: House) -> None:
        passwords = _passwords(self.home / "passwords.json")
        self.postgres = PostgresServer(house, passwords["postgres"], passwords["questlog"], self.connections)
        self.valkey = ValkeyServer(house, passwords["valkey"])

    async def start(self) -> None:
        """Start both and return once both answer; raises EmbeddedError, and then leaves nothing running."""
        async with AsyncExitStack() as stack:
            try:
                house = House.open(self.home)
                stack.callback(os.close, _hold(house.folder / "lock", self.home))
                self._enter(house)
                shutil.rmtree(house.sockets, ignore_errors=True)
                house.make(house.sockets)
            except OSError as error:
                raise EmbeddedError(f"{self.home} is of no use to the embedded servers: {error}") from error
            stack.callback(shutil.rmtree, house.sockets, ignore_errors=True)
            for server in (self.valkey, self.postgres):
                stack.push_async_callback(server.stop)
                await server.start()
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Stop both, with everything they acknowledged on disk."""
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _hold(path: Path, home: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise EmbeddedError(
            f"Questlog already runs on {home}: stop it, or set QUESTLOG_HOME to another folder"
        ) from None
    return lock


def _passwords(path: Path) -> dict[str, str]:
    if not path.exists():
        private.write(
            path, json.dumps({name: secrets.token_urlsafe(32) for name in ("postgres", "questlog", "valkey")})
        )
    kept: dict[str, str] = json.loads(path.read_text())
    return kept
