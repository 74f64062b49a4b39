"""How much a request may send, and for how long: what is more is refused before anything is done with it."""

import asyncio

from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from questlog.parameters import MalformedError
from resolvers.errors import UnavailableError

MOST_BYTES = 2**20
MOST_DISCARDED = 2**24
SECONDS_TO_SEND = 30
AND_NO_MORE = {"connection": "close"}


class SlowError(UnavailableError):
    """The body took too long to come."""

    status = 408
    headers = AND_NO_MORE


async def body_of(http: HttpRequest) -> bytes:
    """The body of a POST, and nothing of any other. Raises MalformedError where it has more than 1 MiB, whatever its
    Content-Length says, and SlowError where it takes longer than half a minute to come."""
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            return await _body(http)
    except TimeoutError:
        raise SlowError(f"the body took more than {SECONDS_TO_SEND} s to come: send it again") from None


async def _body(http: HttpRequest) -> bytes:
    length = http.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BYTES:
        if "expect" not in http.headers:  # else nothing comes before it is asked for
            await _discard(http.receive, 0)
        raise _too_long()
    return await _read(http.receive) if http.method == "POST" else b""


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            if message.get("more_body"):
                await _discard(receive, size)
            raise _too_long()
        if not message.get("more_body"):
            return b"".join(parts)


def _too_long() -> MalformedError:
    return MalformedError(f"the body has more than {MOST_BYTES} bytes: send less", 413, AND_NO_MORE)


async def _discard(receive: Receive, size: int) -> None:
    """Read on without keeping it, up to 16 MiB: whoever is still sending when the connection ends hears no answer."""
    while size <= MOST_DISCARDED:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return
