"""Between those who store events and those who forbid it."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

# The advisory lock that everybody shares who stores events.
STORING = func.hashtextextended("storing", 0)
SHARED, ALONE = select(func.pg_advisory_xact_lock_shared(STORING)), select(func.pg_advisory_xact_lock(STORING))


async def begin_storing(connection: AsyncConnection) -> None:
    """To be called before a transaction looks whose events it may store: what is withdrawn meanwhile waits for it."""
    await connection.execute(SHARED)


async def outlast_storing(connection: AsyncConnection) -> None:
    """To be called last in a transaction that withdraws a permission: it ends after all that are storing by it, and
    before any other begins. Raises DBAPIError where that takes longer than two seconds."""
    await connection.execute(select(func.set_config("lock_timeout", "2s", True)))
    await connection.execute(ALONE)
