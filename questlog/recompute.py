"""What `questlog recompute` does and shows."""

import re
from collections import Counter
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.text import is_storable
from models.user import subjects_of
from questlog.progress import progress
from questlog.supervisor import StartError
from workers.recompute import Scope, count_subjects, recompute


async def run(
    engine: AsyncEngine, anonymize_after_days: int, user_id: str | None, days: tuple[date | None, date | None]
) -> None:
    """Derive again, and print how many rows of each table differed. Raises StartError where there is no such user."""
    async with engine.connect() as connection:
        scope = Scope(None if user_id is None else await _key(connection, user_id), *days)
        subjects = await count_subjects(connection, scope)
    differing: Counter[str] = Counter()
    done = 0
    with progress("Deriving again", subjects) as advance:
        async for step in recompute(engine, scope, datetime.now(UTC), anonymize_after_days=anonymize_after_days):
            done += step.subjects
            differing += step.differing
            advance(done)
    for table, rows in sorted(differing.items()):
        print(f"{table}: {rows:,} rows differed")
    print(f"{differing.total():,} rows differed, of {done:,} users and devices")


def bounds(first: str | None, last: str | None) -> tuple[date | None, date | None]:
    """The days that --from and --to name; raises StartError."""
    days = _day("--from", first), _day("--to", last)
    if days[0] and days[1] and days[0] > days[1]:
        raise StartError(f"--from {days[0]} is after --to {days[1]}")
    return days


def _day(option: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise StartError(f"{option} must be a day such as 2026-01-31, and is {text!r}")


async def _key(connection: AsyncConnection, user_id: str) -> UUID:
    subjects = await subjects_of(connection, [user_id]) if is_storable(user_id) else {}
    if user_id not in subjects:
        raise StartError(f"there is no user {user_id!r}")
    return subjects[user_id].key
