"""Documents are parsed and validated once, and kept within bounds."""

import gc
import tracemalloc
from dataclasses import replace

import pytest
from graphql import get_introspection_query

from schema.document import MOST_BYTES, MOST_DOCUMENTS, Documents, Kept, RefusedError, bytes_of
from schema.limits import Limits
from schema.root import SCHEMA

LIMITS = Limits(tokens=5000, depth=20, aliases=200, directives=10, root_fields=200)
ROLE = "{ viewer { role } }"
TEXTS = {
    "small": ROLE,
    "mutation": "mutation ($e: TrackEventInput!) { trackEvent(input: $e) { accepted rejected userErrors { code } } }",
    "aliases": f"{{ {' '.join(f'a{number}: viewer {{ role }}' for number in range(200))} }}",
    "fields": f"{{ viewer {{ {'role ' * 70} }} }}",
    "values": f"{{ nodes(ids: [{'7,' * 900}]) {{ id }} }}",
    "a comment": "# " * 40_000 + "\n" + ROLE,
    "comments": "#\n" * 1000 + ROLE,
    "introspection": get_introspection_query(),
}


@pytest.fixture
def documents() -> Documents:
    return Documents(SCHEMA, LIMITS)


def refused(documents: Documents, text: str) -> RefusedError:
    with pytest.raises(RefusedError) as error:
        documents.get(text, is_open=True)
    return error.value


def test_a_text_is_read_once(documents: Documents) -> None:
    assert documents.get(ROLE, is_open=True) is documents.get(ROLE, is_open=True)
    assert documents.get(ROLE, is_open=True) is not documents.get(f"{ROLE} ", is_open=True)


@pytest.mark.parametrize(
    "text", ["{", "{ nothing }", "", "{ viewer {} }", "type A { b: Int }", "\0", "{ viewer { role } } x"]
)
def test_what_is_refused_once_is_refused_again_without_being_read(documents: Documents, text: str) -> None:
    first, second = refused(documents, text), refused(documents, text)
    assert first.errors
    assert second.errors is first.errors


def test_more_tokens_than_are_allowed_are_refused() -> None:
    documents = Documents(SCHEMA, replace(LIMITS, tokens=6))
    documents.get(ROLE, is_open=True)
    assert refused(documents, "{ viewer { role role } }").errors


def test_however_much_is_refused_what_is_valid_stays(documents: Documents) -> None:
    kept = documents.get(ROLE, is_open=True)
    for number in range(2 * MOST_DOCUMENTS):
        refused(documents, f"{{ nothing{number} }}")
    assert documents.get(ROLE, is_open=True) is kept


def test_no_more_documents_are_kept_than_so_many(documents: Documents) -> None:
    first, last = documents.get("{ a: viewer { role } }", is_open=True), documents.get(ROLE, is_open=True)
    for number in range(MOST_DOCUMENTS):
        documents.get(f"{{ a{number}: viewer {{ role }} }}", is_open=number % 2 == 0)
        assert documents.get(ROLE, is_open=True) is last
    assert documents.get("{ a: viewer { role } }", is_open=True) is not first


def test_what_admins_are_told_nobody_else_is(documents: Documents) -> None:
    looking = "{ __schema { queryType { name } } }"
    for _ in range(2):
        assert not documents.get(looking, is_open=True).hide_suggestions
        with pytest.raises(RefusedError):
            documents.get(looking, is_open=False)


def test_no_more_is_kept_than_so_many_bytes() -> None:
    kept: Kept[str] = Kept(MOST_BYTES)
    kept.keep("big", "kept", MOST_BYTES // 2)
    assert kept.get("big") == "kept"
    kept.keep("as big", "kept too", MOST_BYTES // 2 + 1)
    assert (kept.get("big"), kept.get("as big")) == (None, "kept too")
    kept.keep("too big", "not kept", MOST_BYTES + 1)
    assert (kept.get("too big"), kept.get("as big")) == (None, "kept too")


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_a_document_takes_no_more_memory_than_is_reckoned(documents: Documents, text: str) -> None:
    first = documents.read(text, is_open=True)
    gc.collect()
    tracemalloc.start()
    try:
        second = documents.read(text, is_open=True)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert first is not second
    assert taken <= max(MOST_BYTES // MOST_DOCUMENTS, bytes_of(text, second.parsed.token_count))
