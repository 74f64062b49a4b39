"""The platform's quests, day by day."""

from datetime import date

from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class QuestAnalytics(Base):
    """A quest's numbers of one UTC day, summed from what each subject contributed; it stands by its number in the
    catalogue."""

    __tablename__ = "quest_analytics"

    day: Mapped[date] = mapped_column(primary_key=True)
    quest: Mapped[int] = mapped_column(Integer, primary_key=True)
    views: Mapped[int] = mapped_column(Integer)
    starts: Mapped[int] = mapped_column(Integer)
    completions: Mapped[int] = mapped_column(Integer)
