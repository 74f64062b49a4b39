"""How old somebody is, to the instant of their local midnight."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.age import adult_at, birthday
from tests.histories import ZONES

TICK = timedelta(microseconds=1)
births = st.dates(date(1900, 1, 1), date(2026, 12, 31))


def whole_years(born: date, day: date) -> int:
    """Years and the one that is not over yet, counted by month and day."""
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


@given(born=births, age=st.integers(0, 21))
def test_the_birthday_is_the_first_day_of_that_age(born: date, age: int) -> None:
    day = birthday(born, age)
    assert whole_years(born, day) == age
    assert whole_years(born, day - timedelta(days=1)) == age - 1


@pytest.mark.parametrize(
    ("born", "age", "day"),
    [("2008-02-29", 18, "2026-03-01"), ("2008-02-29", 20, "2028-02-29"), ("2008-02-28", 18, "2026-02-28")],
)
def test_whoever_was_born_on_29_february(born: str, age: int, day: str) -> None:
    assert birthday(date.fromisoformat(born), age) == date.fromisoformat(day)


@settings(deadline=None)
@given(born=births, zone=st.sampled_from([*ZONES, "America/Havana", "Asia/Beirut", "America/Sao_Paulo"]))
def test_somebody_is_adult_from_the_first_instant_of_the_day(born: date, zone: str) -> None:
    at = adult_at(born, zone)
    there = ZoneInfo(zone)
    assert whole_years(born, at.astimezone(there).date()) == 18
    assert whole_years(born, (at - TICK).astimezone(there).date()) == 17


def test_a_day_that_begins_at_one_o_clock() -> None:
    """Beirut's clocks went from midnight to one on 26 March 2023."""
    assert adult_at(date(2005, 3, 26), "Asia/Beirut") == datetime(2023, 3, 25, 22, tzinfo=UTC)
