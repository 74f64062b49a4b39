"""Tombstones: by which those who were erased are told when they come again, and by which nobody else can find them."""

import hmac
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, among, secret_of


class Tombstone(Base):
    """Somebody who was erased, until they are signed up anew: an HMAC of their user id by the installation's secret."""

    __tablename__ = "tombstones"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    made_at: Mapped[datetime]


def digest(secret: bytes, *parts: str) -> bytes:
    """What stands for a user id, or for somebody in a role, where no id may stand."""
    return hmac.digest(secret, "\0".join(parts).encode(), "sha256")


async def erased_among(connection: AsyncConnection, user_ids: Collection[str]) -> set[str]:
    """Those of the ids that belong to somebody who was erased."""
    if not user_ids:
        return set()
    secret = secret_of(connection)
    by_digest = {digest(secret, user_id): user_id for user_id in user_ids}
    stand = await connection.scalars(select(Tombstone.digest).where(among(Tombstone.digest, by_digest)))
    return {by_digest[each] for each in stand}


async def set_tombstone(connection: AsyncConnection, whose: bytes) -> None:
    """From the transaction's end on, nobody takes anything of theirs."""
    statement = insert(Tombstone).values(digest=whose, made_at=func.clock_timestamp())
    await connection.execute(
        statement.on_conflict_do_update(index_elements=[Tombstone.digest], set_={"made_at": statement.excluded.made_at})
    )


async def lift_tombstones(connection: AsyncConnection, user_ids: Sequence[str]) -> None:
    """These people are signed up anew: what is theirs is taken again."""
    secret = secret_of(connection)
    theirs = [digest(secret, user_id) for user_id in user_ids]
    await connection.execute(delete(Tombstone).where(among(Tombstone.digest, theirs)))
