"""A real course as the demo's files have it, and what there is to count in it."""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

FILES = Path(__file__).parent / "oulad"
TIME_ZONE = "Europe/London"
LAST_DAY = 60
DOING = frozenset({"oucontent"})


@dataclass(frozen=True)
class Visit:
    """A learner opened a site on a day of the course."""

    day: int
    activity: str
    site: str


@dataclass(frozen=True)
class Submission:
    """A learner handed in an assessment; the score is in percent, None where there is none."""

    day: int
    kind: str
    assessment: str
    score: int | None


@dataclass(frozen=True)
class Figures:
    """What can be counted both in the course's files and through the API."""

    learners: int = 0
    page_views: int = 0
    quest_events: int = 0
    visit_days: int = 0
    active_days: int = 0
    tasks_completed: int = 0
    quests_completed: int = 0
    xp: int = 0

    def __add__(self, other: Self) -> Self:
        """Both counts together."""
        others = asdict(other)
        return type(self)(**{name: count + others[name] for name, count in asdict(self).items()})

    @property
    def events(self) -> int:
        """All events."""
        return self.page_views + self.quest_events


@dataclass
class Learner:
    """What one learner did, day by day; how the course ended for them, and the day on which they left it, if they
    did. Nobody is sent the end: it is there to judge by."""

    number: str
    result: str
    left: int | None = None
    visits: list[Visit] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)

    @property
    def user_id(self) -> str:
        """The platform's id of the learner."""
        return f"oulad-{self.number}"

    def left_by(self, day: int) -> bool:
        """Whether they had left by that day of the course, the day included."""
        return self.left is not None and self.left <= day

    @property
    def tasks(self) -> list[Visit]:
        """The first visit to each site where something is to be done."""
        doing = (visit for visit in reversed(self.visits) if visit.activity in DOING)
        return list({visit.site: visit for visit in doing}.values())

    @property
    def figures(self) -> Figures:
        """The learner's own counts."""
        submission_days = {submission.day for submission in self.submissions}
        return Figures(
            learners=1,
            page_views=len(self.visits),
            quest_events=len(self.tasks) + 2 * len(self.submissions),
            visit_days=len({visit.day for visit in self.visits} | submission_days),
            active_days=len({visit.day for visit in self.tasks} | submission_days),
            tasks_completed=len(self.tasks),
            quests_completed=len(self.submissions),
            xp=sum(submission.score or 0 for submission in self.submissions),
        )


@dataclass(frozen=True)
class Course:
    """OULAD's AAA 2013J up to its day 60, which falls on `last_day`."""

    last_day: date
    learners: tuple[Learner, ...]

    @classmethod
    def read(cls, last_day: date) -> Self:
        """The whole course out of the package's files."""
        learners = {
            row["learner"]: Learner(row["learner"], row["result"], int(row["left"]) if row["left"] else None)
            for row in rows("learners.csv")
        }
        for row in rows("visits.csv.gz"):
            learners[row["learner"]].visits.append(Visit(int(row["day"]), row["activity"], row["site"]))
        for row in rows("submissions.csv"):
            score = int(row["score"]) if row["score"] else None
            submission = Submission(int(row["day"]), row["kind"], row["assessment"], score)
            learners[row["learner"]].submissions.append(submission)
        return cls(last_day, tuple(learners.values()))

    @property
    def first_day(self) -> date:
        """The day of the earliest visit."""
        return self.date_of(min(visit.day for learner in self.learners for visit in learner.visits))

    @property
    def figures(self) -> Figures:
        """All learners' counts together."""
        return sum((learner.figures for learner in self.learners), Figures())

    @property
    def families(self) -> dict[str, tuple[Learner, Learner]]:
        """Made-up parents by user id: one for every tenth learner and the next."""
        pairs = zip(self.learners[::10], self.learners[1::10], strict=False)
        return {f"parent-{number}": children for number, children in enumerate(pairs, start=1)}

    @property
    def days(self) -> int:
        """How many local days there have been from the first day to today, both included."""
        return (datetime.now(ZoneInfo(TIME_ZONE)).date() - self.first_day).days + 1

    def date_of(self, day: int) -> date:
        """The learners' local date of a day of the course."""
        return self.last_day + timedelta(days=day - LAST_DAY)


def rows(name: str) -> Iterator[dict[str, str]]:
    """A CSV file's rows, by column."""
    content = (FILES / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    return csv.DictReader(text.splitlines())
