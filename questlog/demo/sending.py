"""Sends a course as the platform's own server would: its people, their families, then every event."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from questlog.demo.api import Api, DemoError, Json
from questlog.demo.course import TIME_ZONE, Course
from questlog.demo.diary import Event, events

BATCH = 500
IN_FLIGHT = 6

UPSERT_USERS = """
mutation ($users: [UserInput!]!) {
  upsertUsers(input: {users: $users}) { userErrors { field code message } }
}
"""
LINK_GUARDIAN = """
mutation ($guardianId: ID!, $childId: ID!) {
  linkGuardian(input: {guardianId: $guardianId, childId: $childId}) { userErrors { field code message } }
}
"""
TRACK_EVENTS = """
mutation ($events: [TrackEventInput!]!) {
  trackEvents(input: {events: $events}) { accepted userErrors { field code message } }
}
"""


async def send(course: Course, service: Api, *, kept: Callable[[int], None]) -> None:
    """Send the whole course, calling `kept` with the number of events of each batch that the platform has kept.

    Sending it again changes nothing. Raises DemoError where anything is refused.
    """
    await send_people(course, service)
    await send_families(course, service)
    await send_events(events(course), service, kept=kept)


async def send_people(course: Course, service: Api) -> None:
    """The learners, and the parents that were made up for some; nobody has a name."""
    learners = [{"userId": learner.user_id, "role": "STUDENT", "timeZone": TIME_ZONE} for learner in course.learners]
    parents = [{"userId": parent, "role": "PARENT", "timeZone": TIME_ZONE} for parent in course.families]
    answer = await service.data(UPSERT_USERS, users=[*learners, *parents])
    refuse(answer["upsertUsers"]["userErrors"])


async def send_families(course: Course, service: Api) -> None:
    """Which parent is whose."""
    for parent, children in course.families.items():
        for child in children:
            answer = await service.data(LINK_GUARDIAN, guardianId=parent, childId=child.user_id)
            errors = answer["linkGuardian"]["userErrors"]
            refuse([error for error in errors if error["code"] != "ALREADY_DONE"])


async def send_events(stream: Iterable[Event], service: Api, *, kept: Callable[[int], None]) -> None:
    """All events, in batches of which several are under way at a time."""
    waiting = batches(stream)

    async def send_batches() -> None:
        for batch in waiting:
            answer = await service.data(TRACK_EVENTS, events=batch)
            refuse(answer["trackEvents"]["userErrors"])
            kept(answer["trackEvents"]["accepted"])

    await asyncio.gather(*(send_batches() for _ in range(IN_FLIGHT)))


def batches(stream: Iterable[Event]) -> Iterator[list[Event]]:
    """The events, as many together as one mutation takes."""
    events = iter(stream)
    while batch := list(islice(events, BATCH)):
        yield batch


def refuse(errors: list[Json]) -> None:
    """Raise DemoError for the first error, if any."""
    if errors:
        raise DemoError(f"the platform refused {errors[0]['field']}: {errors[0]['message']} ({errors[0]['code']})")
