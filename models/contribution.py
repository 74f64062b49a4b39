"""What each subject adds to the platform's figures, UTC day by UTC day."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import IntEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Double, Integer, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.catalogue import Item, Kind, Title
from models.engagement import CATEGORIES, without_end
from models.page import load_key
from models.session import Session, StoredEvent, order
from models.taxonomy import (
    BadgeClaimed,
    BadgeEarned,
    BadgeViewed,
    EventType,
    PageExit,
    PageView,
    QuestCompleted,
    QuestStarted,
    QuestViewed,
)

Numbers = Mapped[list[int] | None]


class View(IntEnum):
    """What a page view was to its session: each is all that stand before it, too."""

    AGAIN = 0
    """Another of a page that was viewed in it before, or in no session."""
    FIRST = 1
    """The first of its page."""
    ENTRY = 2
    """The very first."""
    BOUNCE = 3
    """The only one, and the session bounced."""


VIEWS = len(View)


def _numbers() -> Any:
    return mapped_column(ARRAY(Integer))


class DailyContribution(Base):
    """A UTC day of one subject that had an event.

    A page, quest or badge stands in a column by its number in the catalogue, as often as it counts; null is none.
    `page_views` has the page's number times `VIEWS`, and in what is left by it the kind of `View`. `load_keys` tell the
    load time of each of these, `visible_seconds` the time of each of `page_exits`. `events_by_category` ends with the
    last category that had one. `quests_finished` are those completed after they were first started on that day.
    """

    __tablename__ = "daily_contributions"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    events_by_category: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    page_views: Numbers = _numbers()
    load_keys: Mapped[list[int | None] | None] = mapped_column(ARRAY(SmallInteger))
    page_exits: Numbers = _numbers()
    visible_seconds: Mapped[list[float] | None] = mapped_column(ARRAY(Double))
    quest_views: Numbers = _numbers()
    quest_starts: Numbers = _numbers()
    quest_completions: Numbers = _numbers()
    quests_finished: Numbers = _numbers()
    badge_views: Numbers = _numbers()
    badge_claims: Numbers = _numbers()
    badges_earned: Numbers = _numbers()


@dataclass
class Contribution:
    """A UTC day of one subject while it is being found, with names in place of numbers."""

    events_by_category: list[int] = field(default_factory=lambda: [0] * len(CATEGORIES))
    page_views: list[str] = field(default_factory=list)
    load_keys: list[int | None] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    page_exits: list[str] = field(default_factory=list)
    visible_seconds: list[float] = field(default_factory=list)
    quest_views: list[str] = field(default_factory=list)
    quest_starts: list[str] = field(default_factory=list)
    quest_completions: list[str] = field(default_factory=list)
    quests_finished: list[str] = field(default_factory=list)
    badge_views: list[str] = field(default_factory=list)
    badge_claims: list[str] = field(default_factory=list)
    badges_earned: list[str] = field(default_factory=list)

    def count(self, event: StoredEvent, view: View) -> None:
        """Take the event, which is of this day, into its figures; they come in their order. A page view is such a
        `view`."""
        kind = event.kind
        self.events_by_category[CATEGORIES.index(kind.category)] += 1
        if kind is PageView and event.page_path:
            self.page_views.append(event.page_path)
            self.views.append(view)
            self.load_keys.append(load_key(event.data.get("loadTimeMs")))
        elif kind is PageExit and event.page_path:
            self.page_exits.append(event.page_path)
            self.visible_seconds.append(event.data["visibleSeconds"])
        elif column := COUNTED.get(kind):
            name = event.data[_ID[KINDS[column]]]
            getattr(self, column).append(name)
            if kind is QuestCompleted and name in self.quest_starts and name not in self.quests_finished:
                self.quests_finished.append(name)

    def row(self) -> dict[str, Any]:
        """Its columns, and `views` beside them; null in place of what is empty, and of load times where none is
        known."""
        told = vars(self) | {"events_by_category": without_end(self.events_by_category)}
        known = any(key is not None for key in self.load_keys)
        return {name: value or None for name, value in told.items()} | ({} if known else {"load_keys": None})


COUNTED: dict[type[EventType], str] = {
    QuestViewed: "quest_views",
    QuestStarted: "quest_starts",
    QuestCompleted: "quest_completions",
    BadgeViewed: "badge_views",
    BadgeClaimed: "badge_claims",
    BadgeEarned: "badges_earned",
}
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("page_views", "page_exits"), Kind.PAGE),
    **dict.fromkeys(("quest_views", "quest_starts", "quest_completions", "quests_finished"), Kind.QUEST),
    **dict.fromkeys(("badge_views", "badge_claims", "badges_earned"), Kind.BADGE),
}
"""Of each column of numbers, what they are numbers of."""
_ID = {Kind.QUEST: "questId", Kind.BADGE: "badgeId"}
_TITLE = {Kind.QUEST: "questTitle", Kind.BADGE: "badgeName"}


def find_contributions(events: Iterable[StoredEvent], sessions: Iterable[Session]) -> dict[date, Contribution]:
    """Of each UTC day with one of the events. A session counts on the day of its first page view, and of a page on the
    day of its first view of that page; on no other day than these."""
    views = _views(sessions)
    days: defaultdict[date, Contribution] = defaultdict(Contribution)
    for event in sorted(events, key=order):
        days[_utc_day(event)].count(event, views.get((event.occurred_at, event.event_id), View.AGAIN))
    return dict(days)


def _views(sessions: Iterable[Session]) -> dict[tuple[datetime, UUID], View]:
    """By time and id, what the page views are that a session counts at."""
    views: dict[tuple[datetime, UUID], View] = {}
    for session in sessions:
        for first in session.first_views.values():
            is_entry = first is session.views[0]
            view = View.FIRST if not is_entry else View.BOUNCE if session.is_bounce else View.ENTRY
            views[first.occurred_at, first.event_id] = view
    return views


def find_titles(events: Iterable[StoredEvent]) -> dict[Item, Title]:
    """The title last sent of each quest and badge that is counted, by UTC day."""
    titles: dict[Item, Title] = {}
    for event in events:
        if column := COUNTED.get(event.kind):
            kind = KINDS[column]
            if title := event.data.get(_TITLE[kind]):
                item = Item(kind, event.data[_ID[kind]])
                titles[item] = max((_utc_day(event), title), titles.get(item, (date.min, "")))
    return titles


def _utc_day(event: StoredEvent) -> date:
    return event.occurred_at.astimezone(UTC).date()
