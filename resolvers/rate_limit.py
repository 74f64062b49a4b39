"""How many events one user, device or address may send: counted in Valkey, for all processes together."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from cachetools import TTLCache
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from resolvers.errors import RateLimitedError

SECONDS_FOR_VALKEY = 1
SECONDS_BETWEEN_TRIES = 1
SENDERS_REMEMBERED, SECONDS_IN_ADVANCE = 10_000, 10


@dataclass(frozen=True)
class EventsPerMinute:
    """The most that each may send; 0 is as many as they like."""

    user: int
    device: int
    address: int


class RateLimits:
    """Sliding windows of a minute. While Valkey is away nothing is counted, and everybody may send."""

    def __init__(self, queue: ArqRedis, most: EventsPerMinute) -> None:
        shared: dict[str, Any] = {"connection_pool": queue.connection_pool}
        storage = RedisStorage("async+redis://", implementation="redispy", **shared)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._items = {
            kind: RateLimitItemPerMinute(number, namespace=f"questlog:{kind}")
            for kind, number in vars(most).items()
            if number
        }
        self._in_advance: TTLCache[tuple[str, str], int] = TTLCache(SENDERS_REMEMBERED, SECONDS_IN_ADVANCE)
        self._failed_at = float("-inf")

    async def spend(self, senders: Sequence[tuple[str, str]]) -> None:
        """Count events, one for each sender: `user`, `device` or `address`, and which.

        Up to a hundredth of what a sender may is counted in advance, so that few requests have to ask Valkey.
        Raises RateLimitedError where one has sent too many, with the time until they may send so many again; and
        where one alone sends more than they ever may at once, in any case.
        """
        if time.monotonic() < self._failed_at + SECONDS_BETWEEN_TRIES:
            return
        try:
            async with asyncio.timeout(SECONDS_FOR_VALKEY):
                for (kind, name), number in Counter(senders).items():
                    if item := self._items.get(kind):
                        await self._spend(item, kind, name, number)
        except (RedisError, OSError):
            self._failed_at = time.monotonic()

    async def _spend(self, item: RateLimitItemPerMinute, kind: str, name: str, number: int) -> None:
        there = self._in_advance.pop((kind, name), 0)
        lacking, more = number - there, item.amount // 100
        if lacking <= 0:
            self._in_advance[kind, name] = -lacking
        elif more and await self._limiter.hit(item, name, cost=lacking + more):
            self._in_advance[kind, name] = self._in_advance.get((kind, name), 0) + more
        elif not await self._limiter.hit(item, name, cost=lacking):
            self._in_advance[kind, name] = self._in_advance.get((kind, name), 0) + there
            reset_at, _ = await self._limiter.get_window_stats(item, name)
            wait = max(1, math.ceil(1000 * (reset_at - time.time())))
            raise RateLimitedError(f"more than {item.amount} events a minute from one {kind}: send them later", wait)
