"""Why a request as a whole gets no answer: the codes that clients find in an error's extensions."""

from typing import ClassVar


class RequestError(Exception):
    """An error whose message may be shown to whoever asked."""

    code: ClassVar[str]

    @property
    def extensions(self) -> dict[str, object]:
        """What stands beside the message."""
        return {"code": self.code}


class UnauthenticatedError(RequestError):
    """Nobody knows who asks, or their token is wrong."""

    code = "UNAUTHENTICATED"


class ForbiddenError(RequestError):
    """Whoever asks may not ask this at all."""

    code = "FORBIDDEN"


class NotFoundError(RequestError):
    """There is none, or none that whoever asks may see: nothing tells the two apart."""

    code = "NOT_FOUND"


class BadUserInputError(RequestError):
    """An argument is out of its range; the message names it and the range."""

    code = "BAD_USER_INPUT"


class TooComplexError(RequestError):
    """The request asks for too much at once; the message names the limit."""

    code = "QUERY_TOO_COMPLEX"

    def __init__(self, message: str, **told: object) -> None:
        super().__init__(message)
        self._told = told

    @property
    def extensions(self) -> dict[str, object]:
        """With what else is told of it."""
        return {"code": self.code, **self._told}


class UnavailableError(RequestError):
    """A server that is needed is away. Nothing was kept; the same may be sent again."""

    code = "UNAVAILABLE"
    retry_after_ms = 1000

    @property
    def extensions(self) -> dict[str, object]:
        """With the time after which to try again, in milliseconds."""
        return {"code": self.code, "retryAfterMs": self.retry_after_ms}


class RateLimitedError(RequestError):
    """Somebody sent too much. Nothing was kept; the same may be sent again after some milliseconds."""

    code = "RATE_LIMITED"

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms

    @property
    def extensions(self) -> dict[str, object]:
        """With the time after which to try again, in milliseconds."""
        return {"code": self.code, "retryAfterMs": self.retry_after_ms}
