"""Taking events: what many requests hand in becomes one job, and is acknowledged once Valkey has that on disk."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import msgspec
from arq.connections import ArqRedis, RedisSettings, create_pool

from models.event import TrackedEvent

LARGEST_BATCH = 500
GATHERING_SECONDS = 0.003
KEPT_FOR = timedelta(days=30)

encode_batch = msgspec.msgpack.Encoder().encode
decode_batch = msgspec.msgpack.Decoder(list[TrackedEvent]).decode


async def open_queue(redis_url: str) -> ArqRedis:
    """arq's queue in Valkey, in a format that cannot carry code."""
    return await create_pool(
        RedisSettings.from_dsn(redis_url),
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=msgspec.msgpack.decode,
    )


class Intake:
    """The buffer that all requests of a process share."""

    def __init__(self, queue: ArqRedis) -> None:
        self._queue = queue
        self._waiting: list[tuple[Sequence[TrackedEvent], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._closing = False
        self._committing = asyncio.create_task(self._commit_forever(), name="intake")

    async def keep(self, events: Sequence[TrackedEvent]) -> None:
        """Return once the events are on disk; raises what Valkey raised where it did not take them."""
        if self._closing:
            raise ConnectionError("this process is going down")
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((events, kept))
        self._arrived.set()
        await kept

    async def check(self) -> None:
        """Raise what Valkey raises where it cannot be reached."""
        await self._queue.ping()

    async def close(self) -> None:
        """Commit what is waiting, then take no more."""
        self._closing = True
        self._arrived.set()
        await self._committing

    async def _commit_forever(self) -> None:
        while not self._closing or self._waiting:
            await self._arrived.wait()
            if not self._closing:
                await asyncio.sleep(GATHERING_SECONDS)
            self._arrived.clear()
            waiting, self._waiting = self._waiting, []
            if waiting:
                await self._commit(waiting)

    async def _commit(self, waiting: Sequence[tuple[Sequence[TrackedEvent], asyncio.Future[None]]]) -> None:
        events = [event for handed_in, _ in waiting for event in handed_in]
        batches = [events[start : start + LARGEST_BATCH] for start in range(0, len(events), LARGEST_BATCH)]
        try:
            await asyncio.gather(*(self._enqueue(batch) for batch in batches))
        except Exception as error:  # noqa: BLE001 - whatever it is, each of those who wait must hear of it
            for _, kept in waiting:
                if not kept.done():
                    kept.set_exception(error)
        else:
            for _, kept in waiting:
                if not kept.done():
                    kept.set_result(None)

    async def _enqueue(self, batch: Sequence[TrackedEvent]) -> None:
        await self._queue.enqueue_job("store_batch", encode_batch(batch), _expires=KEPT_FOR)
