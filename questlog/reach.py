"""Whether the servers that the settings name can be used, said in one line where they cannot."""

import contextlib
import logging
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from questlog.settings import SettingsError, variable

OLDEST_POSTGRES = 15
PATIENCE = 10  # seconds
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}

logger = logging.getLogger(__name__)


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


async def check_durability(url: str, environment: str) -> None:
    """Whether Valkey keeps what it acknowledges, as the embedded one does; where it does not, raises SettingsError in
    production and warns in development. Of a server that does not tell its settings it only warns."""
    client = Redis.from_url(url, socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE, decode_responses=True)
    found: dict[str, str | None] = dict.fromkeys(DURABLE)
    with contextlib.suppress(RedisError):
        for name in DURABLE:
            found |= await client.config_get(name)
    await client.aclose()
    if wrong := {name: value for name, value in DURABLE.items() if found[name] not in (value, None)}:
        told = (
            f"Valkey has {_listed({name: found[name] for name in wrong})}, by which acknowledged events can be lost:"
            f" set {_listed(wrong)}"
        )
        if environment == "production":
            raise SettingsError(told)
        logger.warning("%s", told)
    elif None in found.values():
        logger.warning("Valkey does not tell its settings: see that it has %s", _listed(DURABLE))


def _listed(settings: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _place(url: str) -> str:
    """The URL without login and options."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] + parts.path


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
