"""One history of migrations, forward and back, also on the oldest PostgreSQL that is supported."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from questlog import private
from questlog.database import logins
from questlog.embedded import EmbeddedServers
from questlog.process import end, spawn
from questlog.settings import Settings
from tests.processes import wait_until

BINARIES = Path("/usr/lib/postgresql/15/bin")
TABLES = (
    "SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'"
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
async def database_url() -> AsyncIterator[str]:
    """Debian's PostgreSQL 15 (`apt-get install postgresql-15`), for as long as the tests run."""
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="questlog-"))
    password = secrets.token_urlsafe()
    private.write(folder / "password", password, user)
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    create: list[str | Path] = [
        *(BINARIES / "initdb", "--pgdata", folder / "data", "--username=postgres", "--pwfile", folder / "password"),
        *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
    ]
    with private.append(folder / "log") as log:
        created = spawn(create, user=user, cwd=folder, output=log)
        assert created.wait() == 0, (folder / "log").read_text()
        serve: list[str | Path] = [
            BINARIES / "postgres",
            "-D",
            folder / "data",
            "-k",
            folder,
            "-c",
            "listen_addresses=",
        ]
        server = spawn(serve, dies_with_parent_by=signal.SIGINT, user=user, cwd=folder, output=log)
    wait_until(lambda: "is ready to accept" in (folder / "log").read_text())
    connection = await asyncpg.connect(host=str(folder), user="postgres", password=password)
    await connection.execute(f"CREATE ROLE questlog LOGIN CREATEROLE PASSWORD '{password}'")
    await connection.execute("CREATE DATABASE questlog OWNER questlog")
    await connection.close()
    yield f"postgresql://questlog:{password}@/questlog?host={quote(str(folder), safe='')}"
    await end(server, signal.SIGINT, 30)
    shutil.rmtree(folder)


async def tables(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url)
    found: list[str] = await connection.fetchval(TABLES)
    await connection.close()
    return found


def migrate(database_url: str, revision: str) -> None:
    environ = os.environ | {"QUESTLOG_DATABASE_URL": database_url}
    subprocess.run([sys.executable, "-m", "questlog", "migrate", revision], env=environ, check=True)


async def test_it_is_15(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    assert connection.get_server_version().major == 15
    await connection.close()


async def test_migrations_go_forward_and_back(database_url: str) -> None:
    migrate(database_url, "head")
    whole = await tables(database_url)
    assert {"user_activity_events", "user_sessions", "page_view_analytics"} < set(whole)
    assert {"learning_journey_events", "error_events"} < set(whole)
    migrate(database_url, "base")
    assert await tables(database_url) == []
    migrate(database_url, "head")
    assert await tables(database_url) == whole


async def test_a_whole_course_is_stored_and_derived(database_url: str, tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path / "home") as servers:
        settings = {
            "QUESTLOG_HOME": str(servers.home),
            "QUESTLOG_DATABASE_URL": database_url,
            "QUESTLOG_REDIS_URL": servers.redis_url,
        }
        command = [sys.executable, "-m", "questlog", "demo", "--port", "0"]
        with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout
            printed = list(takewhile(lambda line: not line.startswith("Serving http://"), demo.stdout))
            demo.send_signal(signal.SIGINT)
            assert demo.wait(60) == 0
    shutil.rmtree((servers.home / "servers").resolve())
    assert "They agree.\n" in printed


async def test_what_is_old_is_anonymised(database_url: str) -> None:
    migrate(database_url, "head")
    owner = await asyncpg.connect(database_url)
    worker = await asyncpg.connect(logins(Settings(database_url=database_url)).worker)
    await owner.execute("SELECT make_partitions(now() - interval '120 days', now() - interval '120 days')")
    await worker.execute(
        "INSERT INTO user_activity_events (subject_key, event_id, occurred_at, received_at, device_id, from_service,"
        " event_type, page_path, event_data)"
        " SELECT gen_random_uuid(), gen_random_uuid(), now() - interval '120 days', now(), gen_random_uuid(), false,"
        " 'page_view', '/quests/12', '{}' FROM generate_series(1, 100)"
    )
    while await worker.fetch("SELECT * FROM anonymize_old_activity_events(now(), 90)"):
        pass
    anonymised = "SELECT count(*) FROM user_activity_events WHERE device_id IS NULL AND page_path = '/quests/:id'"
    assert await worker.fetchval(anonymised) == 100
    while await worker.fetch("SELECT * FROM delete_old_activity_events(now(), 110)"):
        pass
    assert await worker.fetchval(anonymised) == 0
    await owner.close()
    await worker.close()
