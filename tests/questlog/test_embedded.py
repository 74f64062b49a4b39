"""The embedded servers keep what they acknowledged, and keep it from everybody else."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from questlog.embedded import SYSTEM_FOLDER, EmbeddedError, EmbeddedServers
from tests.files import of_each, total_size
from tests.processes import children, command, runs, wait_until

STARTER = """
import asyncio, pathlib, sys
from questlog.embedded import EmbeddedServers
async def main():
    async with EmbeddedServers(pathlib.Path(sys.argv[1])) as servers:
        print(servers.postgres.process.pid, servers.valkey.process.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    remove(home)


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    async with EmbeddedServers(tmp_path_factory.mktemp("shared") / "home") as servers:
        yield servers
    remove(servers.home)


def remove(home: Path) -> None:
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


async def keep(servers: EmbeddedServers, word: str) -> None:
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", word)
    await connection.close()
    valkey = Redis.from_url(servers.redis_url, decode_responses=True)
    await valkey.rpush("kept", word)
    await valkey.aclose()


async def kept(servers: EmbeddedServers) -> tuple[list[str], list[str]]:
    connection = await asyncpg.connect(servers.database_url)
    rows = [row["word"] for row in await connection.fetch("SELECT word FROM kept")]
    await connection.close()
    valkey = Redis.from_url(servers.redis_url, decode_responses=True)
    words = await valkey.lrange("kept", 0, -1)
    await valkey.aclose()
    return rows, words


def starter(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", STARTER, str(home)], stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


async def test_the_next_start_finds_everything_again(home: Path) -> None:
    async with EmbeddedServers(home) as servers:
        await keep(servers, "first")
    async with EmbeddedServers(home) as servers:
        assert await kept(servers) == (["first"], ["first"])


async def test_the_owner_may_make_logins_and_is_no_superuser(home: Path) -> None:
    async with EmbeddedServers(home) as servers:
        connection = await asyncpg.connect(servers.database_url)
        role = await connection.fetchrow(
            "SELECT rolsuper, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = user"
        )
        database = await connection.fetchrow(
            "SELECT datdba::regrole::text AS owner, pg_encoding_to_char(encoding) AS encoding"
            " FROM pg_database WHERE datname = 'questlog'"
        )
        await connection.close()
        assert role is not None
        assert tuple(role) == (False, True, False)
        assert database is not None
        assert tuple(database) == ("questlog", "UTF8")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("password_encryption", "scram-sha-256"),
        ("TimeZone", "UTC"),
        ("jit", "off"),
    ],
)
async def test_postgres_is_durable_and_hears_no_network(shared: EmbeddedServers, setting: str, value: str) -> None:
    connection = await asyncpg.connect(shared.database_url)
    assert await connection.fetchval("SELECT current_setting($1)", setting) == value
    await connection.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("appendonly", "yes"), ("appendfsync", "always"), ("port", "0"), ("maxmemory-policy", "noeviction")],
)
async def test_valkey_is_durable_and_hears_no_network(shared: EmbeddedServers, setting: str, value: str) -> None:
    valkey = Redis.from_url(shared.redis_url, decode_responses=True)
    assert await valkey.config_get(setting) == {setting: value}
    await valkey.aclose()


async def test_what_came_and_went_does_not_stay_in_valkeys_file(shared: EmbeddedServers) -> None:
    folder = shared.valkey.data / "appendonlydir"
    valkey = Redis.from_url(shared.redis_url)
    for _ in range(70):
        await valkey.set("batch", b"x" * 2**20)
        await valkey.delete("batch")
    await valkey.aclose()
    wait_until(lambda: total_size(folder.iterdir()) < 64 * 2**20, seconds=60)


async def test_nobody_comes_in_without_the_password(shared: EmbeddedServers) -> None:
    sockets = str(shared.postgres.house.sockets)
    for user in ("questlog", "postgres"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=sockets, user=user, password="guess", database="questlog")
    for password in (None, "guess"):
        valkey = Redis(unix_socket_path=str(shared.valkey.socket), password=password)
        with pytest.raises(RedisError, match=r"Authentication required|invalid username-password pair"):
            await valkey.ping()
        await valkey.aclose()


async def test_nobody_else_can_read_a_file(shared: EmbeddedServers) -> None:
    folder = shared.postgres.house.folder
    system_group = folder.stat().st_gid
    for path, mode in of_each([shared.home, *shared.home.rglob("*"), folder, *folder.rglob("*")], Path.lstat):
        if stat.S_ISLNK(mode.st_mode):
            continue
        only_group = path == folder and os.geteuid() == 0 and mode.st_gid == system_group
        open_to_others = stat.S_IMODE(mode.st_mode) & (stat.S_IRWXO if only_group else stat.S_IRWXO | stat.S_IRWXG)
        assert not open_to_others, path


async def test_root_gives_its_servers_to_a_user_that_owns_nothing_else(shared: EmbeddedServers) -> None:
    assert shared.postgres.process
    assert shared.valkey.process
    owner = Path(f"/proc/{shared.postgres.process.pid}").stat().st_uid
    assert owner == Path(f"/proc/{shared.valkey.process.pid}").stat().st_uid
    if os.geteuid() == 0:
        assert owner != 0
        assert shared.postgres.house.folder.parent == SYSTEM_FOLDER
    else:
        assert owner == os.geteuid()
        assert shared.postgres.house.folder == shared.home / "servers"


async def test_no_password_stands_on_a_command_line_or_in_an_environment(shared: EmbeddedServers) -> None:
    secrets = [shared.valkey.password, shared.postgres.owner_password, shared.postgres.superuser_password]
    for server in (shared.postgres, shared.valkey):
        assert server.process
        seen = command(server.process.pid) + Path(f"/proc/{server.process.pid}/environ").read_text()
        assert seen
        assert not [secret for secret in secrets if secret in seen]


async def test_the_terminals_interrupt_does_not_reach_the_servers(shared: EmbeddedServers) -> None:
    for server in (shared.postgres, shared.valkey):
        assert server.process
        assert os.getsid(server.process.pid) != os.getsid(0)


async def test_two_never_run_on_one_home(shared: EmbeddedServers) -> None:
    with pytest.raises(EmbeddedError, match=r"already runs on .*: stop it"):
        await EmbeddedServers(shared.home).start()
    connection = await asyncpg.connect(shared.database_url)
    await connection.close()


async def test_a_killed_server_starts_again_with_all_it_acknowledged(home: Path) -> None:
    async with EmbeddedServers(home) as servers:
        await keep(servers, "before")
        for server in (servers.postgres, servers.valkey):
            assert server.process
            server.process.kill()
            server.process.wait()
            await server.start()
        assert await kept(servers) == (["before"], ["before"])


@pytest.mark.long
async def test_servers_end_with_a_killed_supervisor_and_start_again(home: Path) -> None:
    supervisor = starter(home)
    assert supervisor.stdout
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    assert all(runs(pid) for pid in pids)
    kill(supervisor)
    async with EmbeddedServers(home) as servers:
        assert not any(runs(pid) for pid in pids)
        await keep(servers, "after")
        assert await kept(servers) == (["after"], ["after"])


@pytest.mark.long
async def test_servers_that_outlived_their_supervisor_are_ended_first(home: Path) -> None:
    left = EmbeddedServers(home)
    await left.start()
    assert left.postgres.process
    assert left.valkey.process
    await keep(left, "before")
    for handle in Path("/proc/self/fd").iterdir():
        if os.path.realpath(handle) == str(left.postgres.house.folder / "lock"):
            fcntl.flock(int(handle.name), fcntl.LOCK_UN)
    async with EmbeddedServers(home) as servers:
        assert left.postgres.process.wait() == 0
        assert left.valkey.process.wait() == 0
        assert await kept(servers) == (["before"], ["before"])
        await left.stop()


@pytest.mark.long
async def test_a_stale_process_id_that_somebody_else_has_by_now_is_no_obstacle(home: Path) -> None:
    async with EmbeddedServers(home) as servers:
        await keep(servers, "before")
        assert servers.postgres.process
        servers.postgres.process.kill()
        servers.postgres.process.wait()
        somebody = servers.valkey.process
        assert somebody
        pid_file = servers.postgres.data / "postmaster.pid"
        _, rest = pid_file.read_text().split("\n", 1)
        pid_file.write_text(f"{somebody.pid}\n{rest}")
        servers.postgres.data.with_suffix(".lock").write_text(str(somebody.pid))
        await servers.postgres.start()
        assert await kept(servers) == (["before"], ["before"])


async def test_a_first_start_killed_half_way_is_made_again(home: Path) -> None:
    supervisor = starter(home)
    draft = home / "servers" / "postgresql.new" / "PG_VERSION"
    wait_until(draft.exists)
    kill(supervisor)
    assert not (home / "servers" / "postgresql").exists()
    async with EmbeddedServers(home) as servers:
        await keep(servers, "whole")
        assert await kept(servers) == (["whole"], ["whole"])
        assert not draft.parent.exists()


@pytest.mark.long
@pytest.mark.parametrize("name", ["a" * 120, "with a space & more"])
async def test_any_home_will_do(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    async with EmbeddedServers(home) as servers:
        await keep(servers, "here")
        assert await kept(servers) == (["here"], ["here"])
    remove(home)


async def test_lost_passwords_are_said_in_one_line(home: Path) -> None:
    async with EmbeddedServers(home):
        pass
    (home / "passwords.json").unlink()
    with pytest.raises(EmbeddedError, match=r"^[^\n]*passwords.json is not what [^\n]* put it back$"):
        await EmbeddedServers(home).start()
    assert not [line for line in children(os.getpid()).values() if str(home) in line]


async def test_stopping_leaves_no_process_behind(home: Path) -> None:
    async with EmbeddedServers(home) as servers:
        processes = [servers.postgres.process, servers.valkey.process]
    assert [process.returncode for process in processes if process] == [0, 0]
    assert not servers.postgres.house.sockets.exists()
