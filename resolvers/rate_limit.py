"""How many events one user, device or address may send: counted in Valkey, for all processes together."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
MINUTE = 60
MOST_REMEMBERED = 50_000
UNASKED_PART = 100  # one part in so many of a limit is let pass without asking Valkey


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
        self._storage = RedisStorage("async+redis://", implementation="redispy", **shared)
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._items = {
            kind: RateLimitItemPerMinute(number, namespace=f"questlog:{kind}")
            for kind, number in vars(most).items()
            if number
        }
        self._unasked: Counter[tuple[str, str]] = Counter()
        self._forget_at = self._failed_at = float("-inf")

    async def spend(self, senders: Mapping[tuple[str, str], int]) -> None:
        """Count so many events of each sender: `user`, `device` or `address`, and which.

        Valkey is told of a sender once they have sent more than a hundredth of their limit: most never do in a minute.

        Raises RateLimitedError, and counts none of them, where one has sent too many, with the time until they may send
        so many again; and where one alone sends more than they ever may at once, in any case.
        """
        now = time.monotonic()
        if now >= self._forget_at or len(self._unasked) >= MOST_REMEMBERED:
            self._unasked.clear()
            self._forget_at = now + MINUTE
        counted = {sender: number for sender, number in senders.items() if sender[0] in self._items}
        asking = [sender for sender, number in counted.items() if self._must_ask(sender, number)]
        if not asking or now < self._failed_at + SECONDS_BETWEEN_TRIES:
            return
        try:
            async with asyncio.timeout(SECONDS_FOR_VALKEY):
                await self._ask_all(asking, counted)
        except (RedisError, OSError):
            self._failed_at = time.monotonic()
        except RateLimitedError:
            for sender in counted.keys() - {*asking}:
                self._unasked[sender] -= counted[sender]
            raise

    def _must_ask(self, sender: tuple[str, str], number: int) -> bool:
        if self._unasked[sender] + number > self._items[sender[0]].amount // UNASKED_PART:
            return True
        self._unasked[sender] += number
        return False

    async def _ask_all(self, asking: Sequence[tuple[str, str]], numbers: Mapping[tuple[str, str], int]) -> None:
        """Whoever was asked before one who sent too many gets back what they spent."""
        for index, sender in enumerate(asking):
            try:
                await self._ask(sender, numbers[sender])
            except RateLimitedError:
                for kind, name in asking[:index]:
                    await self._limiter.hit(self._items[kind], name, cost=-numbers[kind, name])
                raise

    async def _ask(self, sender: tuple[str, str], number: int) -> None:
        kind, name = sender
        item = self._items[kind]
        before = self._unasked.pop(sender, 0)
        if not await self._limiter.hit(item, name, cost=before + number):
            self._unasked[sender] += before
            RATE_LIMITED.labels(kind).inc()
            window = await self._storage.get_sliding_window(item.key_for(name), MINUTE)
            wait = max(1, math.ceil(1000 * seconds_until(item.amount - before - number, *window)))
            raise RateLimitedError(f"more than {item.amount} events a minute from one {kind}: send them later", wait)


def seconds_until(most: int, previous: int, previous_ends_in: float, current: int, current_ends_in: float) -> float:
    """How long until no more than `most` are counted, if nobody sends meanwhile.

    Of the previous minute so much counts as of it still lies within the last 60 s; the current one becomes the
    previous when it has 60 s left. More than a limit at once is never taken: then it is a minute.
    """
    if most < 0:
        return MINUTE
    if current <= most:
        return max(0.0, previous_ends_in - MINUTE * (most - current) / previous) if previous else 0.0
    return current_ends_in - MINUTE * most / current
