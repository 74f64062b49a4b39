"""The cookie by which a browser's events belong together before anybody signs in. It authorises nothing."""

from datetime import timedelta
from uuid import UUID

from starlette.datastructures import MutableHeaders
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Message

COOKIE = "questlog_device"
KEPT_FOR = timedelta(days=30)


def device_of(http: HttpRequest) -> UUID | None:
    """The device that the request's cookie names; None where there is no such cookie, or it holds no UUID."""
    try:
        return UUID(http.cookies[COOKIE])
    except (KeyError, ValueError):
        return None


def remember_device(start: Message, device_id: UUID, *, secure: bool) -> None:
    """Add the cookie to the start of an answer: for 30 days from now, out of scripts' reach, and with `secure` sent
    back through https alone."""
    cookie = Response()
    cookie.set_cookie(
        COOKIE, str(device_id), max_age=int(KEPT_FOR.total_seconds()), httponly=True, samesite="lax", secure=secure
    )
    MutableHeaders(scope=start).append("set-cookie", cookie.headers["set-cookie"])
