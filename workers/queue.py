"""The queue of accepted batches: arq's in Valkey, with what the ledger needs to know of it."""

import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import cast
from uuid import uuid4

import msgspec
from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import serialize_job
from redis.asyncio import ConnectionPool

from models.event import TrackedEvent

SECONDS_TO_CONNECT = 1
SECONDS_TO_ANSWER = 10  # nothing here lets Valkey wait, so one that is silent for longer hangs, or is cut off
KEPT_FOR = timedelta(days=30)
LARGEST_BATCH = 500
LARGEST_BATCH_BYTES = 2**17
ACCEPTED = "questlog:accepted"  # events that the queue ever took
WAITING = "questlog:waiting"  # of each batch that is not stored yet: how many events, and since when
WORKERS = "questlog:workers"  # when each worker was last alive
LAST_ERROR = "questlog:last_error"

encode_batch = msgspec.msgpack.Encoder().encode
decode_batch = msgspec.msgpack.Decoder(list[TrackedEvent]).decode
encode_event = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(TrackedEvent).decode


def queue_at(redis_url: str) -> ArqRedis:
    """arq's queue in Valkey, in a format that cannot carry code; nothing is opened until it is used.

    A command that gets no answer in ten seconds, or `socket_timeout` in the URL, raises redis' TimeoutError.
    """
    return ArqRedis(
        ConnectionPool.from_url(redis_url, socket_connect_timeout=SECONDS_TO_CONNECT, socket_timeout=SECONDS_TO_ANSWER),
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=msgspec.msgpack.decode,
    )


async def open_queue(redis_url: str) -> ArqRedis:
    """The same, once it has answered; raises RedisError or OSError where it does not."""
    queue = queue_at(redis_url)
    await queue.ping()
    return queue


def cut(events: Iterable[TrackedEvent]) -> Iterator[list[TrackedEvent]]:
    """The events in batches: of 500 at most, and not much more than 128 KiB of payload."""
    batch: list[TrackedEvent] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event.data)
        if len(batch) == LARGEST_BATCH or size > LARGEST_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def still_waiting(queue: ArqRedis, batch_ids: list[str]) -> set[str]:
    """Which of the batches are not known to be stored."""
    if not batch_ids:
        return set()
    there = await cast(Awaitable[list[bytes | None]], queue.hmget(WAITING, batch_ids))
    return {batch_id for batch_id, waits in zip(batch_ids, there, strict=True) if waits}


async def forget_waiting(queue: ArqRedis, batch_ids: Iterable[str]) -> None:
    """Note that the batches are stored."""
    await cast(Awaitable[int], queue.hdel(WAITING, *batch_ids))


async def enqueue(queue: ArqRedis, batches: Sequence[Sequence[TrackedEvent]]) -> None:
    """Put all batches into the queue, or none of them, as arq's jobs; returns once they are on disk."""
    now = time.time()
    async with queue.pipeline(transaction=True) as putting:
        for batch in batches:
            batch_id = uuid4().hex
            job = serialize_job(
                "store_batch", (encode_batch(batch),), {}, None, int(now * 1000), serializer=msgspec.msgpack.encode
            )
            putting.set(job_key_prefix + batch_id, job, ex=KEPT_FOR)
            putting.zadd(default_queue_name, {batch_id: int(now * 1000)})
            putting.hset(WAITING, batch_id, f"{len(batch)} {now}")
            putting.incrby(ACCEPTED, len(batch))
        await putting.execute()
