"""How many events one user, device or address may send: counted in Valkey, for all processes together."""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from resolvers.errors import RateLimitedError
from resolvers.metrics import RATE_LIMITED

SECONDS_FOR_VALKEY = 1
SECONDS_BETWEEN_TRIES = 1
SECONDS_IN_ADVANCE = 10


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
        self._in_advance: dict[tuple[str, str], int] = {}
        self._forget_at = self._failed_at = float("-inf")

    async def spend(self, senders: Mapping[tuple[str, str], int]) -> None:
        """Count so many events of each sender: `user`, `device` or `address`, and which.

        Up to a hundredth of what a sender may is counted in advance, so that few requests have to ask Valkey.

        Raises RateLimitedError where one has sent too many, with the time until they may send so many again; and
        where one alone sends more than they ever may at once, in any case.
        """
        now = time.monotonic()
        if now >= self._forget_at:
            self._in_advance.clear()
            self._forget_at = now + SECONDS_IN_ADVANCE
        lacking = [(sender, number) for sender, number in senders.items() if not self._has(sender, number)]
        if not lacking or now < self._failed_at + SECONDS_BETWEEN_TRIES:
            return
        try:
            async with asyncio.timeout(SECONDS_FOR_VALKEY):
                for sender, number in lacking:
                    await self._count(sender, number)
        except (RedisError, OSError):
            self._failed_at = time.monotonic()

    def _has(self, sender: tuple[str, str], number: int) -> bool:
        """Whether the sender has no limit, or so many in advance, which are then taken."""
        if sender[0] not in self._items:
            return True
        left = self._in_advance.get(sender, 0) - number
        if left >= 0:
            self._in_advance[sender] = left
        return left >= 0

    async def _count(self, sender: tuple[str, str], number: int) -> None:
        kind, name = sender
        item = self._items[kind]
        there = self._in_advance.pop(sender, 0)
        more = item.amount // 100
        if await self._limiter.hit(item, name, cost=number - there + more):
            self._in_advance[sender] = self._in_advance.get(sender, 0) + more
        elif not more or not await self._limiter.hit(item, name, cost=number - there):
            self._in_advance[sender] = self._in_advance.get(sender, 0) + there
            reset_at, _ = await self._limiter.get_window_stats(item, name)
            RATE_LIMITED.labels(kind).inc()
            wait = max(1, math.ceil(1000 * (reset_at - time.time())))
            raise RateLimitedError(f"more than {item.amount} events a minute from one {kind}: send them later", wait)
