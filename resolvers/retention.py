"""How long rows name somebody, as promised and as it is, for whoever runs the platform."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from models.event import UserActivityEvent, minute_of
from models.horizon import horizon
from models.retention import LAST_RUN, Policy
from models.viewer import Role
from resolvers.reader import AnyRow
from resolvers.request import Request


@dataclass(frozen=True)
class Retention:
    """The policy in force, the oldest row that names somebody, the oldest event of all, and the run that began last."""

    policy: Policy
    oldest_identifiable: datetime | None
    oldest_kept: datetime | None
    last_run: AnyRow | None


async def retention_status(request: Request) -> Retention:
    """How it stands."""
    request.require(Role.ADMIN)
    policy = Policy(request.rules.anonymize_after_days, request.rules.delete_after_days)
    at = UserActivityEvent.occurred_at
    sealed_before = horizon(request.now, policy.anonymize_after_days)
    identifiable = await request.reader.rows(select(func.oldest_identifiable(sealed_before)))
    kept: list[AnyRow] = await request.reader.rows(select(at).order_by(minute_of(at), at).limit(1))
    runs = await request.reader.rows(LAST_RUN)
    return Retention(policy, identifiable[0][0], kept[0][0] if kept else None, runs[0] if runs else None)
