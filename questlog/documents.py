"""Trusted documents: those of a manifest, which a build of the clients has written."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import orjson

from questlog.settings import Settings, SettingsError
from schema.document import Document, Documents, RefusedError
from schema.limits import Limits
from schema.root import SCHEMA

SHA_256 = "sha256:"


def documents_of(settings: Settings) -> Documents:
    """Documents within the limits of the settings."""
    limits = Limits(
        tokens=settings.document_tokens,
        depth=settings.document_depth,
        aliases=settings.document_aliases,
        directives=settings.document_directives,
        root_fields=settings.document_root_fields,
    )
    return Documents(SCHEMA, limits)


def trusted_documents(settings: Settings) -> Mapping[str, Document]:
    """The manifest's documents, each by its id there and by the SHA-256 of its text.

    Raises SettingsError, which names the entry, where the manifest cannot be used as it is.
    """
    if settings.documents is None:
        return {}
    try:
        return _read(settings.documents, documents_of(settings), is_open=settings.environment == "development")
    except OSError as error:
        raise SettingsError(f"QUESTLOG_DOCUMENTS: {settings.documents} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise SettingsError(f"QUESTLOG_DOCUMENTS: {settings.documents} {error}") from None


def _read(manifest: Path, documents: Documents, *, is_open: bool) -> dict[str, Document]:
    by_id: dict[str, Document] = {}
    by_text: dict[str, Document] = {}
    for document_id, text in _entries(manifest):
        text_id = SHA_256 + sha256(text.encode()).hexdigest()
        if document_id.startswith(SHA_256) and document_id != text_id:
            raise ValueError(f"has under {document_id} a text whose hash is {text_id}")
        if document_id in by_id:
            raise ValueError(f"has {document_id} twice")
        try:
            by_id[document_id] = by_text[text_id] = documents.read(text, is_open=is_open)
        except RefusedError as error:
            raise ValueError(f"has under {document_id} no valid document: {error.errors[0].message}") from None
    return by_text | by_id


def _entries(manifest: Path) -> Iterator[tuple[str, str]]:
    try:
        content = orjson.loads(manifest.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None
    match content:
        case {"format": "apollo-persisted-query-manifest", "version": 1, "operations": list(operations)}:
            entries = list(operations)
        case dict() if "format" not in content:
            entries = [{"id": document_id, "body": text} for document_id, text in content.items()]
        case _:
            raise ValueError("is no manifest: neither an object of texts by their ids, nor Apollo's format, version 1")
    for place, entry in enumerate(entries):
        match entry:
            case {"id": str(document_id), "body": str(text)}:
                yield document_id, text
            case {"id": str(document_id)}:
                raise ValueError(f"has under {document_id} no text")
            case _:
                raise ValueError(f"has an operation, number {place}, without an id")
