"""The platform's pages, day by day, and the sketch of their load times."""

from collections.abc import Iterable
from datetime import date

from ddsketch import DDSketch, LogarithmicMapping
from sqlalchemy import ARRAY, Double, Integer, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

ACCURACY = 0.01
AT_ONCE = -1
"""Where a load time of 0 ms stands among the sketch's keys."""
_mapping = LogarithmicMapping(ACCURACY)


class PageViewAnalytics(Base):
    """A page's numbers of one UTC day, summed from what each subject contributed; in them nobody can be told apart.

    The page stands by its number in the catalogue. Of the sketch of load times there are the keys of its bins, in
    order, and how many views each holds; all visible seconds are kept, in order.
    """

    __tablename__ = "page_view_analytics"

    day: Mapped[date] = mapped_column(primary_key=True)
    page: Mapped[int] = mapped_column(Integer, primary_key=True)
    views: Mapped[int] = mapped_column(Integer)
    unique_users: Mapped[int] = mapped_column(Integer)
    sessions: Mapped[int] = mapped_column(Integer)
    entries: Mapped[int] = mapped_column(Integer)
    bounces: Mapped[int] = mapped_column(Integer)
    load_keys: Mapped[list[int] | None] = mapped_column(ARRAY(SmallInteger))
    load_counts: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    visible_seconds: Mapped[list[float] | None] = mapped_column(ARRAY(Double))


def load_key(milliseconds: int | None) -> int | None:
    """The key of the sketch's bin that a load time falls in; None where it is not known."""
    if milliseconds is None:
        return None
    return _mapping.key(milliseconds) if milliseconds else AT_ONCE


def load_quantiles(bins: Iterable[tuple[int, int]]) -> tuple[float | None, float | None]:
    """The median and the 95th percentile in milliseconds of load times in these bins, each with how many it holds.

    Within 1% of the value that stands there among all in order: of two in the middle, the lower. None where there
    is none.
    """
    sketch = DDSketch(ACCURACY)
    for key, count in bins:
        sketch.add(0.0 if key == AT_ONCE else _mapping.value(key), count)
    return sketch.get_quantile_value(0.5), sketch.get_quantile_value(0.95)
