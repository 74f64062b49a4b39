"""Whether the servers that the settings name can be used, said in one line where they cannot."""

import re
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from questlog.settings import SettingsError, variable

OLDEST_POSTGRES = 15
PATIENCE = 10  # seconds


async def check_database(url: str, setting: str) -> None:
    """Connect once; raises SettingsError, naming the setting, where that fails."""
    name, where = variable(setting), _place(url)
    try:
        connection = await asyncpg.connect(url, timeout=PATIENCE)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        raise SettingsError(f"PostgreSQL at {where} refuses the login: check user and password in {name}") from None
    except asyncpg.InvalidCatalogNameError:
        raise SettingsError(f"PostgreSQL at {where} has no such database: create it, or change {name}") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise SettingsError(
            f"PostgreSQL at {where} cannot be reached ({_reason(error)}): start it, or change {name}"
        ) from None
    version = connection.get_server_version().major
    await connection.close()
    if version < OLDEST_POSTGRES:
        raise SettingsError(f"{name} names PostgreSQL {version}: {OLDEST_POSTGRES} or later is needed")


async def check_tables(url: str) -> None:
    """Raises SettingsError where the database has not been migrated."""
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    migrated = await connection.fetchval("SELECT to_regclass('dirty_spans')")
    await connection.close()
    if not migrated:
        raise SettingsError("the database has no tables yet: run `questlog migrate` or `questlog serve` first")


async def check_queue(url: str) -> None:
    """Ask Valkey or Redis for one answer; raises SettingsError where it gives none."""
    where = _place(url)
    if not re.fullmatch(r"/?\d*", urlsplit(url).path) and not url.startswith("unix:"):
        raise SettingsError("QUESTLOG_REDIS_URL must end in the number of a database, or without one")
    client = Redis.from_url(url, socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE)
    try:
        await client.ping()
    except (RedisError, OSError, ValueError) as error:
        if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
            raise SettingsError(f"Valkey at {where} refuses the password: check QUESTLOG_REDIS_URL") from None
        raise SettingsError(
            f"Valkey at {where} cannot be reached ({_reason(error)}): start it, or change QUESTLOG_REDIS_URL"
        ) from None
    finally:
        await client.aclose()


def _place(url: str) -> str:
    """The URL without login and options."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] + parts.path


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
