"""What may be kept of whom: nothing of a learner who lacks a consent, and of whoever objects to tracking only what the
platform needs."""

from datetime import datetime
from typing import NamedTuple
from uuid import uuid5
from zoneinfo import ZoneInfo

import msgspec

from models.age import birthday
from models.event import TrackedEvent
from models.taxonomy import Category, EventType, TutorSafetyFlag
from models.user import Subject, UserRole


class ConsentRule(NamedTuple):
    """Below which age a learner needs a consent, and whether one does whose birth date nobody knows."""

    age: int = 13
    unknown_age: bool = False

    def needs_consent(self, subject: Subject, now: datetime) -> bool:
        """Whether the subject is a learner below that age, in whole years on their own day."""
        if subject.role is not UserRole.STUDENT:
            return False
        if subject.birth_date is None:
            return self.unknown_age
        if now.year - subject.birth_date.year > self.age + 1:  # in every zone, and most are
            return False
        today = now.astimezone(ZoneInfo(subject.time_zone)).date()
        return today < birthday(subject.birth_date, self.age)

    def standing(self, subject: Subject, now: datetime) -> "Standing":
        """How the subject stands now."""
        lacks_consent = not subject.consented and self.needs_consent(subject, now)
        return Standing(lacks_consent, subject.objected) if lacks_consent or subject.objected else FREE


class Standing(NamedTuple):
    """What stands against keeping somebody's events."""

    lacks_consent: bool = False
    objects: bool = False
    was_erased: bool = False

    def refusal(self, kind: type[EventType]) -> str | None:
        """The contract's code where an event of this type may not be kept."""
        if self.was_erased:
            return "UNKNOWN_USER"
        if self.lacks_consent:
            return "CONSENT_REQUIRED"
        return "TRACKING_OBJECTED" if self.objects and not is_needed(kind) else None

    def kept(self, event: TrackedEvent) -> TrackedEvent:
        """An event that may be kept, as it may be: an error of somebody who objects without the person."""
        return without_person(event) if self.objects and event.kind.category is Category.ERROR else event


FREE = Standing()
USUAL = ConsentRule()
"""As the settings have it unless they say otherwise."""


def is_needed(kind: type[EventType]) -> bool:
    """Whether the platform needs events of this type also of those who object: milestones, sign-ins, safety flags, and
    errors."""
    return bool(kind.milestone) or kind.category in (Category.AUTH, Category.ERROR) or kind is TutorSafetyFlag


def without_person(event: TrackedEvent) -> TrackedEvent:
    """What went wrong, and when: under a device of its own that nobody has, so that nothing leads from one such error
    to another or to anybody. Of the same event it is always the same."""
    return msgspec.structs.replace(
        event,
        user_id=None,
        role=None,
        device_id=uuid5(event.event_id, "without the person"),  # the id itself may be a browser's
        page_path=None,
        page_title=None,
        referrer=None,
        user_agent=None,
        ip_address=None,
    )
