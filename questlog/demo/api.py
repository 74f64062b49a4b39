"""Questlog's GraphQL API as a client sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeAlias

import httpx

Json: TypeAlias = dict[str, Any]

PATIENCE_SECONDS = 60
PAUSE_SECONDS = 0.5


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Api:
    """The API at one address, asked by one token's bearer."""

    http: httpx.AsyncClient
    url: str

    async def data(self, query: str, **variables: object) -> Json:
        """The data of an answer without errors; raises DemoError for any other."""
        answer = await self.answer(query, **variables)
        if "errors" in answer:
            raise DemoError(f"{self.url} answered: {answer['errors'][0]['message']}")
        data: Json = answer["data"]
        return data

    async def answer(self, query: str, **variables: object) -> Json:
        """The whole answer. Asks again while the server is away or has been asked too much, for a minute at most;
        then raises DemoError."""
        give_up_at = monotonic() + PATIENCE_SECONDS
        while True:
            try:
                response = await self.http.post(self.url, json={"query": query, "variables": variables})
                answer: Json = response.json()
            except (httpx.TransportError, ValueError) as error:
                reason = str(error) or type(error).__name__
            else:
                if not is_to_be_sent_again(answer):
                    return answer
                reason = answer["errors"][0]["message"]
            if monotonic() > give_up_at:
                raise DemoError(f"{self.url} has not answered for {PATIENCE_SECONDS} s: {reason}")
            await asyncio.sleep(PAUSE_SECONDS)


def is_to_be_sent_again(answer: Json) -> bool:
    """Whether nothing was kept, and the same will be answered later."""
    codes = [error.get("extensions", {}).get("code") for error in answer.get("errors", ())]
    return "UNAVAILABLE" in codes or "RATE_LIMITED" in codes


@asynccontextmanager
async def connect(url: str, token: str) -> AsyncIterator[Api]:
    """The API, over connections that stay open until the end."""
    headers = {"Authorization": f"Bearer {token}"}
    # A proxy named in the environment is for the world outside, not for a server on this machine.
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        yield Api(http, url)
