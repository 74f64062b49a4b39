"""The ledger, in the contract's shape."""

import strawberry

from schema.scalars import BigInt
from workers.ledger import Ledger


@strawberry.type(description="What became of all events that were accepted, and how the queue fares.")
class IntakeStatus:
    """The contract's IntakeStatus."""

    accepted: BigInt = strawberry.field(
        description="Events that were ever acknowledged: at rest, all of the five figures below together."
    )
    stored: BigInt = strawberry.field(description="Events that are kept in the database.")
    duplicate: BigInt = strawberry.field(description="Events that were sent again, and are kept once.")
    withdrawn: BigInt = strawberry.field(
        description="Events that might no longer be kept when their turn came: consent or the person had gone, or "
        "their day was closed."
    )
    waiting: BigInt = strawberry.field(description="Events in the queue, which a worker will store.")
    set_aside: BigInt = strawberry.field(
        description="Events that could not be stored: the command questlog set-aside lists them."
    )
    oldest_waiting_seconds: float | None = strawberry.field(
        description="How long the oldest event in the queue has been there; null where there is none."
    )
    workers: int = strawberry.field(
        description="How many processes that store events were alive within the last 10 seconds."
    )
    last_error: str | None = strawberry.field(
        description="When a worker last failed, and at what; null where none did."
    )

    @classmethod
    def of(cls, ledger: Ledger) -> "IntakeStatus":
        """The ledger in this shape."""
        return cls(
            accepted=BigInt(ledger.accepted),
            stored=BigInt(ledger.stored),
            duplicate=BigInt(ledger.duplicate),
            withdrawn=BigInt(ledger.withdrawn),
            waiting=BigInt(ledger.waiting),
            set_aside=BigInt(ledger.set_aside),
            oldest_waiting_seconds=ledger.oldest_waiting,
            workers=ledger.workers,
            last_error=ledger.last_error,
        )
