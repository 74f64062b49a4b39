"""The events that the course's learners would have sent, with the hours that OULAD leaves out made up from a seed."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate
from random import Random
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from questlog.demo.course import TIME_ZONE, Course, Learner, Submission

Event: TypeAlias = dict[str, Any]

SEED = "OULAD AAA 2013J"
OPENS, CLOSES = time(7), time(22)
OPEN_SECONDS = (CLOSES.hour - OPENS.hour) * 3600
MARKING_SECONDS = 2 * 3600


def events(course: Course) -> Iterator[Event]:
    """Every event as a `TrackEventInput`, learner by learner and in order; the same ones for the same `last_day`."""
    for learner in course.learners:
        yield from diary(learner, course)


def diary(learner: Learner, course: Course) -> Iterator[Event]:
    """One learner's events: the sittings of each day, and in the evening the marking of what was handed in."""
    random = seeded(learner.number, course.last_day)
    devices = devices_of(learner)
    for day, steps in steps_of(learner).items():
        opening = local(course.date_of(day), OPENS)
        for sitting in sittings(opening, steps, random):
            device = random.choice(devices)
            for at, step in sitting:
                yield {**stamp(learner, at, random), "deviceId": device, **step}
        for submission in (submission for submission in learner.submissions if submission.day == day):
            at = opening + timedelta(seconds=OPEN_SECONDS + random.uniform(0, MARKING_SECONDS))
            yield {**stamp(learner, at, random), "event": {"questCompleted": marking(submission)}}


def steps_of(learner: Learner) -> dict[int, list[Event]]:
    """What the learner does on each day of the course, earliest first, still without an hour."""
    undone = {task.site for task in learner.tasks}
    steps: dict[int, list[Event]] = defaultdict(list)
    for visit in learner.visits:
        path = f"/{visit.activity}/{visit.site}"
        steps[visit.day].append({"event": {"pageView": {}}, "page": {"path": path}})
        if visit.site in undone:
            undone.remove(visit.site)
            steps[visit.day].append({"event": {"taskCompleted": {"taskId": visit.site}}, "page": {"path": path}})
    for submission in learner.submissions:
        steps[submission.day].append({"event": {"questStarted": quest(submission)}})
    return dict(sorted(steps.items()))


def sittings(opening: datetime, steps: list[Event], random: Random) -> Iterator[list[tuple[datetime, Event]]]:
    """The day's steps with their times, in one to three sittings from opening to closing time."""
    count = random.randint(1, max(1, min(3, len(steps) // 3)))
    slot = OPEN_SECONDS / count
    for number in range(count):
        some = steps[number * len(steps) // count : (number + 1) * len(steps) // count]
        seconds = list(accumulate(random.uniform(15, 180) for _ in some))
        if seconds:
            start = number * slot + random.uniform(0, slot - seconds[-1])
            times = [opening + timedelta(seconds=start + second) for second in seconds]
            yield list(zip(times, some, strict=True))


def stamp(learner: Learner, at: datetime, random: Random) -> Event:
    """What every event has."""
    return {
        "eventId": str(UUID(int=random.getrandbits(128), version=4)),
        "occurredAt": at.isoformat(timespec="milliseconds"),
        "userId": learner.user_id,
    }


def devices_of(learner: Learner) -> list[str]:
    """The learner's browsers, the same on every day: one, or two for about every fifth learner."""
    random = seeded(learner.number)
    return [str(UUID(int=random.getrandbits(128), version=4)) for _ in range(random.choice([1, 1, 1, 1, 2]))]


def quest(submission: Submission) -> Event:
    """The assessment as a `QuestInput`."""
    return {"questId": submission.assessment, "questTitle": f"{submission.kind} {submission.assessment}"}


def marking(submission: Submission) -> Event:
    """The marked assessment as a `QuestCompletedInput`; without a score there is no XP."""
    xp = {} if submission.score is None else {"xp": submission.score}
    return {**quest(submission), "pillar": submission.kind, **xp}


def seeded(*words: object) -> Random:
    """Chance that always falls the same for the same words."""
    return Random(" ".join(map(str, (SEED, *words))))  # noqa: S311 (nothing is kept secret by made-up hours)


def local(day: date, hour: time) -> datetime:
    """That hour in the learners' time zone, in UTC."""
    return datetime.combine(day, hour, ZoneInfo(TIME_ZONE)).astimezone(UTC)
