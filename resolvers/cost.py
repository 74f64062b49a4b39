"""What questions cost together: each viewer has a leaky bucket in Valkey, for all processes one."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from models.viewer import Viewer
from resolvers.errors import RateLimitedError, TooComplexError
from resolvers.metrics import RATE_LIMITED
from resolvers.rate_limit import SECONDS_BETWEEN_TRIES, SECONDS_FOR_VALKEY

# What is kept is when the bucket will be full again, in milliseconds by Valkey's clock, for as long as it is not.
_TAKE = """
local cost, maximum, restored = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] / 1000
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local full_in = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or 0) - now)
local available = maximum - full_in * restored
if cost > available then
    return {0, math.floor(available), math.ceil((cost - available) / restored)}
end
full_in = full_in + cost / restored
redis.call('SET', KEYS[1], string.format('%.3f', now + full_in), 'PX', math.ceil(full_in))
return {1, math.floor(available - cost), 0}
"""

Extensions = dict[str, Any]


@dataclass(frozen=True)
class CostLimits:
    """The most that one question may cost; and what a viewer may spend at once, and how much of it comes back each
    second: with 0 no bucket is kept."""

    question: int
    maximum: int
    restore_rate: int


class Costs:
    """Takes from buckets. While Valkey is away nothing is taken, and everybody may ask."""

    def __init__(self, queue: ArqRedis, limits: CostLimits) -> None:
        self._limits = limits
        self._take = queue.register_script(_TAKE)
        self._failed_at = float("-inf")

    async def spend(self, viewer: Viewer, address: str | None, cost: int) -> Extensions:
        """Take what a question costs from the bucket of the user, or of the address's network without a token.

        Returns what the answer says of it, by the names that Shopify's API has made known. Raises TooComplexError
        where it is more than any question may cost, and RateLimitedError where so much is not in the bucket now.
        """
        told: Extensions = {"requestedQueryCost": cost, "maximumQueryCost": self._limits.question}
        if cost > self._limits.question:
            raise TooComplexError(
                f"the question costs {cost}, and may cost {self._limits.question}: ask for shorter pages", cost=told
            )
        available = await self._available(f"user:{viewer.user_id}" if viewer.user_id else f"address:{address}", cost)
        if available is not None:
            told["throttleStatus"] = {
                "maximumAvailable": self._limits.maximum,
                "currentlyAvailable": available,
                "restoreRate": self._limits.restore_rate,
            }
        return told

    async def _available(self, who: str, cost: int) -> int | None:
        """What is left in the bucket; None where nobody can tell."""
        if not self._limits.restore_rate or time.monotonic() < self._failed_at + SECONDS_BETWEEN_TRIES:
            return None
        asked = [cost, self._limits.maximum, self._limits.restore_rate]
        try:
            async with asyncio.timeout(SECONDS_FOR_VALKEY):
                is_taken, available, wait = await self._take(keys=[f"questlog:cost:{who}"], args=asked)
        except (RedisError, OSError):
            self._failed_at = time.monotonic()
            return None
        if not is_taken:
            RATE_LIMITED.labels("cost").inc()
            raise RateLimitedError(
                f"the question costs {cost}, and {available} are left of {self._limits.maximum}: ask later", wait
            )
        return int(available)
