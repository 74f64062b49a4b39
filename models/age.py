"""How old somebody is: in whole years, on the days of the zone they live in."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

from models.horizon import midnight

ADULT = 18


def birthday(born: date, age: int) -> date:
    """The day on which somebody becomes so many years old: 1 March where they were born on 29 February and the year
    has none."""
    try:
        return born.replace(year=born.year + age)
    except ValueError:
        return date(born.year + age, 3, 1)


def adult_at(born: date, time_zone: str) -> datetime:
    """The first instant of the local day on which somebody becomes 18, in UTC."""
    return midnight(birthday(born, ADULT), ZoneInfo(time_zone))
