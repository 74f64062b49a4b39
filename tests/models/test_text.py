"""What text is kept, and what is taken out of it before."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import LONGEST_PATH, is_storable, mask_emails, page_path


@pytest.mark.parametrize(
    ("text", "storable"),
    [
        ("", True),
        ("plain", True),
        ("emoji 🎉 and ümläut", True),
        ("\x01\x7f\ufffe\uffff\U0010ffff", True),
        ("\x00", False),
        ("in the \x00 middle", False),
        ("\ud800", False),
        ("\udfff end", False),
        ("two halves \ud83c\udf89 are no pair here", False),
        ("\ud7ff\ue000", True),
    ],
)
def test_only_what_postgresql_can_hold_is_storable(text: str, storable: bool) -> None:
    assert is_storable(text) is storable


@pytest.mark.parametrize(
    ("value", "storable"),
    [
        (None, True),
        ({"a": [1, 2.5, True, None, {"b": "c"}]}, True),
        ([2**53, -(2**53)], True),
        ([2**53 + 1], False),
        ({"a": -1e17}, False),
        ([float("inf")], False),
        ([float("nan")], False),
        ({"a": ["\x00"]}, False),
        ({"\x00": 1}, False),
        ({"a": {"b": {"\ud800": 1}}}, False),
    ],
)
def test_json_is_storable_where_all_in_it_is(value: object, storable: bool) -> None:
    assert is_storable(value) is storable


@pytest.mark.parametrize(("levels", "storable"), [(100, True), (101, False), (900, False)])
def test_json_is_storable_to_a_hundred_levels(levels: int, storable: bool) -> None:
    lists: object = "x"
    dicts: object = "x"
    for _ in range(levels):
        lists, dicts = [lists], {"a": dicts}
    assert is_storable(lists) is is_storable(dicts) is storable


@given(st.text())
def test_storable_text_is_utf_8_without_nul(text: str) -> None:
    assert is_storable(text) is ("\x00" not in text)
    text.encode()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("nothing here", "nothing here"),
        ("pat@example.com", "[email]"),
        ("mail pat@example.com, or sam.o+x@mail.example.co.uk!", "mail [email], or [email]!"),
        ("<pat@example.com>", "<[email]>"),
        ("/reset/pat%40example.com/now", "/reset/[email]/now"),
        ("mailto:pat@example.com?subject=x", "mailto:[email]?subject=x"),
        ("pät@schöne.example", "[email]"),
        ("@someone", "@someone"),
        ("at 5 @ home", "at 5 @ home"),
        ("pat@localhost", "pat@localhost"),
        ("100%40", "100%40"),
        ("a@b.de\nc@d.de", "[email]\n[email]"),
        ("pat@example.com.", "[email]."),
        ("of 'pat@example.com'", "of [email]'"),
        ("o'neill@example.com", "[email]"),
        ("pat%2Bx%40mail%2eexample", "[email]"),
        ("/then?to=pat%2540example.com", "/then?to=[email]"),
        ("pat@example.com+sam@example.com", "[email]"),
        ("pat%40example.com%2Csam%40example.com", "[email]"),
        ("80%40 of 100%", "80%40 of 100%"),
    ],
)
def test_email_addresses_are_masked(text: str, masked: str) -> None:
    assert mask_emails(text) == masked


@given(
    st.text(max_size=40),
    st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,20}@[a-z0-9-]{1,20}(\.[a-z]{2,5}){1,3}", fullmatch=True),
    st.text(max_size=40),
)
def test_no_address_stays_whatever_stands_around_it(before: str, address: str, after: str) -> None:
    masked = mask_emails(before + address + after)
    assert "[email]" in masked
    assert address not in masked


@given(st.text(max_size=200))
def test_masking_again_changes_nothing(text: str) -> None:
    once = mask_emails(text)
    assert mask_emails(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000 + "@",
        "a." * 100_000,
        "@" * 200_000,
        "a@" * 100_000,
        "a@b." * 50_000,
        "%40" * 70_000,
        "'a" * 100_000,
    ],
)
def test_masking_takes_no_longer_than_the_text(text: str) -> None:
    started = time.process_time()
    mask_emails(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("/quests/7", "/quests/7"),
        ("/quests/7/", "/quests/7"),
        ("/quests/7///", "/quests/7"),
        ("/", "/"),
        ("", "/"),
        ("?x=1", "/"),
        ("/quests?token=secret#top", "/quests"),
        ("/quests#a?b", "/quests"),
        ("/quests/?x", "/quests"),
        ("/users/pat@example.com/edit", "/users/[email]/edit"),
        ("/users/pat%40example.com", "/users/[email]"),
        ("/Ä/ö", "/Ä/ö"),
        ("/" + "x" * 600, "/" + "x" * 511),
        ("/" + "x" * 510 + "/y", "/" + "x" * 510),
    ],
)
def test_a_path_is_kept_without_what_is_private(sent: str, kept: str) -> None:
    assert page_path(sent) == kept


@given(st.text(max_size=1000))
def test_every_path_is_kept_within_bounds(sent: str) -> None:
    kept = page_path(sent)
    assert 1 <= len(kept) <= LONGEST_PATH
    assert not re.search("[?#]", kept)
    assert kept == "/" or not kept.endswith("/")
    assert page_path(kept) == kept
