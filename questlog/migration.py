"""The migrations of an installation's database, which its owner runs."""

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

import migrations
from models.base import connect
from models.partition import make_partitions
from questlog.database import LOGINS, Logins, derived
from questlog.settings import SettingsError


async def migrate(logins: Logins, revision: str = "head", *, anonymize_after_days: int = 90) -> None:
    """Make the logins, bring the tables to this revision (forward or back), and make the partitions of the weeks from
    the horizon to four weeks ahead. Two at once do it once.

    Raises SettingsError where no owner is configured or the database refuses, and Alembic's CommandError where there
    is no such revision.
    """
    if logins.owner is None:
        raise SettingsError("set QUESTLOG_DATABASE_URL to the owner's login: migrations run as the owner")
    engine = connect(logins.owner, pool_size=1, name="questlog migrate")
    try:
        async with engine.connect() as connection:
            await connection.execute(select(func.pg_advisory_lock(func.hashtextextended("questlog migrate", 0))))
            await _make_logins(connection, logins)
            await connection.run_sync(_run, revision, logins.names())
            if await connection.scalar(select(func.to_regproc("make_partitions"))):
                await make_partitions(connection, datetime.now(UTC), anonymize_after_days)
            await connection.commit()
    except DBAPIError as error:
        # Without the statement, which may hold a login's password.
        reason = str(error.orig).splitlines()[0].rpartition(">: ")[2]
        raise SettingsError(
            f"the database refuses to be migrated ({reason}): QUESTLOG_DATABASE_URL must be its owner's, who may also"
            " create roles"
        ) from None
    finally:
        await engine.dispose()


async def _make_logins(connection: AsyncConnection, logins: Logins) -> None:
    for name in LOGINS:
        url = getattr(logins, name)
        if url != derived(logins.owner, name):
            continue
        login = make_url(url)
        exists = await connection.scalar(
            text("SELECT true FROM pg_roles WHERE rolname = :name"), {"name": login.username}
        )
        verb = "ALTER" if exists else "CREATE"
        quoted = connection.dialect.identifier_preparer.quote_identifier(str(login.username))
        # DDL takes no bound values; the password is hexadecimal.
        await connection.execute(text(f"{verb} ROLE {quoted} LOGIN PASSWORD '{login.password}'"))
    await connection.commit()


def _run(connection: Connection, revision: str, names: dict[str, str]) -> None:
    # Not above, where it would cost each command and process a tenth of a second.
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes.update(connection=connection, logins=names)
    current = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(config)
    wanted = None if revision == "base" else script.get_revision(revision).revision
    behind = {step.revision for step in script.iterate_revisions(current, "base")} - {current} | {None}
    (command.downgrade if current and wanted in behind else command.upgrade)(config, revision)
