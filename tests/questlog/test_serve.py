"""`questlog serve` runs a whole installation, starts again what dies, and says in one line why it cannot."""

import ctypes
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from questlog.database import POOLS, logins
from questlog.embedded import EmbeddedServers
from questlog.process import SCHED_ATTR, TURN_NANOSECONDS, spawn, take_short_turns
from questlog.settings import PREFIX, Settings
from tests.platform import until
from tests.processes import children, runs, wait_until
from workers.queue import WORKERS, open_queue

HEADERS = b"POST /graphql HTTP/1.1\r\nHost: questlog\r\nContent-Length: 99"
SECRET = "a secret of more than thirty-two characters"
SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


def environ(home: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {"QUESTLOG_HOME": str(home)} | settings


def questlog(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "questlog", *arguments],
        env=environ(home, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Installation:
    """A `questlog serve` that is ready."""

    def __init__(self, home: Path, *arguments: str, **settings: str) -> None:
        self.home = home
        self.output = home.with_name("output")
        with self.output.open("wb") as output:
            self.process = spawn(
                [sys.executable, "-m", "questlog", "serve", "--port", "0", *arguments],
                env=environ(home, **settings),
                output=output,
            )
        wait_until(lambda: "(Ctrl-C to stop)\n" in self.output.read_text(), seconds=60)
        self.ready = self.output.read_text()
        self.url = next((word for word in self.ready.split() if word.startswith("http")), "")

    def children(self, name: str) -> list[int]:
        return [pid for pid, command in children(self.process.pid).items() if name in command]

    def kill(self, name: str) -> list[int]:
        """Kill what goes by that name, and wait until as many run again."""
        killed = self.children(name)
        assert killed
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(self.children(name)) - set(killed)) == len(killed))
        return killed

    def token(self, role: str, user: str) -> str:
        return questlog(self.home, "token", "--role", role, "--user", user).stdout.strip()

    def ask(self, query: str, token: str | None = None) -> object:
        """The answer, but for what it says of its cost."""
        answer = httpx.post(
            self.url,
            json={"query": query},
            headers={"Authorization": f"Bearer {token}"} if token else {},
            trust_env=False,
            timeout=10,
        ).json()
        answer.pop("extensions", None)
        return answer

    def answers(self) -> bool:
        try:
            return httpx.get(self.url.replace("/graphql", "/readyz"), trust_env=False, timeout=5).is_success
        except httpx.TransportError:
            return False

    def end(self, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """The exit status, and everything printed since it was ready."""
        self.process.send_signal(by)
        return self.process.wait(60), self.output.read_text().removeprefix(self.ready)


@contextmanager
def serving(home: Path, *arguments: str, **settings: str) -> Iterator[Installation]:
    installation = Installation(home, *arguments, **settings)
    try:
        yield installation
    finally:
        if installation.process.poll() is None:
            installation.process.terminate()
            installation.process.wait(60)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("serve") / "home"
    with serving(home) as installation:
        yield installation
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


def test_ready_is_one_line_with_the_address(shared: Installation) -> None:
    assert shared.ready == f"Questlog is ready at {shared.url} (Ctrl-C to stop)\n"
    assert shared.ask("{ viewer { role } }") == {"data": {"viewer": {"role": "ANONYMOUS"}}}


def test_token_signs_what_serve_accepts(shared: Installation) -> None:
    token = shared.token("parent", "p1")
    assert shared.ask("{ viewer { role } }", token) == {"data": {"viewer": {"role": "PARENT"}}}


def test_a_second_serve_on_the_same_home_is_refused(shared: Installation) -> None:
    refused = questlog(shared.home, "serve", "--port", "0")
    assert_one_line(refused, f"Questlog already runs on {shared.home}")


def test_status_shows_the_ledger_of_what_runs(shared: Installation) -> None:
    shown = questlog(shared.home, "status")
    assert shown.returncode == 0, shown.stderr
    told = dict(line.split(": ") for line in shown.stdout.splitlines())
    assert told["workers"] == "1"
    assert int(told["accepted"]) == int(told["stored"]) + int(told["duplicate"])
    assert questlog(shared.home, "set-aside", "list").stdout == ""
    assert questlog(shared.home, "set-aside", "retry").stdout == "stored: 0 duplicate: 0 withdrawn: 0\n"
    assert questlog(shared.home, "set-aside", "drop", "7").stdout == "dropped: 0\n"


def test_status_where_nothing_runs_is_said_in_one_line(home: Path) -> None:
    assert_one_line(questlog(home, "status"), "does not run")


def test_whoever_waits_for_an_acknowledgement_goes_first(shared: Installation) -> None:
    def niceness(name: str) -> list[int]:
        return [os.getpriority(os.PRIO_PROCESS, pid) for pid in shared.children(name)]

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness("questlog.asgi") == niceness("valkey-server") == [own]
    wait_until(lambda: niceness("questlog work") == [min(own + 10, 19)])
    assert niceness("postgres") == [min(own + 10, 19)]


def test_linux_weighs_what_postgresql_starts_as_it_weighs_postgresql(shared: Installation) -> None:
    (postgres,) = shared.children("postgres")

    def is_weighed(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/autogroup").read_text().endswith(" nice 10\n")
        except (FileNotFoundError, ProcessLookupError):  # the kernel does not weigh sessions, or it ended meanwhile
            return True

    assert len(children(postgres)) > 5
    wait_until(lambda: all(map(is_weighed, children(postgres))))


def test_whom_others_wait_for_takes_short_turns(shared: Installation) -> None:
    def turn(pid: int) -> int:
        told = ctypes.create_string_buffer(SCHED_ATTR.size)
        assert ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], pid, told, SCHED_ATTR.size, 0) == 0
        return int(SCHED_ATTR.unpack(told.raw)[5])

    (api,), (valkey,) = shared.children("questlog.asgi"), shared.children("valkey-server")
    knows_turns = tuple(map(int, platform.release().split(".")[:2])) >= (6, 12)
    assert turn(api) == turn(valkey) == (TURN_NANOSECONDS if knows_turns else 0)
    assert turn(shared.process.pid) != TURN_NANOSECONDS


def test_who_takes_short_turns_keeps_the_policy_that_it_was_given() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        os.sched_setscheduler(sleeping.pid, os.SCHED_BATCH, os.sched_param(0))
        take_short_turns(sleeping.pid)
        policy = os.sched_getscheduler(sleeping.pid)
        sleeping.kill()
    assert policy == os.SCHED_BATCH


def test_no_secret_stands_on_a_command_line(shared: Installation) -> None:
    secret = (shared.home / "jwt-secret").read_text()
    lines = list(children(shared.process.pid).values())
    assert len(lines) == 4
    assert not [line for line in lines if secret in line or "postgresql://" in line or "unix://" in line]


@pytest.mark.parametrize("name", ["questlog.asgi", "questlog work", "postgres", "valkey-server"])
def test_what_is_killed_runs_again(shared: Installation, name: str) -> None:
    shared.kill(name)
    wait_until(shared.answers)
    assert shared.ask("{ viewer { role } }") == {"data": {"viewer": {"role": "ANONYMOUS"}}}


@pytest.mark.parametrize("by", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_interrupt_ends_everything_cleanly(home: Path, by: signal.Signals) -> None:
    with serving(home) as installation:
        pids = list(children(installation.process.pid))
        assert installation.end(by) == (0, "")
        assert not any(runs(pid) for pid in pids)
        assert not (home / "servers" / "run").exists()


@pytest.mark.long
def test_the_next_start_finds_everything_again(home: Path) -> None:
    people = 'mutation { upsertUsers(input: {users: [{userId: "s1", role: STUDENT}]}) { users { userId } } }'
    with serving(home) as installation:
        token = installation.token("admin", "a1")
        installation.ask(people, token)
        installation.end()
    with serving(home) as installation:
        assert installation.ask('{ user(userId: "s1") { userId } }', token) == {"data": {"user": {"userId": "s1"}}}


@pytest.mark.long
def test_everything_ends_with_a_killed_supervisor(home: Path) -> None:
    with serving(home) as installation:
        pids = list(children(installation.process.pid))
        installation.process.kill()
        wait_until(lambda: not any(runs(pid) for pid in pids))
    with serving(home) as installation:
        assert installation.answers()


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "answered"),
    [(b"", b""), (HEADERS, b""), (HEADERS + b"\r\n\r\n{", b"HTTP/1.1 408 Request Timeout\r\n")],
)
def test_who_never_sends_a_whole_request_is_let_go(shared: Installation, sent: bytes, answered: bytes) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(shared.url).port or 0)) as connection:
        connection.sendall(sent)
        connection.settimeout(60)
        until_closed = b"".join(iter(lambda: connection.recv(4096), b""))
        assert until_closed[: len(answered) or 1] == answered


@pytest.mark.long
def test_several_processes_share_one_address(home: Path) -> None:
    with serving(home, "--workers", "2", "--no-worker") as installation:
        first, second = installation.children("questlog.asgi")
        assert not installation.children("questlog work")
        for pid in (first, second):
            os.kill(pid, signal.SIGSTOP)
            assert installation.answers()
            os.kill(pid, signal.SIGCONT)
        assert installation.end() == (0, "")


@pytest.mark.long
async def test_postgresql_takes_all_connections_that_many_processes_can_open(home: Path) -> None:
    with serving(home, "--workers", "6") as installation:
        known = logins(Settings(database_url=EmbeddedServers.running(home).database_url))
        opened = [await asyncpg.connect(getattr(known, login)) for login in POOLS for _ in range(6 * POOLS[login])]
        assert questlog(home, "status").returncode == 0
        assert installation.answers()
        for connection in opened:
            await connection.close()


@pytest.mark.long
async def test_servers_named_by_settings_are_used(home: Path, tmp_path: Path) -> None:
    async with EmbeddedServers(home) as servers:
        named = {"QUESTLOG_DATABASE_URL": servers.database_url, "QUESTLOG_REDIS_URL": servers.redis_url}
        with serving(tmp_path / "other", **named) as installation:
            assert installation.answers()
            assert len(children(installation.process.pid)) == 2
            assert installation.end() == (0, "")


@pytest.mark.long
async def test_a_worker_alone_ends_cleanly(home: Path) -> None:
    async with EmbeddedServers(home) as servers:
        named = {"QUESTLOG_DATABASE_URL": servers.database_url, "QUESTLOG_REDIS_URL": servers.redis_url}
        named["QUESTLOG_ERASURE_SECRET"] = "a secret of more than thirty-two characters"
        assert questlog(home, "migrate", **named).returncode == 0
        worker = subprocess.Popen(
            [sys.executable, "-m", "questlog", "work"],
            env=environ(home, **named),
            stderr=subprocess.PIPE,
        )
        queue = await open_queue(servers.redis_url)
        await until(lambda: queue.exists(WORKERS))
        await queue.aclose(close_connection_pool=True)
        worker.terminate()
        _, said = worker.communicate(timeout=30)
        assert (worker.returncode, said) == (0, b"")


@pytest.mark.long
def test_migrate_runs_on_the_embedded_servers_too(home: Path) -> None:
    assert questlog(home, "migrate").returncode == 0
    assert questlog(home, "migrate", "base").returncode == 0
    assert_one_line(questlog(home, "migrate", "nowhere"), "there is no going to nowhere")


def test_a_taken_port_is_said_in_one_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(questlog(home, "serve", "--port", port), f"port {port} of 127.0.0.1 is taken: choose another")


NOWHERE = {
    "QUESTLOG_DATABASE_URL": "postgresql://owner:pass@127.0.0.1:1/questlog",
    "QUESTLOG_REDIS_URL": "redis://127.0.0.1:1",
}


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (["serve"], {"QUESTLOG_DATABASE_URL": NOWHERE["QUESTLOG_DATABASE_URL"]}, "set both QUESTLOG_DATABASE_URL and"),
        (["serve"], NOWHERE, "Valkey at 127.0.0.1:1 cannot be reached"),
        (["work"], NOWHERE, "PostgreSQL at 127.0.0.1:1/questlog cannot be reached"),
        (["migrate"], NOWHERE, "PostgreSQL at 127.0.0.1:1/questlog cannot be reached"),
        (["work"], {}, "a worker alone needs QUESTLOG_DATABASE_URL"),
        (["serve"], {"QUESTLOG_JWT_SECRET": "short"}, "QUESTLOG_JWT_SECRET: "),
        (["serve"], {"QUESTLOG_JWKS_URL": "ftp://auth.example"}, "QUESTLOG_JWKS_URL must begin with https://"),
        (["serve"], {"QUESTLOG_JWKS_URL": "http://127.0.0.1:1/keys"}, "QUESTLOG_JWKS_URL gives no keys"),
        (
            ["serve"],
            NOWHERE | {"QUESTLOG_REDIS_URL": "redis://127.0.0.1:1/zero"},
            "must end in the number of a database",
        ),
        (["serve"], {"QUESTLOG_ENVIRONMENT": "production"}, "production needs QUESTLOG_JWT_SECRET"),
        (["serve", "--host", "192.0.2.1"], {}, "development does not listen on 192.0.2.1"),
        (["serve", "--host", "203.0.113.1"], {"QUESTLOG_ENVIRONMENT": "production"}, "203.0.113.1 port 0 cannot be"),
        (["serve"], {"QUESTLOG_HOME": "/proc/nowhere"}, "/proc/nowhere"),
        (["token", "--role", "admin", "--user", "a1"], {}, "run `questlog serve`"),
        (
            ["token", "--role", "admin", "--user", "a1"],
            {"QUESTLOG_JWKS_URL": "https://auth.example"},
            "QUESTLOG_JWKS_URL is set: tokens come from whoever holds its keys",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    home: Path, arguments: list[str], settings: dict[str, str], says: str
) -> None:
    port = ["--port", "0"] if arguments[0] == "serve" else []
    assert_one_line(questlog(home, *arguments, *port, **settings), says)


@pytest.mark.long
async def test_a_wrong_password_is_said_in_one_line(home: Path, tmp_path: Path) -> None:
    async with EmbeddedServers(home) as servers:
        right = {"QUESTLOG_DATABASE_URL": servers.database_url, "QUESTLOG_REDIS_URL": servers.redis_url}
        for setting, secret, says in (
            ("QUESTLOG_DATABASE_URL", servers.postgres.owner_password, "refuses the login: check user and password in"),
            ("QUESTLOG_REDIS_URL", servers.valkey.password, "refuses the password: check QUESTLOG_REDIS_URL"),
        ):
            wrong = right | {setting: right[setting].replace(secret, "guess")}
            assert_one_line(questlog(tmp_path / "other", "serve", "--port", "0", **wrong), says)
        assert_one_line(questlog(tmp_path / "other", "work", **right), "refuses the login")
        assert questlog(tmp_path / "other", "migrate", **right).returncode == 0
        assert questlog(tmp_path / "other", "migrate", "base", **right).returncode == 0
        assert_one_line(questlog(tmp_path / "other", "work", **right), "the database has no tables yet")


def assert_one_line(refused: subprocess.CompletedProcess[str], says: str) -> None:
    assert refused.returncode not in (0, None)
    assert says in refused.stderr
    assert refused.stderr.startswith("questlog: ")
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""
