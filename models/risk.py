"""Dropout risk: how likely it seems that a learner stops coming, by what they did, and by nothing that they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from math import inf, prod
from statistics import median
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Float, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.engagement import MILLISECONDS_A_MINUTE, current_streak, starts_and_completions
from models.journey import enough_data
from models.taxonomy import MilestoneKind

MODEL = "seed-weights-1"
WINDOWS = (7, 14, 30, 90)
USUAL_WINDOW = 30
LISTED_DAYS = 90
LONG_INACTIVE_DAYS = 14
LONG_SESSION = 20 * MILLISECONDS_A_MINUTE
LONG_STREAK = 7


class RiskAssessment(Base):
    """What was said of one learner over one window, as of `assessed_at`. `factors` has weight, value and evidence of
    each by its name.

    `rank` is the place in the list of those at risk: the score with its sign changed, so that one order serves both
    columns; None for those who are not listed.
    """

    __tablename__ = "risk_assessments"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    days: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    user_id: Mapped[str]
    score: Mapped[float | None] = mapped_column(Float)
    rank: Mapped[float | None] = mapped_column(Float)
    factors: Mapped[dict[str, Any]]
    model: Mapped[str]
    assessed_at: Mapped[datetime]


class AssessmentDue(Base):
    """When somebody is to be assessed next: as soon as their days have changed, else after their local midnight."""

    __tablename__ = "assessments_due"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]


class EngagementLevel(StrEnum):
    """How engaged somebody is: HIGH is good."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"
    AT_RISK = "AT_RISK"


LEVEL_ENDS = {
    EngagementLevel.HIGH: 0.3,
    EngagementLevel.MEDIUM: 0.6,
    EngagementLevel.LOW: 0.8,
    EngagementLevel.AT_RISK: inf,
}


class RiskFactorName(StrEnum):
    """What a score is made of: the contract's `RiskFactorName`."""

    DAYS_INACTIVE = "DAYS_INACTIVE"
    LOGIN_FREQUENCY = "LOGIN_FREQUENCY"
    QUEST_COMPLETION = "QUEST_COMPLETION"
    SESSION_DURATION = "SESSION_DURATION"
    STREAK = "STREAK"


HUNDREDTHS = {
    RiskFactorName.DAYS_INACTIVE: 40,
    RiskFactorName.LOGIN_FREQUENCY: 25,
    RiskFactorName.QUEST_COMPLETION: 20,
    RiskFactorName.SESSION_DURATION: 10,
    RiskFactorName.STREAK: 5,
}


class Factor(NamedTuple):
    """One factor of an assessment: how much it weighs, its value from 0 to 1 where it has one, and why, in words."""

    name: RiskFactorName
    weight: float
    value: float | None
    evidence: str


@dataclass(frozen=True)
class Assessment:
    """What is said of a learner; the score is None where they are not known for long enough."""

    score: float | None
    factors: list[Factor]
    assessed_at: datetime
    model: str = MODEL

    @property
    def level(self) -> EngagementLevel | None:
        """How engaged the score says they are."""
        score = self.score
        return None if score is None else next(level for level, end in LEVEL_ENDS.items() if score < end)


class RecentDay(NamedTuple):
    """A row of `daily_activity`, as far as risk follows from it."""

    day: date
    visited: bool
    active: bool
    session_lengths: list[int]
    sessions_open_until: list[datetime]


class QuestStep(NamedTuple):
    """A quest started or completed; in the order of events."""

    day: date
    kind: MilestoneKind
    quest_id: str | None


@dataclass(frozen=True)
class Record:
    """What a learner's assessments follow from. Days and steps are those of the longest window, and may be more."""

    zone: ZoneInfo
    known_since: datetime
    last_visit: date | None
    days: Sequence[RecentDay]
    quest_steps: Sequence[QuestStep]

    @property
    def known_on(self) -> date:
        """The local day on which they became known."""
        return self.known_since.astimezone(self.zone).date()

    @property
    def last_sign(self) -> date:
        """Their last visit day, or where there was none the day on which they became known."""
        return self.last_visit or self.known_on


def assess(record: Record, days: int, now: datetime) -> Assessment:
    """What the rule says of a learner over their last local days, today included, as of `now`.

    Reckoned in whole numbers, so that a score on the edge of a level or threshold lies on its right side.
    """
    today = now.astimezone(record.zone).date()
    since = today - timedelta(days=days - 1)
    recent = [day for day in record.days if since <= day.day <= today]
    steps = [step for step in record.quest_steps if since <= step.day <= today]
    closed = [
        length
        for day in recent
        for length, open_until in zip(day.session_lengths, day.sessions_open_until, strict=True)
        if open_until <= now
    ]
    found = {
        RiskFactorName.DAYS_INACTIVE: _days_inactive(record, today),
        RiskFactorName.LOGIN_FREQUENCY: _login_frequency(sum(day.visited for day in recent), days),
        RiskFactorName.QUEST_COMPLETION: _quest_completion(steps, days),
        RiskFactorName.SESSION_DURATION: _session_duration(closed, days),
        RiskFactorName.STREAK: _streak([day.day for day in record.days if day.active], today),
    }
    values = {name: ratio.clamped for name, (ratio, _) in found.items() if ratio}
    return Assessment(
        score=_mean(values) if enough_data(record.known_on, today) else None,
        factors=[
            Factor(name, HUNDREDTHS[name] / 100, values[name].number if name in values else None, evidence)
            for name, (_, evidence) in found.items()
        ],
        assessed_at=now,
    )


def may_be_listed(record: Record, now: datetime) -> bool:
    """Whether a student may stand among those at risk: known for long enough, and either visited or became known within
    the last 90 local days."""
    today = now.astimezone(record.zone).date()
    return today - record.last_sign < timedelta(days=LISTED_DAYS) and enough_data(record.known_on, today)


class Ratio(NamedTuple):
    """A factor's value as a fraction; the denominator is positive."""

    numerator: int
    denominator: int

    @property
    def clamped(self) -> "Ratio":
        """The nearest from 0 to 1."""
        return Ratio(min(max(self.numerator, 0), self.denominator), self.denominator)

    @property
    def number(self) -> float:
        """The nearest number."""
        return self.numerator / self.denominator


def _mean(values: Mapping[RiskFactorName, Ratio]) -> float:
    common = prod(value.denominator for value in values.values())
    total = sum(HUNDREDTHS[name] * value.numerator * common // value.denominator for name, value in values.items())
    return total / (common * sum(HUNDREDTHS[name] for name in values))


Found = tuple[Ratio | None, str]
"""A factor's value before it is clamped, None where it has none, and the evidence."""


def _days_inactive(record: Record, today: date) -> Found:
    ago = max((today - record.last_sign).days, 0)
    if record.last_visit is None:
        evidence = f"No visit yet; known since {_spoken(record.known_on, today)}"
    elif ago:
        evidence = f"No visit for {_count(ago, 'day')}; last on {_spoken(record.last_visit, today)}"
    else:
        evidence = "Visited today"
    return Ratio(ago, LONG_INACTIVE_DAYS), evidence


def _login_frequency(visits: int, days: int) -> Found:
    # Three visits a week are enough: seven times as many visits as three times as many days.
    enough = 3 * days
    return Ratio(enough - 7 * visits, enough), f"Visited on {visits} of the last {days} days"


def _quest_completion(steps: Sequence[QuestStep], days: int) -> Found:
    started, completed = starts_and_completions((step.kind, step.quest_id) for step in steps)
    if not started:
        return None, f"No quest started in the last {days} days"
    evidence = f"Completed {completed} of {_count(started, 'quest')} started in the last {days} days"
    return Ratio(started - completed, started), evidence


def _session_duration(closed: Sequence[int], days: int) -> Found:
    if not closed:
        return None, f"No session that has ended in the last {days} days"
    usual = median(closed)
    minutes = f"{usual / MILLISECONDS_A_MINUTE:.1f}".removesuffix(".0")
    evidence = f"The usual session of the last {days} days lasted {minutes} {'minute' if minutes == '1' else 'minutes'}"
    # Doubled, since it may lie in the middle between two whole numbers.
    return Ratio(2 * LONG_SESSION - int(2 * usual), 2 * LONG_SESSION), evidence


def _streak(active_days: Sequence[date], today: date) -> Found:
    length = current_streak(active_days, today)
    if not length:
        evidence = "Learnt neither today nor yesterday"
    elif length >= LONG_STREAK:
        evidence = "Learnt every day for a week or more"
    else:
        until = "today" if active_days[-1] >= today else "yesterday"
        evidence = f"Learnt {until}" if length == 1 else f"Learnt on {length} days in a row up to {until}"
    return Ratio(LONG_STREAK - length, LONG_STREAK), evidence


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _spoken(day: date, today: date) -> str:
    return f"{day.day} {day:%B}" if day.year == today.year else f"{day.day} {day:%B %Y}"
