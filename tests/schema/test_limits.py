"""A document may have so much of each and no more, with every fragment counted where it is spread."""

import pytest
from graphql import GraphQLError

from resolvers.errors import TooComplexError
from schema.limits import MOST_VALUES, Limits, check, check_variables, parse

LIMITS = Limits(tokens=60, depth=3, aliases=4, directives=4, root_fields=5)
IN_FRAGMENTS = "{ viewer { ...a user { ...a } } } fragment a on Viewer { HERE }"


def why(text: str) -> str | None:
    """Why the document is refused before it is validated."""
    try:
        errors = check(parse(text, LIMITS), LIMITS)
    except GraphQLError as error:
        errors = [error]
    return errors[0].message if errors else None


@pytest.mark.parametrize(
    ("most", "one_more", "what"),
    [
        ("{ " + "a " * 5 + "}", "{ a b c d e f }", "5 fields at the root"),
        ("{ a { b { c } } }", "{ a { b { c { d } } } }", "3 levels"),
        ("{ a { ...f } } fragment f on A { b { c } }", "{ a { b { ...f } } } fragment f on A { c { d } }", "3 levels"),
        ("{ a { ... { ... { b { c } } } } }", "{ a { ... { b { ... { c { d } } } } } }", "3 levels"),
        ("{ a: x b: x c: x d: x }", "{ a: x b: x c: x d: x e: x }", "4 aliases"),
        (IN_FRAGMENTS.replace("HERE", "a: b c: d"), IN_FRAGMENTS.replace("HERE", "a: b c: d e: f"), "4 aliases"),
        (
            "query ($x: Int @a) @b { c @d ... @e { f } }",
            "query ($x: Int @a) @b { c @d ... @e { f @g } }",
            "4 directives",
        ),
        (
            "{ ...a ...a } fragment a on Query @a { b @c d @e }",
            "{ ...a @f ...a @g } fragment a on Q @a { b @c d @e }",
            "4 directives",
        ),
        ("{ a(b: " + "9" * 400 + ") }", "{ a(b: " + "9" * 401 + ") }", "400 digits in one number"),
        ("{ " + "a { b } " * 14 + "}", "{ " + "a { b } " * 15 + "}", "60 tokens"),
    ],
)
def test_a_limit_is_named(most: str, one_more: str, what: str) -> None:
    assert why(most) is None
    assert what in (why(one_more) or "")


def test_comments_count_as_well_and_so_does_the_length() -> None:
    assert why("{ a }" + "\n#" * 60) is None
    assert why("{ a }" + "\n#" * 61)
    assert "100000 characters" in (why("{ a }" + " " * 100_000) or "")


def test_a_place_is_counted_once_however_often_a_fragment_is_spread_there() -> None:
    assert why("{ ...f ...f ...g } fragment f on Q { a: x ...g } fragment g on Q { b: x c: x d: x }") is None


def test_of_several_operations_each_may_have_as_many_fields() -> None:
    assert why("query a { " + "a b c d e } query b { a b c d e }") is None


def test_a_fragment_that_nobody_spreads_is_counted_too() -> None:
    assert "aliases" in (why("{ a } fragment f on A { a: b c: d e: f g: h i: j }") or "")


@pytest.mark.parametrize("cycle", ["...f", "a { ...f }", "...g"])
def test_that_fragments_are_circular_is_said_in_place_of_a_limit(cycle: str) -> None:
    text = f"{{ a {{ b {{ ...f }} }} }} fragment f on A {{ {cycle} c {{ d {{ e }} }} }} fragment g on A {{ ...f }}"
    assert "Cannot spread fragment 'f' within itself" in (why(text) or "")


def test_variables_hold_so_many_values_on_all_levels() -> None:
    check_variables({"a": [1] * (MOST_VALUES - 1)})
    with pytest.raises(TooComplexError, match=str(MOST_VALUES)):
        check_variables({"a": [1] * MOST_VALUES})
    with pytest.raises(TooComplexError, match=str(MOST_VALUES)):
        check_variables({"a": [{"b": [1] * (MOST_VALUES - 3)}, 1]})
