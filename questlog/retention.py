"""What `questlog retention` does and shows."""

from collections import Counter
from datetime import UTC, datetime

from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.retention import Policy, Step, due
from questlog.progress import progress
from questlog.supervisor import StartError
from workers.retention import retain

DONE = {Step.ANONYMIZE: "anonymised", Step.DELETE: "deleted", Step.REWRITE: "written anew"}


async def run(engine: AsyncEngine, queue: ArqRedis, as_of: datetime, policy: Policy) -> None:
    """Do what is due, and print how many rows of each table. Raises StartError where the time is still to come."""
    if as_of > datetime.now(UTC):
        raise StartError("--as-of is still to come: only with --dry-run can that be looked at")
    async with engine.connect() as connection:
        total = sum(part.rows for _, part in await due(connection, as_of, policy))
    rows: Counter[tuple[str, str]] = Counter()
    whole = 0
    with progress("Anonymising and deleting", total) as advance:
        async for done in retain(engine, queue, as_of, policy, wait=True):
            rows[done.table, DONE[done.step]] += done.rows
            whole += done.rows if done.part else 0
            advance(whole)
    _print(rows)


async def preview(engine: AsyncEngine, as_of: datetime, policy: Policy) -> None:
    """Print which partitions are due, and how many rows of each table they hold."""
    async with engine.connect() as connection:
        found = await due(connection, as_of, policy)
    for step, part in found:
        print(f"{part.name}: {part.rows:,} rows to be {DONE[step]}")
    rows: Counter[tuple[str, str]] = Counter()
    for step, part in found:
        rows[part.table, f"to be {DONE[step]}"] += part.rows
    _print(rows)


def moment(written: str | None) -> datetime:
    """The time that --as-of names, now where it names none; raises StartError."""
    if written is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        raise StartError(f"--as-of {written} is no time, such as 2026-01-31T02:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _print(rows: Counter[tuple[str, str]]) -> None:
    for (table, what), number in sorted(rows.items()):
        print(f"{table}: {number:,} rows {what}")
    print(f"{rows.total():,} rows in all")
