"""When somebody who sent too much may send again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolvers.rate_limit import MINUTE, seconds_until


def counted(previous: int, previous_ends_in: float, current: int, current_ends_in: float, after: float) -> float:
    """What the sliding window counts so much later, when nobody sends meanwhile."""
    if after >= current_ends_in - MINUTE:
        return current * max(0.0, current_ends_in - after) / MINUTE
    return previous * max(0.0, previous_ends_in - after) / MINUTE + current


@given(
    most=st.integers(0, 6000),
    previous=st.integers(0, 6000),
    current=st.integers(0, 6000),
    elapsed=st.floats(0, MINUTE, exclude_max=True),
)
def test_after_that_time_no_more_is_counted_and_just_before_more(
    most: int, previous: int, current: int, elapsed: float
) -> None:
    window = previous, MINUTE - elapsed, current, 2 * MINUTE - elapsed
    wait = seconds_until(most, *window)
    assert counted(*window, after=wait) <= most + 1e-6
    if wait > 1:
        assert counted(*window, after=wait - 1) > most - 1e-6


@pytest.mark.parametrize("window", [(0, 0.0, 0, 0.0), (50, 30.0, 50, 90.0)])
def test_more_than_ever_may_be_sent_at_once_waits_a_minute(window: tuple[int, float, int, float]) -> None:
    assert seconds_until(-1, *window) == MINUTE
