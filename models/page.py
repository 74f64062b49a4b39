"""The platform's pages, day by day."""

from datetime import date

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class PageViewAnalytics(Base):
    """A path's numbers of one UTC day, in which nobody can be told apart."""

    __tablename__ = "page_view_analytics"

    page_path: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    views: Mapped[int]
    sessions: Mapped[int]
    entries: Mapped[int]
    bounces: Mapped[int]
