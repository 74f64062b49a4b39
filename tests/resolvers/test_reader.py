"""A question ends with its time, in PostgreSQL too."""

from pathlib import Path

from sqlalchemy import text

from models.viewer import Role
from questlog.embedded import EmbeddedServers
from tests.platform import new_api, until

QUESTION = "{ viewer { user { userId } } }"
WORKING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def test_a_statement_that_takes_too_long_is_cancelled_and_the_next_is_answered(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path, seconds_to_answer=1) as api:
        for asker in ((Role.STUDENT, "sam"), (Role.ADMIN, "ada")):
            await api.data(QUESTION, asker)
            async with api.superuser.begin() as locking:
                await locking.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
                answer = await api.ask(QUESTION, asker)
                (error,) = answer["errors"]
                assert error["extensions"]["code"] == "UNAVAILABLE"
                assert error["extensions"]["retryAfterMs"]
                assert "within 1 s" in error["message"]

                # The lock is still held: whatever waited for it has been cancelled.
                async def nobody_waits() -> bool:
                    return not await locking.scalar(text(f"{WORKING} AND wait_event_type = 'Lock'"))

                await until(nobody_waits)
            assert (await api.data(QUESTION, asker))["viewer"]["user"] == {"userId": asker[1]}


async def test_postgresql_ends_by_itself_what_nobody_cancels(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, seconds_to_answer=1) as api:
        databases = api.api.databases
        for engine in (databases.viewer, databases.admin):
            async with engine.connect() as connection:
                assert await connection.scalar(text("SHOW statement_timeout")) == "3s"
