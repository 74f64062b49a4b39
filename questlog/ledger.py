"""What `questlog status` and `questlog set-aside` do and show."""

from collections.abc import Sequence

from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.ledger import list_set_aside
from models.permission import ConsentRule
from questlog.progress import progress
from questlog.supervisor import StartError
from workers.event import Stored
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


async def retry(
    engine: AsyncEngine, anonymize_after_days: int, consent_rule: ConsentRule, ids: Sequence[int] | None
) -> None:
    """Store these of the events that are set aside, or all, and print what became of them."""
    outcome = Stored(0, 0, 0)
    ids = ids or await _all_ids(engine)
    done = 0
    with progress("Storing", len(ids)) as advance:
        async for number, stored in retry_set_aside(
            engine, ids, anonymize_after_days=anonymize_after_days, consent_rule=consent_rule
        ):
            outcome = Stored(*map(sum, zip(outcome, stored, strict=True)))
            advance(done := done + number)
    print(" ".join(f"{name}: {number}" for name, number in outcome._asdict().items()))


async def drop(engine: AsyncEngine, ids: Sequence[int] | None) -> None:
    """Withdraw these of the events that are set aside, or all, and print how many there were."""
    ids = ids or await _all_ids(engine)
    done = withdrawn = 0
    with progress("Dropping", len(ids)) as advance:
        async for number, dropped in drop_set_aside(engine, ids):
            withdrawn += dropped
            advance(done := done + number)
    print(f"dropped: {withdrawn}")


async def _all_ids(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return [set_aside_id for set_aside_id, _, _ in await list_set_aside(connection)]
