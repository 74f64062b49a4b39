"""The soak's verdict: what may grow, and what must not."""

import pytest

from tests.bench.soak import grown

FLAT = [10.0, 100.0, 101.0, 99.0, 100.0, 100.5]


@pytest.mark.parametrize(
    ("what", "values", "grows"),
    [
        ("memory: the API", FLAT, False),
        ("memory: the API", [100, 120, 120, 120, 120, 131], True),
        ("memory: the API", [100, 120, 120, 120, 120, 129], False),
        ("table: dirty_spans", [0, 1, 40, 40, 41, 42], False),
        ("table: dirty_spans", [0, 1, 40, 40, 41, 67], True),
        ("table: user_activity_events", [0, 100, 200, 300, 400, 500], False),
        ("rows: stored_batches", [0, 900, 2000, 2000, 900, 2900], False),
        ("rows: stored_batches", [0, 2000, 4000, 6000, 8000, 10000], True),
        ("waiting", [0, 0, 10000, 20000, 30000, 40000], True),
        ("files: WAL", [0, 200, 400, 600, 900, 1090], False),
        ("files: WAL", [0, 200, 400, 600, 900, 1110], True),
        ("files: append-only", [1, 30, 60, 2, 30, 61], False),
    ],
)
def test_the_last_third_is_held_against_the_second(what: str, values: list[float], grows: bool) -> None:
    assert bool(grown({what: values})) is grows
