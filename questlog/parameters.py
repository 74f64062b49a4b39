"""Parameters: what a request asks for, as GraphQL over HTTP has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request as HttpRequest

from questlog.media_type import JSON, UTF_8, essence
from resolvers.errors import BadUserInputError

STRINGS = ("query", "documentId", "operationName")
OBJECTS = ("variables", "extensions")
NAMES = {str: "a string", dict: "an object", list: "an array", bool: "a boolean", int: "a number", float: "a number"}


class MalformedError(BadUserInputError):
    """What was sent is no request in GraphQL; the message names what is wrong with it."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@dataclass(frozen=True)
class Parameters:
    """Either a query or a document's id, and what goes with it."""

    query: str | None
    document_id: str | None
    operation_name: str | None
    variables: dict[str, Any] | None


def parameters(http: HttpRequest, body: bytes) -> Parameters:
    """What a POST asks for in its body, and a GET in its URL; raises MalformedError."""
    if http.method == "GET":
        return _checked(_of_url(http.scope["query_string"].decode("latin-1")))
    content_type, of_type = essence(http.headers.get("content-type", ""))
    if content_type != JSON or of_type.get("charset", "utf-8") not in UTF_8:
        raise MalformedError(f"Content-Type must be {JSON}, in UTF-8", 415)
    if http.headers.get("content-encoding", "identity").lower() != "identity":
        raise MalformedError("Content-Encoding must be identity: bodies are not unpacked", 415)
    return _checked(_of_body(body))


def _of_body(body: bytes) -> dict[str, Any]:
    """The last of a name that is there twice; no byte order mark, NaN, or half of a surrogate pair."""
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is no JSON: {error}") from None
    if isinstance(sent, list):
        raise MalformedError("the body must be an object, and is an array: send the requests of a batch one by one")
    if not isinstance(sent, dict):
        raise MalformedError("the body must be an object")
    return sent


def _of_url(text: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise MalformedError("the URL's query is not in UTF-8") from None
    sent: dict[str, Any] = {}
    for name, value in pairs:
        if name in sent:
            raise MalformedError(f"{name} is in the URL twice")
        sent[name] = value or None
    for name in OBJECTS:
        if sent.get(name):
            try:
                sent[name] = orjson.loads(sent[name])
            except orjson.JSONDecodeError as error:
                raise MalformedError(f"{name} is no JSON: {error}") from None
    return sent


def _checked(sent: dict[str, Any]) -> Parameters:
    for names, kind in ((STRINGS, str), (OBJECTS, dict)):
        for name in names:
            value = sent.get(name)
            if value is not None and not isinstance(value, kind):
                raise MalformedError(f"{name} must be {NAMES[kind]}, and is {NAMES[type(value)]}")
    query, document_id = sent.get("query"), sent.get("documentId")
    if query is None and document_id is None:
        document_id = _persisted(sent.get("extensions") or {})
    if query is None and document_id is None:
        raise MalformedError("query or documentId is needed")
    if query is not None and document_id is not None:
        raise MalformedError("query and documentId exclude each other: send one of them")
    return Parameters(query, document_id, sent.get("operationName") or None, sent.get("variables"))


def _persisted(extensions: dict[str, Any]) -> str | None:
    """The document's id as Apollo's clients send it."""
    match extensions:
        case {"persistedQuery": {"sha256Hash": str(document_id)}}:
            return document_id
    return None
