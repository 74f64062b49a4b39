"""Sessions: what one subject does on one device without a break of half an hour."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import fsum
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.taxonomy import EventType, PageExit, PageView, event_type

BREAK = timedelta(minutes=30)
LONGEST = timedelta(hours=24)
ENGAGED_SECONDS = 10


class UserSession(Base):
    """A session as it was derived. It is open before `open_until`, and closed from then on. `logout_id` is the event
    that ended it, where it is a logout."""

    __tablename__ = "user_sessions"

    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    session_id: Mapped[UUID] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime]
    open_until: Mapped[datetime]
    first_event_id: Mapped[UUID]
    logout_id: Mapped[UUID | None]
    device_id: Mapped[UUID | None]
    page_views: Mapped[int]
    events: Mapped[int]
    is_bounce: Mapped[bool | None]
    entry_path: Mapped[str | None]
    exit_path: Mapped[str | None]
    device_type: Mapped[str]
    browser: Mapped[str | None]
    os: Mapped[str | None]


class StoredEvent(NamedTuple):
    """What figures are derived from: an event without what only describes it."""

    event_id: UUID
    occurred_at: datetime
    event_type: str
    device_id: UUID | None
    from_service: bool
    page_path: str | None
    data: dict[str, Any]
    user_agent: str | None = None

    @property
    def kind(self) -> type[EventType]:
        """What the taxonomy says of its type."""
        return event_type(self.event_type)

    @property
    def is_on_device(self) -> bool:
        """Whether somebody sat before it: what a SERVICE tells without a device is no visit."""
        return not self.from_service or self.device_id is not None


def order(event: StoredEvent) -> tuple[datetime, bool, UUID]:
    """Events in their order: by time, what ends a session last, then by id."""
    return event.occurred_at, event.kind.ends_session, event.event_id


@dataclass
class Session:
    """A session while it is being found: from the event that opened it to its last one that is not passive."""

    first: StoredEvent
    last: StoredEvent
    open_until: datetime
    events: int = 0
    interactive: int = 0
    visible_seconds: list[float] = field(default_factory=list)
    views: list[StoredEvent] = field(default_factory=list)
    user_agent: str | None = None  # the first that one of its events that are not passive has

    @property
    def started_at(self) -> datetime:
        """Time of the event that opened it."""
        return self.first.occurred_at

    @property
    def ended_at(self) -> datetime:
        """Time of its last event that is not passive."""
        return self.last.occurred_at

    @property
    def is_bounce(self) -> bool | None:
        """Neither a second page view, nor an interactive event, nor ten visible seconds; None without a page view."""
        if not self.page_views:
            return None
        return self.page_views == 1 and not self.interactive and fsum(self.visible_seconds) < ENGAGED_SECONDS

    @property
    def page_views(self) -> int:
        """How many it has."""
        return len(self.views)

    @property
    def entry_path(self) -> str | None:
        """Of its first page view."""
        return self.views[0].page_path if self.views else None

    @property
    def exit_path(self) -> str | None:
        """Of its last page view."""
        return self.views[-1].page_path if self.views else None

    @property
    def first_views(self) -> dict[str | None, StoredEvent]:
        """The first view of each page in it, by path; the very first is where it was entered."""
        return {view.page_path: view for view in reversed(self.views)}

    def take(self, event: StoredEvent) -> None:
        """Something was done: it lasts to here, and stays open for a break more unless it grows too long."""
        self.last = event
        self.user_agent = self.user_agent or event.user_agent
        self.open_until = min(event.occurred_at + BREAK, self.started_at + LONGEST)
        self.count(event)

    def count(self, event: StoredEvent) -> None:
        """Take the event, which belongs to it, into its figures."""
        self.events += 1
        self.interactive += event.kind.interactive
        if event.kind is PageExit:
            self.visible_seconds.append(event.data["visibleSeconds"])
        if event.kind is PageView:
            self.views.append(event)

    def session_id(self, subject_key: UUID) -> UUID:
        """The same for the same subject, device and first event, however often it is derived."""
        first = self.first
        return uuid5(subject_key, f"{first.device_id} {first.event_id} {first.occurred_at.isoformat()}")


def find_sessions(events: Iterable[StoredEvent]) -> list[Session]:
    """The sessions of one subject's events, by start. The events may come in any order, but without repeats, and
    must be all that lie between two instants at which no session was open."""
    devices: defaultdict[UUID | None, list[StoredEvent]] = defaultdict(list)
    for event in sorted((event for event in events if event.is_on_device), key=order):
        devices[event.device_id].append(event)
    found = [session for of_device in devices.values() for session in _of_device(of_device)]
    return sorted(found, key=lambda session: (session.started_at, session.first.event_id))


def _of_device(events: Sequence[StoredEvent]) -> list[Session]:
    sessions: list[Session] = []
    current: Session | None = None
    for event in events:
        if current and event.occurred_at >= current.open_until:
            current = None
        kind = event.kind
        if not kind.passive:
            if current is None and kind.opens_session:
                current = Session(event, event, event.occurred_at)
                sessions.append(current)
            if current:
                current.take(event)
        if current and kind.ends_session:
            current.open_until = event.occurred_at
            current = None
    _count_passive(events, sessions)
    return sessions


def _count_passive(events: Sequence[StoredEvent], sessions: Sequence[Session]) -> None:
    """Those between start and end belong, both included: two sessions of a device never touch."""
    upcoming = iter(sessions)
    current = next(upcoming, None)
    for event in events:
        while current and event.occurred_at > current.ended_at:
            current = next(upcoming, None)
        if current and event.kind.passive and event.occurred_at >= current.started_at:
            current.count(event)


def quiet_before(times: Sequence[datetime], at: datetime, known_from: datetime) -> datetime | None:
    """The latest instant, not after `at`, that a break of half an hour comes before; None where what is known does
    not tell. `times` are those of the subject's visit events, in order, complete from `known_from` on."""
    for time in reversed([time for time in times if time < at]):
        if at - time >= BREAK:
            return at
        at = time
    return at if at - known_from >= BREAK else None


def quiet_after(times: Sequence[datetime], at: datetime, known_to: datetime) -> datetime | None:
    """The earliest instant, not before `at`, that a break of half an hour comes before and nothing at it; None where
    what is known does not tell. `times` are complete up to `known_to`, which is not included."""
    last = max((time for time in times if time < at), default=at - BREAK)
    for time in times:
        if time >= at:
            if time - last >= BREAK:
                break
            last = time
    quiet = max(at, last + BREAK)
    return quiet if quiet <= known_to else None
