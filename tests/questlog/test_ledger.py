"""What `questlog set-aside` does with many events, and what is left of it where it is killed."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.ledger import Counts, add_counts, counts, number_set_aside, set_aside
from models.user import UserRole
from questlog.embedded import EmbeddedServers
from questlog.process import ended
from tests.histories import as_tracked
from tests.platform import Platform, new_api, until
from tests.workers.storing import NOW, WAITING, visit
from workers.queue import LARGEST_BATCH, encode_event

NUMBER = 5 * LARGEST_BATCH // 2
IN_THE_SECOND = f"SELECT set_aside_id FROM set_aside_events ORDER BY 1 OFFSET {3 * LARGEST_BATCH // 2} LIMIT 1"


@pytest.fixture
async def api(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An installation that has many events set aside, among them one that can never be stored."""
    async with new_api(servers, tmp_path) as running:
        events = [as_tracked(visit(NOW), "ada", UserRole.STUDENT) for _ in range(NUMBER)]
        events[3] = msgspec.structs.replace(events[3], page_title="\0")
        async with running.worker_engine.begin() as connection:
            await set_aside(connection, [("as a test wants it", encode_event(event)) for event in events])
            await add_counts(connection, Counts(accepted=NUMBER))
        yield running


def questlog(api: Platform, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "questlog", "set-aside", *arguments],
        env={**os.environ, **api.settings.environ()},
        stdout=subprocess.PIPE,
    )


async def kill_in_the_second_part(api: Platform, command: str) -> None:
    """Run the command, and kill it while it waits for an event of the second part."""
    async with api.superuser.connect() as connection:
        await connection.execute(
            text(f"SELECT 1 FROM set_aside_events WHERE set_aside_id = ({IN_THE_SECOND}) FOR UPDATE")
        )

        async def waits() -> bool:
            async with api.superuser.connect() as looking:
                return bool(await looking.scalar(text(WAITING)))

        with questlog(api, command) as process:
            await until(waits)
            process.kill()


async def told(connection: AsyncConnection) -> tuple[Counts, int]:
    return await counts(connection), await number_set_aside(connection)


async def test_retry_that_is_killed_keeps_what_is_done_and_the_next_does_the_rest(api: Platform) -> None:
    await kill_in_the_second_part(api, "retry")
    async with api.worker_engine.connect() as connection:
        done = Counts(accepted=NUMBER, stored=LARGEST_BATCH - 1)
        assert await told(connection) == (done, NUMBER - LARGEST_BATCH + 1)
    printed = await outcome(questlog(api, "retry"))
    assert printed == f"stored: {NUMBER - LARGEST_BATCH} duplicate: 0 withdrawn: 0\n"
    async with api.worker_engine.connect() as connection:
        assert await told(connection) == (Counts(accepted=NUMBER, stored=NUMBER - 1), 1)


async def test_drop_that_is_killed_keeps_what_is_done_and_the_next_does_the_rest(api: Platform) -> None:
    await kill_in_the_second_part(api, "drop")
    async with api.worker_engine.connect() as connection:
        done = Counts(accepted=NUMBER, withdrawn=LARGEST_BATCH)
        assert await told(connection) == (done, NUMBER - LARGEST_BATCH)
    assert await outcome(questlog(api, "drop")) == f"dropped: {NUMBER - LARGEST_BATCH}\n"
    async with api.worker_engine.connect() as connection:
        assert await told(connection) == (Counts(accepted=NUMBER, withdrawn=NUMBER), 0)


async def outcome(process: subprocess.Popen[bytes]) -> str:
    """What the command printed once it ended well."""
    with process:
        assert await ended(process) == 0
        assert process.stdout
        return process.stdout.read().decode()
