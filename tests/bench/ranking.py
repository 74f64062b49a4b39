"""How well the risk score tells on day 60 of a real course who will not pass it: `python -m tests.bench.ranking`."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from models.engagement import find_days
from models.horizon import midnight
from models.risk import WINDOWS, Assessment, QuestStep, RecentDay, Record, RiskFactorName, assess
from models.session import StoredEvent, find_sessions
from questlog.demo.course import LAST_DAY, TIME_ZONE, Course, Learner
from questlog.demo.diary import Event, diary

ZONE = ZoneInfo(TIME_ZONE)
DAY_60 = date(2026, 11, 22)
NOT_PASSED = {"Withdrawn", "Fail"}
BEFORE_MIDNIGHT = timedelta(milliseconds=1)

Score = Callable[[Learner], float]


def main() -> None:
    """Print how well each score ranks the learners of AAA 2013J."""
    console = Console()
    course = Course.read(DAY_60)
    assessed = assess_course(course)
    for title, learners in (("all", course.learners), ("still registered on day 60", still_there(course))):
        losses = sum(learner.result in NOT_PASSED for learner in learners)
        table = Table(f"{title}: {len(learners)}, of whom {losses} did not pass", "AUC", title_justify="left")
        for name, auc in ranking(learners, assessed).items():
            table.add_row(name, f"{auc:.3f}")
        console.print(table)


def still_there(course: Course) -> list[Learner]:
    """Those who had not left by the last day: of the others the platform's own register tells."""
    return [learner for learner in course.learners if not learner.left_by(LAST_DAY)]


def assess_course(course: Course) -> dict[str, dict[int, Assessment]]:
    """Each learner's assessments by the window, as of the end of the course's last day; all were made known on its
    first."""
    known_since = midnight(course.first_day, ZONE)
    now = midnight(course.last_day + timedelta(days=1), ZONE) - BEFORE_MIDNIGHT
    records = {learner.number: record_of(learner, course, known_since) for learner in course.learners}
    return {number: {days: assess(record, days, now) for days in WINDOWS} for number, record in records.items()}


def record_of(learner: Learner, course: Course, known_since: datetime) -> Record:
    """What the platform would have derived."""
    events = [stored(event) for event in diary(learner, course)]
    days = find_days(events, find_sessions(events), ZONE)
    recent = [
        RecentDay(
            day,
            found.visited,
            found.active,
            [(one.ended_at - one.started_at) // timedelta(milliseconds=1) for one in found.sessions],
            [one.open_until for one in found.sessions],
        )
        for day, found in sorted(days.items())
    ]
    steps = [
        QuestStep(event.occurred_at.astimezone(ZONE).date(), event.kind.milestone, event.data.get("questId"))
        for event in sorted(events, key=lambda event: event.occurred_at)
        if event.kind.milestone
    ]
    visits = [day.day for day in recent if day.visited]
    return Record(ZONE, known_since, max(visits, default=None), recent, steps)


def stored(event: Event) -> StoredEvent:
    """An event of the diary, as a roll-up reads it."""
    ((field, data),) = event["event"].items()
    return StoredEvent(
        event_id=UUID(event["eventId"]),
        occurred_at=datetime.fromisoformat(event["occurredAt"]).astimezone(UTC),
        event_type=re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", field),
        device_id=UUID(event["deviceId"]) if "deviceId" in event else None,
        from_service=True,
        page_path=event["page"]["path"] if "page" in event else None,
        data=data,
    )


def ranking(learners: Sequence[Learner], assessed: dict[str, dict[int, Assessment]]) -> dict[str, float]:
    """By what ranks them, the AUC."""

    def score(days: int) -> Score:
        return lambda learner: assessed[learner.number][days].score or 0

    def value(name: RiskFactorName) -> Score:
        def of(learner: Learner) -> float:
            factors = {factor.name: factor.value for factor in assessed[learner.number][30].factors}
            found = factors[name]
            # Where there is nothing to tell it by, it says neither one nor the other.
            return 0.5 if found is None else found

        return of

    scores = {f"score over {days} days": score(days) for days in WINDOWS}
    scores |= {f"{name} alone, over 30 days": value(name) for name in RiskFactorName}
    return {name: area(learners, score) for name, score in scores.items()}


def area(learners: Sequence[Learner], score: Score) -> float:
    """Of all pairs of one who passed and one who did not, the share in which the latter has the higher score; a
    tie counts half."""
    lost = [score(learner) for learner in learners if learner.result in NOT_PASSED]
    kept = [score(learner) for learner in learners if learner.result not in NOT_PASSED]
    won = sum((one > other) + (one == other) / 2 for one in lost for other in kept)
    return won / (len(lost) * len(kept))


if __name__ == "__main__":
    main()
