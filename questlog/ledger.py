"""What `questlog status` and `questlog set-aside` do and show."""

from collections.abc import Sequence

from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.ledger import list_set_aside
from questlog.supervisor import StartError
from workers.ledger import drop_set_aside, ledger, retry_set_aside


async def show_status(engine: AsyncEngine, queue: ArqRedis) -> None:
    """Print the ledger; raises StartError where something is wrong."""
    async with engine.connect() as connection:
        current = await ledger(connection, queue)
    for name, value in current._asdict().items():
        print(f"{name.replace('_', ' ')}: {'none' if value is None else value}")
    if current.missing > 0:
        raise StartError(f"the ledger does not add up: {current.missing} accepted events are missing")
    if current.waiting and not current.workers:
        raise StartError("events wait, and no worker is alive: start questlog work")
    if current.set_aside:
        raise StartError("events are set aside: questlog set-aside list shows why")


async def show_set_aside(engine: AsyncEngine) -> None:
    """Print each event that is set aside, by id, with time and reason."""
    async with engine.connect() as connection:
        for set_aside_id, at, reason in await list_set_aside(connection):
            print(f"{set_aside_id}\t{at:%Y-%m-%dT%H:%M:%SZ}\t{reason}")


async def retry(engine: AsyncEngine, anonymize_after_days: int, ids: Sequence[int] | None) -> None:
    """Store these of the events that are set aside, or all, and print what became of them."""
    async with engine.begin() as connection:
        outcome = await retry_set_aside(connection, anonymize_after_days, ids)
    print(" ".join(f"{name}: {number}" for name, number in outcome._asdict().items()))


async def drop(engine: AsyncEngine, ids: Sequence[int] | None) -> None:
    """Withdraw these of the events that are set aside, or all, and print how many there were."""
    async with engine.begin() as connection:
        print(f"dropped: {await drop_set_aside(connection, ids)}")
