"""`questlog export`, `erase` and `verify-receipt` beside a running installation, and what bad input gets."""

import asyncio
import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from questlog.embedded import EmbeddedServers
from tests.questlog.test_records import told
from tests.questlog.test_serve import Installation, assert_one_line, questlog, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("privacy") / "home"
    with serving(home) as installation:
        yield installation
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


def test_somebody_is_exported_and_erased_with_a_receipt_that_can_be_checked(
    running: Installation, tmp_path: Path
) -> None:
    running.ask("{ viewer { user { userId } } }", running.token("student", "kim"))
    exported = questlog(running.home, "export", "kim", "--out", str(tmp_path))
    assert exported.returncode == 0, exported.stderr
    (path,) = map(Path, told(exported))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert [row["user_id"] for row in json.loads(archive.read("account.json"))] == ["kim"]

    erased = questlog(running.home, "erase", "kim")
    assert erased.returncode == 0, erased.stderr
    receipt = json.loads(erased.stdout)
    assert receipt["complete"]
    assert receipt["deleted"]["users"] == 1
    assert "kim" not in erased.stdout
    again = questlog(running.home, "erase", "kim")  # as after it was broken off
    assert json.loads(again.stdout) == receipt, again.stderr
    assert_one_line(questlog(running.home, "export", "kim", "--out", str(tmp_path)), "there is no user 'kim'")

    file = tmp_path / "receipt.json"
    file.write_text(erased.stdout)
    genuine = questlog(running.home, "verify-receipt", str(file))
    assert genuine.returncode == 0, genuine.stderr
    assert told(genuine) == [f"genuine: signed by {receipt['publicKey']}"]
    elsewhere = questlog(tmp_path / "elsewhere", "verify-receipt", str(file), "--key", receipt["publicKey"])
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert_one_line(questlog(tmp_path / "elsewhere", "verify-receipt", str(file)), "set QUESTLOG_ERASURE_SECRET")
    other = questlog(running.home, "verify-receipt", str(file), "--key", receipt["publicKey"].swapcase())
    assert_one_line(other, "is not as it was signed")
    file.write_text(erased.stdout.replace('"users": 1', '"users": 2'))
    assert_one_line(questlog(running.home, "verify-receipt", str(file)), "is not as it was signed")
    deep = erased.stdout.replace('"complete": true', f'"complete": {"[" * 500}{"]" * 500}')
    file.write_text(deep)
    assert_one_line(questlog(running.home, "verify-receipt", str(file)), "is not as it was signed")


async def test_whoever_is_held_by_others_for_too_long_is_not_erased_yet(running: Installation) -> None:
    await asyncio.to_thread(running.ask, "{ viewer { user { userId } } }", running.token("student", "ana"))
    database = await asyncpg.connect(EmbeddedServers.running(running.home).database_url)
    async with database.transaction():
        await database.execute("LOCK TABLE users IN EXCLUSIVE MODE")
        told = await asyncio.to_thread(questlog, running.home, "erase", "ana")
    await database.close()
    assert_one_line(told, "PostgreSQL is away, or too busy (LockNotAvailableError): try again")
    assert (await asyncio.to_thread(questlog, running.home, "erase", "ana")).returncode == 0


@pytest.mark.parametrize("command", [("erase", "kim"), ("work",)])
def test_nobody_is_erased_by_a_secret_of_ones_own(
    running: Installation, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The tombstone would stand for nobody: no other process knows that secret."""
    servers = EmbeddedServers.running(running.home)
    there = {"QUESTLOG_DATABASE_URL": servers.database_url, "QUESTLOG_REDIS_URL": servers.redis_url}
    assert_one_line(questlog(tmp_path, *command, **there), "set QUESTLOG_ERASURE_SECRET")
    assert not list(tmp_path.glob("**/erasure-secret"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "nobody"], "there is no user 'nobody'"),
        (["export", ""], "there is no user ''"),
        (["erase", "nobody"], "there is no user 'nobody'"),
        (["verify-receipt", "none.json"], "none.json cannot be read as a receipt"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(running: Installation, arguments: list[str], says: str) -> None:
    assert_one_line(questlog(running.home, *arguments), says)


def test_an_archive_that_cannot_be_written_is_said_in_one_line(running: Installation, tmp_path: Path) -> None:
    running.ask("{ viewer { user { userId } } }", running.token("student", "lou"))
    assert_one_line(questlog(running.home, "export", "lou", "--out", str(tmp_path / "none")), "cannot be written")
