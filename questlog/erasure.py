"""What `questlog erase` and `questlog verify-receipt` do and show."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import orjson
from arq.connections import ArqRedis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import secret_of
from models.erasure import Erasure
from models.receipt import is_genuine, public_key
from models.text import is_storable
from models.tombstone import digest
from questlog.progress import progress
from questlog.settings import load, with_erasure_secret
from questlog.supervisor import StartError
from workers.erasure import begin, erase

SECONDS_BETWEEN_TRIES = 1


async def run(engine: AsyncEngine, queue: ArqRedis, anonymize_after_days: int, user_id: str) -> None:
    """Erase the user, and print the receipt; asked again, the same one.

    Raises StartError where there is no such user, or somebody is left.
    """
    erasure_id: UUID | None = None
    async with engine.begin() as connection:
        if is_storable(user_id):
            theirs, by = (digest(secret_of(connection), each) for each in (user_id, "the command line"))
            await begin(connection, user_id, by, datetime.now(UTC))
            asked = select(Erasure.erasure_id).where(Erasure.tombstone == theirs, Erasure.asked_by == by)
            erasure_id = await connection.scalar(asked.order_by(Erasure.requested_at.desc()).limit(1))
    if erasure_id is None:
        raise StartError(f"there is no user {user_id!r}")
    with progress("Erasing", 1) as advance:
        while True:
            async for step in erase(engine, queue, erasure_id, anonymize_after_days=anonymize_after_days):
                advance(step.done / step.steps)
            if step.is_finished:
                break
            await asyncio.sleep(SECONDS_BETWEEN_TRIES)
    async with engine.connect() as connection:
        receipt = await connection.scalar(select(Erasure.receipt).where(Erasure.erasure_id == erasure_id))
    print(orjson.dumps(receipt, option=orjson.OPT_INDENT_2).decode())
    if not receipt or not receipt["complete"]:
        raise StartError("somebody is named still, as the receipt says: the workers try again")


def verify(file: Path, key: str | None) -> None:
    """Print by which key the receipt is genuine; raises StartError where it is not, or no receipt."""
    try:
        receipt = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise StartError(f"{file} cannot be read as a receipt: {error}") from None
    checked_by = key or public_key(with_erasure_secret(load()).erasure_key)
    if not is_genuine(receipt, checked_by):
        raise StartError(f"{file} is not as it was signed by {checked_by}")
    print(f"genuine: signed by {checked_by}")
