"""Every figure that comes out is the one that a slow recomputation finds, whatever way the events came in."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from models.viewer import Role
from questlog.demo.course import TIME_ZONE, Course
from questlog.demo.diary import events as diary
from tests import recomputation
from tests.histories import as_input, as_line, deliveries, histories, records
from tests.platform import SERVICE, Platform
from tests.recomputation import TAXONOMY, Event, History, differences
from workers.journey import import_milestones

ADMIN = (Role.ADMIN, "the admin")
QUESTION = """
query ($userId: ID!) {
  user(userId: $userId) {
    firstSeenAt lastSeenAt
    week: engagement(days: 7) { ...figures }
    engagement(days: 90) { ...figures }
    risk { score engagementLevel factors { name weight value } assessedAt model }
    counts: eventCounts(days: 90) { category count }
    journey {
      firstQuestDate totalQuestsStarted totalQuestsCompleted currentStreak badgesEarned timeOnPlatformHours
      favoritePillar xpByPillar { pillar xp } totalXp rhythm
      recentCompletions(first: 3) { questId questTitle completedAt xp pillar }
      milestones(first: 100) { nodes { kind occurredAt questId badgeId title xp pillar } }
    }
    sessions(first: 100) {
      nodes {
        startedAt endedAt isOpen durationMinutes pageViews events isBounce entryPath exitPath deviceType browser os
      }
    }
    events(first: 100) { nodes { eventId occurredAt sessionId } }
  }
}
fragment figures on Engagement {
  days activeDays visitDays sessions medianSessionMinutes timeOnPlatformHours logins
  questsViewed questsStarted questsCompleted questsAbandoned tasksCompleted badgesEarned
  completionRate currentStreak longestStreak lastActiveOn level
  daily { dates events activeMinutes questsCompleted xp }
}
"""
FIELDS = {kind["field"]: name for name, kind in TAXONOMY.items()}


@given(data=st.data())
@settings(
    max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
async def test_random_histories(platform: Platform, data: st.DataObject) -> None:
    now = datetime.now(UTC)
    sent = []
    for _ in range(10):
        history = data.draw(histories(now, holds_for=timedelta(minutes=2)))
        history = replace(history, user_id=f"learner-{uuid4()}", upserted_at=now)
        await platform.upsert({"userId": history.user_id, "role": "STUDENT", "timeZone": history.time_zone})
        history.imported.extend(data.draw(records(history, now)))
        batches = data.draw(deliveries(history))
        for batch in batches[: len(batches) // 2]:
            await deliver(platform, history.user_id, batch)
        await bring(platform, history)
        for batch in batches[len(batches) // 2 :]:
            await deliver(platform, history.user_id, batch)
        sent.append(history)
    await platform.settle()
    for history in sent:
        assert await wrong(platform, history) == []


async def test_some_of_the_course(platform: Platform) -> None:
    await send_in_order(platform, await asyncio.to_thread(course_of, "some", every=48))
    await send_shuffled(platform, await asyncio.to_thread(course_of, "some shuffled", every=48))


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_whole_course_in_order(platform: Platform) -> None:
    await send_in_order(platform, await asyncio.to_thread(course_of, "whole"))


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_whole_course_shuffled_repeated_and_split(platform: Platform) -> None:
    await send_shuffled(platform, await asyncio.to_thread(course_of, "whole shuffled"))


async def send_in_order(platform: Platform, course: dict[str, list[dict[str, Any]]]) -> None:
    """Send a course learner by learner, and compare its figures."""
    await enrol(platform, course)
    for events in course.values():
        await send(platform, events)
    await assert_right(platform, course)


async def send_shuffled(platform: Platform, course: dict[str, list[dict[str, Any]]]) -> None:
    """Send a course in no order, a tenth of it twice, in batches of any size, and compare its figures."""
    await enrol(platform, course)
    random = Random("shuffled")
    everything = [event for events in course.values() for event in events]
    everything += random.sample(everything, len(everything) // 10)
    random.shuffle(everything)
    while everything:
        size = random.randint(1, 500)
        await send(platform, everything[:size])
        everything = everything[size:]
    await assert_right(platform, course)


async def enrol(platform: Platform, course: dict[str, list[dict[str, Any]]]) -> None:
    """Make the course's learners known."""
    await platform.upsert(*({"userId": user, "role": "STUDENT", "timeZone": TIME_ZONE} for user in course))


async def deliver(platform: Platform, user_id: str, batch: Sequence[Event]) -> None:
    """Send a batch as a platform would: what is the learner's own with their token."""
    for from_service, asker in ((True, SERVICE), (False, (Role.STUDENT, user_id))):
        events = [as_input(event, user_id) for event in batch if event.from_service is from_service]
        for start in range(0, len(events), 500):
            taken = await platform.track(events[start : start + 500], asker)
            assert taken["userErrors"] == []


async def bring(platform: Platform, history: History) -> None:
    """Import the learner's record from before, twice."""
    file = b"\n".join(json.dumps(as_line(event, history.user_id)).encode() for event in history.imported)
    for _ in range(2):
        steps = import_milestones(
            platform.worker_engine, BytesIO(file), as_json=True, now=datetime.now(UTC), anonymize_after_days=90
        )
        assert [step.refused async for step in steps if step.refused] == []


async def send(platform: Platform, events: Sequence[dict[str, Any]]) -> None:
    """Send TrackEventInput objects as a SERVICE."""
    for start in range(0, len(events), 500):
        assert (await platform.track(events[start : start + 500]))["userErrors"] == []


def course_of(prefix: str, every: int = 1) -> dict[str, list[dict[str, Any]]]:
    """The demo's course up to yesterday, or every so manieth learner of it, under user ids that begin so.

    To be read in a thread: a worker that stands still for seconds takes Valkey for away.
    """
    course = Course.read(datetime.now(UTC).date() - timedelta(days=1))
    chosen = replace(course, learners=course.learners[::every])
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in diary(chosen):
        user_id = f"{prefix} {event['userId']}"
        found[user_id].append({**event, "userId": user_id})
    return found


async def assert_right(platform: Platform, course: dict[str, list[dict[str, Any]]]) -> None:
    """Every learner's figures are those recomputed from what was sent."""
    await platform.settle()
    for user_id, events in course.items():
        history = History(user_id, TIME_ZONE, datetime.now(UTC), [as_event(event) for event in events])
        assert await wrong(platform, history) == []


def as_event(sent: dict[str, Any]) -> Event:
    """A TrackEventInput of the course, as recomputation reads it."""
    ((field, payload),) = sent["event"].items()
    return Event(
        event_id=UUID(sent["eventId"]),
        occurred_at=datetime.fromisoformat(sent["occurredAt"]),
        type=FIELDS[field],
        data=payload,
        device_id=UUID(sent["deviceId"]) if "deviceId" in sent else None,
        from_service=True,
        page_path=sent["page"]["path"] if "page" in sent else None,
    )


async def wrong(platform: Platform, history: History) -> list[str]:
    """Where the platform's answers differ from the recomputation."""
    user = (await platform.data(QUESTION, ADMIN, userId=history.user_id))["user"]
    now = datetime.now(UTC)
    risk = recomputation.risk(history, datetime.fromisoformat(user["risk"]["assessedAt"]))
    level = {"level": risk["engagementLevel"]}
    journey = recomputation.journey(history, now, first=3)
    sessions = recomputation.sessions(history, now)
    events = recomputation.kept(history)
    return [
        *differences(recomputation.first_seen(history), user["firstSeenAt"], "firstSeenAt"),
        *differences(recomputation.last_seen(history), user["lastSeenAt"], "lastSeenAt"),
        *differences(recomputation.engagement(history, now, 7) | level, user["week"], "week"),
        *differences(recomputation.engagement(history, now, 90) | level, user["engagement"], "engagement"),
        *differences(risk, user["risk"], "risk"),
        *differences(recomputation.event_counts(history, now, 90), user["counts"], "counts"),
        *differences({**journey, "milestones": {"nodes": journey["milestones"][:100]}}, user["journey"], "journey"),
        *differences(in_order(sessions)[:100], in_order(user["sessions"]["nodes"]), "sessions"),
        *differences(
            [{"eventId": event.event_id, "occurredAt": event.occurred_at} for event in in_event_order(events)[:100]],
            [{key: event[key] for key in ("eventId", "occurredAt")} for event in user["events"]["nodes"]],
            "events",
        ),
        *differences(groups(history, in_event_order(events)[:100]), answered_groups(user), "sessions of events"),
    ]


def in_order(sessions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Newest first; of sessions that start together, on different devices, in an order that both sides share."""

    def key(session: dict[str, Any]) -> tuple[Any, ...]:
        times = [
            time if isinstance(time, datetime) else datetime.fromisoformat(time)
            for time in (session["startedAt"], session["endedAt"])
        ]
        return *times, session["events"], session["pageViews"], str(session["entryPath"]), session["deviceType"]

    return sorted(sessions, key=key, reverse=True)


def in_event_order(events: Sequence[Event]) -> list[Event]:
    """Newest first, as lists of events are read."""
    return sorted(events, key=lambda event: (event.occurred_at, event.event_id), reverse=True)


def groups(history: History, events: Sequence[Event]) -> list[list[int]]:
    """Which of the events share a session, by their places; first those that belong to none."""
    belongs = {
        (event.event_id, event.occurred_at): number
        for number, visit in enumerate(recomputation.visits_of(history))
        for event in recomputation.belonging(history, visit)
    }
    return _grouped([belongs.get((event.event_id, event.occurred_at)) for event in events])


def answered_groups(user: dict[str, Any]) -> list[list[int]]:
    """The same of an answer."""
    return _grouped([event["sessionId"] for event in user["events"]["nodes"]])


def _grouped(sessions: Sequence[object]) -> list[list[int]]:
    places: defaultdict[object, list[int]] = defaultdict(list)
    for place, session in enumerate(sessions):
        places[session].append(place)
    none = places.pop(None, [])
    return [none, *sorted(places.values())]
