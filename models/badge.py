"""The platform's badges, day by day."""

from datetime import date

from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class BadgeAnalytics(Base):
    """A badge's numbers of one UTC day, summed from what each subject contributed; it stands by its number in the
    catalogue."""

    __tablename__ = "badge_analytics"

    day: Mapped[date] = mapped_column(primary_key=True)
    badge: Mapped[int] = mapped_column(Integer, primary_key=True)
    views: Mapped[int] = mapped_column(Integer)
    claims: Mapped[int] = mapped_column(Integer)
    earned: Mapped[int] = mapped_column(Integer)
