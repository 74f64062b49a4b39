"""Errors as clients get them: each with a code, and nothing told of what went wrong inside."""

import logging
import re
from collections.abc import Sequence
from traceback import format_tb
from typing import Any
from uuid import uuid4

from graphql import GraphQLError, GraphQLSyntaxError

from resolvers.errors import RequestError

logger = logging.getLogger(__name__)

# What graphql-core says where it could not coerce a variable: the path stands in the message alone.
_COERCION = re.compile(r"Variable '\$(?P<name>\w+)' has invalid value(?: at (?P<path>[\w.\[\]]+))?:")


def formatted(error: GraphQLError) -> dict[str, Any]:
    """The error as it is sent. One of ours keeps its message and code; any other is logged and masked, with the id
    under which it stands in the log."""
    cause = error.original_error
    if isinstance(cause, RequestError):
        return {**error.formatted, "extensions": cause.extensions}
    if error.path and error.message.startswith("Argument "):
        return {**error.formatted, "extensions": {"code": "BAD_USER_INPUT"}}
    if error.path or (cause is not None and not isinstance(cause, GraphQLError)):
        cause = cause or error
        error_id = str(uuid4())
        # Without its text, which may hold what people did.
        logger.error("error %s: %s\n%s", error_id, type(cause).__name__, "".join(format_tb(cause.__traceback__)))
        return {
            **error.formatted,
            "message": "something went wrong here: the log has it under errorId",
            "extensions": {"code": "INTERNAL_SERVER_ERROR", "errorId": error_id},
        }
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


def all_formatted(errors: Sequence[GraphQLError]) -> list[object]:
    """All of a request's errors."""
    return [formatted(error) for error in errors]
