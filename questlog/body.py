"""How much a request may send, and for how long: what is more is refused before anything is done with it."""

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from questlog.access import refusal
from resolvers.errors import BadUserInputError, RequestError, UnavailableError
from schema.errors import of_request

MOST_BYTES = 2**20
MOST_DISCARDED = 2**24
SECONDS_TO_SEND = 30


class BodyLimit:
    """Answers 413 to a body of more than 1 MiB, whatever its Content-Length says, and 408 to one that takes longer than
    half a minute to come; all others go on in one piece."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(SECONDS_TO_SEND):
                body = await _body(scope, receive)
        except TimeoutError:
            slow = UnavailableError(f"the body took more than {SECONDS_TO_SEND} s to come: send it again")
            await _refuse(408, slow, scope, receive, send)
            return
        if body is None:
            long = BadUserInputError(f"the body has more than {MOST_BYTES} bytes: send less")
            await _refuse(413, long, scope, receive, send)
            return
        messages: AsyncIterator[Message] = _once_then(
            {"type": "http.request", "body": body, "more_body": False}, receive
        )
        await self._app(scope, messages.__anext__, send)


async def _refuse(status: int, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    await refusal(scope, status, [of_request(error)], {"connection": "close"})(scope, receive, send)


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BYTES:
        await _discard(receive, 0)
        return None
    return await _read(receive) if scope["method"] == "POST" else b""


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None where it is too long."""
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
            return None
        if not message.get("more_body"):
            return b"".join(parts)


async def _discard(receive: Receive, size: int) -> None:
    """Read on without keeping it, up to 16 MiB: whoever is still sending when the connection ends hears no answer."""
    while size <= MOST_DISCARDED:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _once_then(first: Message, receive: Receive) -> AsyncIterator[Message]:
    yield first
    while True:
        yield await receive()
