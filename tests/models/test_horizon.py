"""Where days are sealed, to the instant."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.horizon import horizon, is_sealed, midnight
from models.rollup import first_unsealed
from tests import recomputation
from tests.histories import ZONES

TICK = timedelta(milliseconds=1)
zones = st.sampled_from(
    [*ZONES, "Europe/London", "America/Havana", "Asia/Beirut", "America/Sao_Paulo", "Australia/Lord_Howe"]
)
instants = st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        # 90 days before Wednesday 2 April 2025, 02:00, was Thursday 2 January.
        ("2025-04-02T01:00", "2025-01-06"),
        ("2025-04-05T01:59", "2025-01-06"),
        ("2025-04-06T01:59", "2025-01-13"),
    ],
)
def test_examples(now: str, expected: str) -> None:
    found = horizon(datetime.fromisoformat(now).replace(tzinfo=UTC), 90)
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@given(now=instants, days=st.integers(8, 400))
def test_it_is_the_monday_of_the_oldest_week_that_is_not_too_old_at_the_next_two_o_clock(
    now: datetime, days: int
) -> None:
    found = horizon(now, days)
    assert found == recomputation.horizon(now, days)
    assert (found.weekday(), found.hour, found.minute) == (0, 0, 0)
    next_two = now.replace(hour=2, minute=0, second=0, microsecond=0)
    next_two += timedelta(days=1) if next_two <= now else timedelta(0)
    assert next_two - found < timedelta(days=days) <= next_two - (found - timedelta(weeks=1))


@given(now=instants, later=st.timedeltas(timedelta(0), timedelta(days=30)))
def test_it_never_goes_back(now: datetime, later: timedelta) -> None:
    assert horizon(now, 90) <= horizon(now + later, 90)


def test_two_o_clock_is_not_its_own_next() -> None:
    two = datetime(2025, 4, 6, 2, tzinfo=UTC)
    moments = [horizon(two + offset * TICK, 90) for offset in (-1, 0, 1)]
    assert moments[1] == moments[2] == horizon(two + timedelta(hours=23), 90)
    monday = next(
        at for hour in range(24 * 8) if horizon(at := two + timedelta(hours=hour), 90) != horizon(at - TICK, 90)
    )
    assert monday.hour == 2


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("UTC", "2025-03-01", "2025-03-01T00:00"),
        ("Asia/Kathmandu", "2025-03-01", "2025-02-28T18:15"),
        # The clock jumps from 00:00 to 01:00.
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00"),
        ("Asia/Beirut", "2025-03-30", "2025-03-29T22:00"),
        # The clock shows 00:00 to 01:00 twice.
        ("America/Havana", "2025-11-02", "2025-11-02T04:00"),
    ],
)
def test_midnight_where_clocks_change(zone: str, day: str, expected: str) -> None:
    assert midnight(date.fromisoformat(day), ZoneInfo(zone)) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@given(at=instants, zone=zones)
def test_a_day_begins_at_its_midnight_and_not_before(at: datetime, zone: str) -> None:
    there = ZoneInfo(zone)
    day = at.astimezone(there).date()
    begins = midnight(day, there)
    assert begins <= at
    assert begins.astimezone(there).date() == day
    assert (begins - TICK).astimezone(there).date() < day
    assert at < midnight(day + timedelta(days=1), there) or zone == "Pacific/Apia"


@given(at=instants, zone=zones, offset=st.timedeltas(timedelta(days=-3), timedelta(days=3)))
def test_what_is_sealed_is_what_lies_before_the_first_unsealed_day(at: datetime, zone: str, offset: timedelta) -> None:
    there = ZoneInfo(zone)
    occurred_at = at + offset
    assert is_sealed(occurred_at, there, at) == (occurred_at < first_unsealed(there, at))
    assert is_sealed(occurred_at, there, at) == recomputation.is_sealed(occurred_at.astimezone(there).date(), zone, at)
