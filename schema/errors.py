"""Errors as clients get them: each with a code, and nothing told of what went wrong inside."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from graphql import GraphQLError, GraphQLSyntaxError

from resolvers.errors import RequestError
from schema.coercion import LiteralError, Path, place_of

logger = logging.getLogger(__name__)

Error = dict[str, Any]


def formatted(error: GraphQLError) -> Error:
    """The error as it is sent. One of ours keeps its message and code, and so does what GraphQL itself finds wrong with
    a request; any other is logged and masked, with the id under which it stands in the log."""
    cause = error.original_error
    if isinstance(cause, RequestError):
        return {**error.formatted, "extensions": cause.extensions}
    if cause is None or isinstance(cause, GraphQLError):
        if place := place_of(error):
            code = "GRAPHQL_VALIDATION_FAILED" if isinstance(error, LiteralError) else "BAD_USER_INPUT"
            return {**error.formatted, "path": _path(error, place), "extensions": {"code": code}}
        if not error.path:
            code = "GRAPHQL_PARSE_FAILED" if isinstance(error, GraphQLSyntaxError) else "GRAPHQL_VALIDATION_FAILED"
            return {**error.formatted, "extensions": {"code": code}}
    return {**error.formatted, **masked(cause or error)}


def of_request(error: RequestError) -> Error:
    """One of ours as it is sent where no document has been read."""
    return {"message": str(error), "extensions": error.extensions}


def _path(error: GraphQLError, place: Path) -> Path:
    """The field that has no answer for it, where there is one, and the way into its argument."""
    if error.path is None:
        return place
    return [*error.path, *(place if len(place) > 1 else ())]


def all_formatted(errors: Sequence[GraphQLError]) -> list[Error]:
    """All of a request's errors."""
    return [formatted(error) for error in errors]


def masked(error: BaseException) -> Error:
    """What a client gets to see of an error that nobody foresaw: the id under which the log has it."""
    error_id = str(uuid4())
    logger.error("something went wrong", exc_info=error, extra={"errorId": error_id})
    return {
        "message": "something went wrong here: the log has it under errorId",
        "extensions": {"code": "INTERNAL_SERVER_ERROR", "errorId": error_id},
    }
