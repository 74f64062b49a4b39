"""A learner's days: what each held, and what many of them add up to."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from itertools import chain
from statistics import median
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ARRAY, DateTime, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.session import Session, StoredEvent
from models.taxonomy import Category, LoginSuccess, MilestoneKind, QuestViewed

CATEGORIES = list(Category)
FEWEST_STARTS = 5
MILLISECONDS_A_MINUTE = 60_000
MILLISECONDS_AN_HOUR = 3_600_000


class DailyActivity(Base):
    """A local day of one subject that had an event. Sessions belong to the day on which they opened; their lengths
    are in milliseconds, and each is closed from its `open_until` on. `events_by_category` ends with the last category
    that had one."""

    __tablename__ = "daily_activity"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    events: Mapped[int] = mapped_column(Integer)
    events_by_category: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    visited: Mapped[bool]
    active: Mapped[bool]
    logins: Mapped[int] = mapped_column(Integer)
    quests_viewed: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    session_lengths: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    sessions_open_until: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))


def without_end(counts: Sequence[int]) -> list[int]:
    """The counts up to the last that is not 0."""
    return list(counts[: max((place for place, count in enumerate(counts, 1) if count), default=0)])


@dataclass
class Day:
    """A local day while it is being found."""

    events: int = 0
    events_by_category: list[int] = field(default_factory=lambda: [0] * len(CATEGORIES))
    visited: bool = False
    active: bool = False
    logins: int = 0
    quests_viewed: set[str] = field(default_factory=set)
    sessions: list[Session] = field(default_factory=list)

    def count(self, event: StoredEvent) -> None:
        """Take the event, which is of this day, into its figures."""
        kind = event.kind
        self.events += 1
        self.events_by_category[CATEGORIES.index(kind.category)] += 1
        self.visited |= event.is_on_device and not kind.passive
        self.active |= kind.learning
        self.logins += kind is LoginSuccess
        if kind is QuestViewed:
            self.quests_viewed.add(event.data["questId"])


def find_days(events: Iterable[StoredEvent], sessions: Iterable[Session], zone: ZoneInfo) -> dict[date, Day]:
    """The local days on which something happened. A session counts on the day it opened on."""
    days: defaultdict[date, Day] = defaultdict(Day)
    for event in events:
        days[event.occurred_at.astimezone(zone).date()].count(event)
    for session in sessions:
        days[session.started_at.astimezone(zone).date()].sessions.append(session)
    return dict(days)


def current_streak(active_days: Sequence[date], today: date) -> int:
    """The run of consecutive active days that ends today or yesterday, 0 where neither was active; the days in order,
    without repeats."""
    if not active_days or today.toordinal() > active_days[-1].toordinal() + 1:
        return 0
    last = active_days[-1].toordinal()
    return next(
        (run for run, day in enumerate(reversed(active_days)) if day.toordinal() != last - run), len(active_days)
    )


def longest_streak(active_days: Sequence[date]) -> int:
    """The longest run of consecutive active days; the days in order, without repeats."""
    longest = run = previous = 0
    for day in map(date.toordinal, active_days):
        run = run + 1 if day == previous + 1 else 1
        longest = max(longest, run)
        previous = day
    return longest


class KeptDay(NamedTuple):
    """A row of `daily_activity`, as far as engagement follows from it."""

    day: date
    events: int
    visited: bool
    active: bool
    logins: int
    quests_viewed: list[str] | None
    session_lengths: list[int]
    sessions_open_until: list[datetime]


class KeptMilestone(NamedTuple):
    """A milestone, as far as engagement follows from it; in the order of events."""

    day: date
    kind: MilestoneKind
    quest_id: str | None
    task_id: str | None
    badge_id: str | None
    xp: int


@dataclass(frozen=True)
class Daily:
    """Columns of equal length, one entry a day, oldest first, no gaps."""

    dates: list[date]
    events: list[int]
    active_minutes: list[float]
    quests_completed: list[int]
    xp: list[int]


class Engagement(NamedTuple):
    """A learner's figures over the last days, today included."""

    days: int
    active_days: int
    visit_days: int
    sessions: int
    median_session_minutes: float | None
    time_on_platform_hours: float
    logins: int
    quests_viewed: int
    quests_started: int
    quests_completed: int
    quests_abandoned: int
    tasks_completed: int
    badges_earned: int
    completion_rate: float | None
    current_streak: int
    longest_streak: int
    last_active_on: date | None
    by_day: Callable[[], Daily]
    """Made only where it is asked for."""


def engagement(
    window: Sequence[date],
    days: Iterable[KeptDay],
    milestones: Iterable[KeptMilestone],
    active_days: Sequence[date],
    now: datetime,
) -> Engagement:
    """What the days and milestones add up to over the window, whose last day is today. `active_days` are those of all
    time, in order; days and milestones outside the window do not count."""
    first, last = window[0], window[-1]
    kept = [day for day in days if first <= day.day <= last]
    _, _, visited, active, logins, viewed, lengths, open_until = zip(*kept, strict=True) if kept else [()] * 8
    made = [milestone for milestone in milestones if first <= milestone.day <= last]
    of_kind: defaultdict[MilestoneKind, list[KeptMilestone]] = defaultdict(list)
    for milestone in made:
        of_kind[milestone.kind].append(milestone)
    session_lengths = list(chain.from_iterable(lengths))
    opens = zip(session_lengths, chain.from_iterable(open_until), strict=True)
    closed = [length for length, until in opens if until <= now]
    return Engagement(
        days=len(window),
        active_days=sum(active),
        visit_days=sum(visited),
        sessions=len(session_lengths),
        median_session_minutes=median(closed) / MILLISECONDS_A_MINUTE if closed else None,
        time_on_platform_hours=sum(session_lengths) / MILLISECONDS_AN_HOUR,
        logins=sum(logins),
        quests_viewed=len(set(chain.from_iterable(quests or () for quests in viewed))),
        quests_started=len({one.quest_id for one in of_kind[MilestoneKind.QUEST_STARTED]}),
        quests_completed=len({one.quest_id for one in of_kind[MilestoneKind.QUEST_COMPLETED]}),
        quests_abandoned=len({one.quest_id for one in of_kind[MilestoneKind.QUEST_ABANDONED]}),
        tasks_completed=len({one.task_id for one in of_kind[MilestoneKind.TASK_COMPLETED]}),
        badges_earned=len({one.badge_id for one in of_kind[MilestoneKind.BADGE_EARNED]}),
        completion_rate=completion_rate(made),
        current_streak=current_streak(active_days, window[-1]),
        longest_streak=longest_streak(active_days),
        last_active_on=active_days[-1] if active_days else None,
        by_day=partial(_daily, window, kept, made),
    )


def completion_rate(milestones: Iterable[KeptMilestone]) -> float | None:
    """Of the distinct quests started, the share completed after their first start; None under 5 starts.

    The milestones come in the order of events.
    """
    started, completed = starts_and_completions((milestone.kind, milestone.quest_id) for milestone in milestones)
    return completed / started if started >= FEWEST_STARTS else None


def starts_and_completions(steps: Iterable[tuple[MilestoneKind, str | None]]) -> tuple[int, int]:
    """How many distinct quests were started, and how many of these completed after their first start.

    The steps, a kind and a quest each, come in the order of events.
    """
    started: set[str | None] = set()
    completed: set[str | None] = set()
    for kind, quest_id in steps:
        if kind is MilestoneKind.QUEST_STARTED:
            started.add(quest_id)
        elif kind is MilestoneKind.QUEST_COMPLETED and quest_id in started:
            completed.add(quest_id)
    return len(started), len(completed)


def _daily(window: Sequence[date], days: Iterable[KeptDay], milestones: Iterable[KeptMilestone]) -> Daily:
    kept = {day.day: day for day in days}
    completed: defaultdict[date, set[str | None]] = defaultdict(set)
    xp: defaultdict[date, int] = defaultdict(int)
    for milestone in milestones:
        xp[milestone.day] += milestone.xp
        if milestone.kind is MilestoneKind.QUEST_COMPLETED:
            completed[milestone.day].add(milestone.quest_id)
    return Daily(
        dates=list(window),
        events=[kept[day].events if day in kept else 0 for day in window],
        active_minutes=[
            sum(kept[day].session_lengths) / MILLISECONDS_A_MINUTE if day in kept else 0.0 for day in window
        ],
        quests_completed=[len(completed[day]) for day in window],
        xp=[xp[day] for day in window],
    )
