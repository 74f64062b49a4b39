"""The ledger, in the contract's shape."""

import strawberry

from schema.scalars import BigInt
from workers.ledger import Ledger


@strawberry.type(description="What became of all events that were accepted, and how the queue fares.")
class IntakeStatus:
    """The contract's IntakeStatus."""

    accepted: BigInt = strawberry.field(description="At rest the sum of the five below.")
    stored: BigInt = strawberry.field(description="Kept in the tables.")
    duplicate: BigInt = strawberry.field(description="Sent again, and kept once.")
    withdrawn: BigInt = strawberry.field(description="No longer to be kept by the time they were to be stored.")
    waiting: BigInt = strawberry.field(description="In the queue.")
    set_aside: BigInt = strawberry.field(description="That could not be stored: questlog set-aside lists them.")
    oldest_waiting_seconds: float | None = strawberry.field(description="Since the oldest in the queue was accepted.")
    workers: int = strawberry.field(description="Workers that were alive within the last 10 seconds.")
    last_error: str | None = strawberry.field(description="When a worker last failed, and at what.")

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
