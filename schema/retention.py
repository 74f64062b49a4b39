"""How long rows name somebody, in the contract's shape."""

from datetime import datetime

import strawberry

from resolvers.reader import AnyRow
from resolvers.retention import Retention
from schema.scalars import BigInt


@strawberry.type(description="A run over everything that has grown too old.")
class RetentionRun:
    """The contract's RetentionRun."""

    started_at: datetime = strawberry.field(description="When it began.")
    finished_at: datetime | None = strawberry.field(
        description="When it came to its end; null while it lasts, and where it was broken off."
    )
    anonymized: BigInt = strawberry.field(description="Rows that it anonymised, of all tables.")
    deleted: BigInt = strawberry.field(description="Rows that it deleted, of all tables.")

    @classmethod
    def of(cls, row: AnyRow) -> "RetentionRun":
        """The row in this shape."""
        return cls(
            started_at=row.started_at,
            finished_at=row.finished_at,
            anonymized=BigInt(row.anonymized),
            deleted=BigInt(row.deleted),
        )


@strawberry.type(description="How long rows name somebody and are kept, as promised and as it is.")
class RetentionStatus:
    """The contract's RetentionStatus."""

    anonymize_after_days: int = strawberry.field(description="Events name nobody any more before they are so old.")
    delete_after_days: int = strawberry.field(description="Events are deleted before they are so old.")
    oldest_identifiable: datetime | None = strawberry.field(
        description="When the oldest row lies that still names somebody; null where none does."
    )
    oldest_kept: datetime | None = strawberry.field(description="When the oldest event of all lies.")
    last_run: RetentionRun | None = strawberry.field(description="The run that began last.")

    @classmethod
    def of(cls, found: Retention) -> "RetentionStatus":
        """What was found in this shape."""
        return cls(
            anonymize_after_days=found.policy.anonymize_after_days,
            delete_after_days=found.policy.delete_after_days,
            oldest_identifiable=found.oldest_identifiable,
            oldest_kept=found.oldest_kept,
            last_run=RetentionRun.of(found.last_run) if found.last_run else None,
        )
