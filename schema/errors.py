"""Errors as clients get them: each with a code, and nothing told of what went wrong inside."""

import logging
import re
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from graphql import GraphQLError, GraphQLSyntaxError

from resolvers.errors import RequestError

logger = logging.getLogger(__name__)

Error = dict[str, Any]

# What graphql-core says where it could not coerce a variable: the path stands in the message alone.
_COERCION = re.compile(r"Variable '\$(?P<name>\w+)' has invalid value(?: at (?P<path>[\w.\[\]]+))?:")


def formatted(error: GraphQLError) -> Error:
    """The error as it is sent. One of ours keeps its message and code; any other is logged and masked, with the id
    under which it stands in the log."""
    cause = error.original_error
    if isinstance(cause, RequestError):
        return {**error.formatted, "extensions": cause.extensions}
    if error.path and error.message.startswith("Argument "):
        return {**error.formatted, "extensions": {"code": "BAD_USER_INPUT"}}
    if error.path or (cause is not None and not isinstance(cause, GraphQLError)):
        return {**error.formatted, **masked(cause or error)}
    if isinstance(error, GraphQLSyntaxError):
        return {**error.formatted, "extensions": {"code": "GRAPHQL_PARSE_FAILED"}}
    if coercion := _COERCION.match(error.message):
        path = [coercion["name"], *re.findall(r"\w+", coercion["path"] or "")]
        return {
            **error.formatted,
            "path": [int(part) if part.isdecimal() else part for part in path],
            "extensions": {"code": "BAD_USER_INPUT"},
        }
    return {**error.formatted, "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}}


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
