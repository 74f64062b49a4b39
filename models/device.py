"""Devices whose events nobody signed: each is a subject of its own, whoever signs in on it later."""

from collections.abc import Collection
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, among, unnest

TIME_ZONE = "UTC"
"""Of a device's days: where it is nobody says."""
GOING = func.hashtextextended("devices", 0)
"""The lock of devices: shared by whoever stores for some, and held alone by whoever deletes those that are idle."""


class Device(Base):
    """One device. `subject_key` stands in every table for whoever uses it without a token."""

    __tablename__ = "devices"

    device_id: Mapped[UUID] = mapped_column(primary_key=True)
    subject_key: Mapped[UUID] = mapped_column(unique=True)


async def keys_of_devices(connection: AsyncConnection, device_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """The subject key of each device, made where it has none yet; none goes before the transaction ends."""
    if not device_ids:
        return {}
    await connection.execute(select(func.pg_advisory_xact_lock_shared(GOING)))
    # One order for everybody: two batches that bring the same devices never wait for each other in a circle.
    rows = unnest([Device.device_id, Device.subject_key], [(each, uuid4()) for each in sorted(device_ids)])
    kept = select(Device.device_id).where(Device.device_id == rows.c.device_id)
    await connection.execute(
        insert(Device)
        .from_select(rows.c.keys(), select(rows).where(~kept.exists()).order_by(rows.c.device_id))
        .on_conflict_do_nothing(index_elements=[Device.device_id])
    )
    found = await connection.execute(
        select(Device.device_id, Device.subject_key).where(among(Device.device_id, device_ids))
    )
    return {row.device_id: row.subject_key for row in found}
