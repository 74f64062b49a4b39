"""What every request has: an id, which its answer, its errors and its lines in the log carry, and one line there."""

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any

import orjson
from prometheus_client import Histogram
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from questlog.log import REQUEST_ID
from questlog.media_type import JSON, accepted, preferred
from resolvers.request import Request
from schema.errors import Error, masked

logger = logging.getLogger(__name__)

REQUEST_SECONDS = Histogram(
    "questlog_request_seconds",
    "Requests, and how long each took, by path, status and role.",
    ["path", "status", "role"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)

HEADER = b"x-request-id"
END = (b"connection", b"close")
PROBES = ("/healthz", "/readyz")
PATHS = ("/graphql", *PROBES)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Nothing that could be an e-mail or IP address.
WELL_FORMED = re.compile(rb"[0-9A-Za-z_-]{16,64}")


class Access:
    """Outermost of all, so that nothing is answered without an id and a line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        request_id = _sent_id(scope) or secrets.token_hex(16)
        REQUEST_ID.set(request_id)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
                if _leaves_body(scope) and END not in message["headers"]:
                    message["headers"].append(END)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            _note(scope, status, perf_counter() - began)


class Masking:
    """What comes out of the app as an exception is answered here, masked; inside of CORS, whose headers let a page of
    another host read the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_answering = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_answering
            is_answering = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:  # noqa: BLE001 - whoever raises it, it is masked
            errors = [masked(error)]
            if not is_answering:
                await refusal(scope, 500, errors)(scope, receive, send)


def identified(scope: Scope, errors: Sequence[Error]) -> Sequence[Error]:
    """The request's errors with its id in each; their codes go into its line."""
    for error in errors:
        error["extensions"]["requestId"] = REQUEST_ID.get()
    scope["questlog.codes"] = sorted({error["extensions"]["code"] for error in errors})
    return errors


def refusal(scope: Scope, status: int, errors: Sequence[Error], headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that gets no other."""
    return answer(scope, {"errors": identified(scope, errors)}, status, headers)


def answer(scope: Scope, body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    """The body in JSON, as the media type that the client prefers."""
    media_type = preferred(accepted(Headers(scope=scope))) or JSON
    return Response(orjson.dumps(body), status, headers, f"{media_type}; charset=utf-8")


def _leaves_body(scope: Scope) -> bool:
    """Whether there is a body that nobody reads: whoever sends it might never come to its end."""
    if scope["path"] == "/graphql" and scope["method"] == "POST":
        return False
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _sent_id(scope: Scope) -> str | None:
    sent = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return sent.decode() if WELL_FORMED.fullmatch(sent) else None


def _note(scope: Scope, status: int, seconds: float) -> None:
    """Count the request and write its line, but for a probe that found everything well. Path and method are the
    client's text, and are named where they are ours."""
    path = scope["path"] if scope["path"] in PATHS else "other"
    request: Request | None = scope.get("questlog.request")
    role = request.viewer.role.value if request else ""
    REQUEST_SECONDS.labels(path, str(status), role).observe(seconds)
    if path in PROBES and status == HTTPStatus.OK:
        return
    line: dict[str, Any] = {
        "method": scope["method"] if scope["method"] in METHODS else "other",
        "path": path,
        "status": status,
        "ms": round(1000 * seconds, 2),
    }
    if request:
        line |= {"role": role, "accepted": request.accepted, "refused": request.refused}
    if codes := scope.get("questlog.codes"):
        line["errors"] = codes
    logger.info("request", extra=line)
