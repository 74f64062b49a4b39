"""Random histories of one learner, crowded where the definitions have their edges, and ways of delivering them.

Every payload is valid under the taxonomy, and every event may be sent: what only a SERVICE may send, and what is older
than a learner's own events may be, comes from a SERVICE.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from models.event import TrackedEvent
from models.text import page_path
from models.user import UserRole
from tests.platform import BROWSER
from tests.recomputation import AGENTS, HALF_AN_HOUR, TAXONOMY, WHOLE_DAY, Event, History
from tests.recomputation import TITLES as TITLE_KEYS

ZONES = (
    "UTC",
    "America/New_York",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Pacific/Kiritimati",
)
SPREAD = timedelta(days=60)
LEARNERS_OWN = timedelta(days=6)
TICK = timedelta(milliseconds=1)
EDGES = (-TICK, timedelta(0), TICK)
SHORT_GAPS = (timedelta(0), TICK, timedelta(minutes=7))
GAPS = (
    *SHORT_GAPS * 3,
    *(HALF_AN_HOUR + edge for edge in EDGES),
    timedelta(hours=3),
    *(WHOLE_DAY + edge for edge in EDGES),
)
DEVICES = (UUID(int=0xD1), UUID(int=0xD2), None)

PATHS = st.sampled_from(("/", "/quests/q1", "/quests/q1/", "/badges?sort=new", "/tasks/7#hints"))
SENT_AGENTS = st.sampled_from(tuple(AGENTS))
PILLARS = st.sampled_from(("art", "craft", "maths", None))
XP = st.sampled_from((0, 5, 10, 1_000_000))
TITLES = st.sampled_from(("Maps", "Größe ✓"))
QUESTS = st.sampled_from(("q1", "q2", "q3", "q4", "q5", "q6", "q7"))
TASKS = st.sampled_from(("t1", "t2", "t3"))
BADGES = st.sampled_from(("b1", "b2"))
WORDS = st.just("said")
STACKS = tuple(
    "TypeError: no\n" + "\n".join(f"    at {name} (https://quests.example/app.js:{line}:7)" for name in names)
    for names in ("abcd", "abce", "abd")
    for line in (1, 20)
)
ERROR: dict[str, SearchStrategy[Any]] = {"message": st.sampled_from(("said", "waited 12 s", "waited 3.5 s"))}
FINGERPRINTS = st.sampled_from(("its own", "waited 12 s"))

PAYLOADS: dict[str, SearchStrategy[dict[str, Any]]] = {
    "PageViewInput": st.fixed_dictionaries({}, optional={"loadTimeMs": st.sampled_from((0, 900, 600_000))}),
    "RouteChangeInput": st.fixed_dictionaries({}, optional={"fromPath": PATHS}),
    "PageExitInput": st.fixed_dictionaries({"visibleSeconds": st.sampled_from((0, 0.25, 4.75, 5.0, 9.75, 10, 86_400))}),
    "QuestInput": st.fixed_dictionaries({"questId": QUESTS}, optional={"questTitle": TITLES}),
    "QuestCompletedInput": st.fixed_dictionaries(
        {"questId": QUESTS}, optional={"questTitle": TITLES, "xp": XP, "pillar": PILLARS}
    ),
    "TaskInput": st.fixed_dictionaries({"taskId": TASKS}, optional={"taskTitle": TITLES, "questId": QUESTS}),
    "TaskCompletedInput": st.fixed_dictionaries(
        {"taskId": TASKS}, optional={"taskTitle": TITLES, "questId": QUESTS, "xp": XP, "pillar": PILLARS}
    ),
    "EvidenceInput": st.fixed_dictionaries({}, optional={"taskId": TASKS, "questId": QUESTS}),
    "BadgeInput": st.fixed_dictionaries({"badgeId": BADGES}, optional={"badgeName": TITLES}),
    "BadgeEarnedInput": st.fixed_dictionaries(
        {"badgeId": BADGES}, optional={"badgeName": TITLES, "xp": XP, "pillar": PILLARS}
    ),
    "TutorInput": st.just({}),
    "TutorMessageInput": st.fixed_dictionaries({}, optional={"messageLength": st.just(12)}),
    "TutorSafetyFlagInput": st.just({"severity": "LOW", "reason": "self_harm"}),
    "ConnectionRequestInput": st.just({"recipientId": "somebody"}),
    "ConnectionAcceptedInput": st.just({"requesterId": "somebody"}),
    "ProfileViewedInput": st.just({"profileId": "somebody"}),
    "LoginSuccessInput": st.just({}),
    "LoginFailedInput": st.fixed_dictionaries({}, optional={"reason": WORDS}),
    "SessionEndInput": st.fixed_dictionaries({}, optional={"reason": WORDS}),
    "ParentDashboardInput": st.just({}),
    "JavascriptErrorInput": st.fixed_dictionaries(
        ERROR,
        optional={
            "stack": st.sampled_from(STACKS),
            "componentName": st.sampled_from(("Map", "List")),
            "fingerprint": FINGERPRINTS,
        },
    ),
    "ApiErrorInput": st.fixed_dictionaries(
        ERROR | {"endpoint": st.just("/api/quests"), "statusCode": st.sampled_from((404, 500))},
        optional={"fingerprint": FINGERPRINTS},
    ),
    "NetworkErrorInput": st.fixed_dictionaries(ERROR, optional={"endpoint": st.just("/api/quests")}),
    "CustomEventInput": st.just({"name": "map_drawn", "data": {"colours": 3}}),
}
OFTEN = (
    "page_view",
    "page_view",
    "page_exit",
    "logout",
    "session_expired",
    "network_error",
    "badge_earned",
    "quest_started",
    "quest_completed",
    "quest_abandoned",
    "task_completed",
)
TYPES = st.sampled_from(OFTEN * 3 + tuple(TAXONOMY))
BY_SERVICE_ALONE = {name for name, entry in TAXONOMY.items() if entry.get("serviceOnly")}


@cache
def clock_changes(zone: str, hour: datetime) -> tuple[datetime, ...]:
    """The instants of the 60 days before this hour at which the zone's clocks were put forward or back."""
    steps = [hour - half * HALF_AN_HOUR for half in range(SPREAD // HALF_AN_HOUR)]
    there = ZoneInfo(zone)
    return tuple(
        step
        for step in steps
        if step.astimezone(there).utcoffset() != (step - HALF_AN_HOUR).astimezone(there).utcoffset()
    )


@st.composite
def moments(draw: DrawFn, now: datetime, zone: str) -> datetime:
    """An instant of the last 60 days: anywhere, or about a local midnight, a change of clocks, or a limit near now."""
    days_ago = draw(st.integers(0, SPREAD.days - 1))
    day = (now - timedelta(days=days_ago)).astimezone(ZoneInfo(zone)).date()
    edges = [
        datetime.combine(day, time(0), ZoneInfo(zone)).astimezone(UTC),
        *clock_changes(zone, now.replace(minute=0, second=0, microsecond=0)),
        now - HALF_AN_HOUR,
        now - WHOLE_DAY,
    ]
    anywhere = now - timedelta(days=days_ago, milliseconds=draw(st.integers(0, 86_399_999)))
    return draw(st.sampled_from([anywhere, anywhere, *edges])) + draw(st.sampled_from(EDGES))


@st.composite
def happenings(
    draw: DrawFn, now: datetime, at: datetime, device_id: UUID | None, types: SearchStrategy[str] = TYPES
) -> Event:
    """One event of any type at this time."""
    kind = draw(types)
    data = draw(PAYLOADS[TAXONOMY[kind]["input"]])
    from_service = kind in BY_SERVICE_ALONE or "xp" in data or now - at > LEARNERS_OWN or draw(st.booleans())
    return Event(
        event_id=UUID(int=draw(st.one_of(st.integers(0, 3), st.integers(0, 2**128 - 1)))),
        occurred_at=at,
        type=kind,
        data=data,
        device_id=device_id,
        from_service=from_service,
        page_path=draw(PATHS if kind == "page_view" else st.one_of(st.none(), PATHS)),
        user_agent=draw(SENT_AGENTS) if from_service else BROWSER,
    )


@st.composite
def clusters(draw: DrawFn, now: datetime, zone: str) -> list[Event]:
    """Some events one after the other at telling distances, mostly on one device."""
    at, home = draw(moments(now, zone)), draw(st.sampled_from(DEVICES))
    events = []
    for gap in draw(st.lists(st.sampled_from(GAPS), min_size=2, max_size=14)):
        at += gap
        device = draw(st.sampled_from((home,) * 5 + DEVICES))
        events.append(draw(happenings(now, at, device)))
    return events


@st.composite
def marathons(draw: DrawFn, now: datetime, zone: str) -> list[Event]:
    """A device in use without a break until about 24 hours after its start."""
    start, device = draw(moments(now - WHOLE_DAY, zone)), draw(st.sampled_from(DEVICES[:2]))
    step = draw(st.sampled_from((HALF_AN_HOUR - TICK, timedelta(minutes=29, seconds=30))))
    rest = [
        Event(UUID(int=0xC0 + n), start + n * step, "route_change", {}, device, from_service=True) for n in range(49)
    ]
    last = [draw(happenings(now, start + WHOLE_DAY + edge, device)) for edge in draw(st.permutations(EDGES))]
    return rest + last


@st.composite
def terms(draw: DrawFn, now: datetime, zone: str) -> list[Event]:
    """Several quests started together, of which some are completed, before or after, or abandoned."""
    at = draw(moments(now, zone))
    events = []
    for quest in draw(st.lists(QUESTS, min_size=4, max_size=7, unique=True)):
        start = draw(happenings(now, at, None, st.just("quest_started")))
        events.append(replace(start, data={**start.data, "questId": quest}))
        outcome = draw(st.sampled_from(("quest_completed", "quest_abandoned", None)))
        if outcome is not None:
            end = draw(happenings(now, at + draw(st.sampled_from((*EDGES, WHOLE_DAY))), None, st.just(outcome)))
            events.append(replace(end, data={**end.data, "questId": quest}))
    return events


@st.composite
def habits(draw: DrawFn, now: datetime, zone: str) -> list[Event]:
    """Learning on days in a row, and on some more in a row before a day left out."""
    last = draw(st.one_of(st.just(now), moments(now, zone)))
    later, earlier = draw(st.integers(1, 3)), draw(st.integers(0, 5))
    learnt = st.sampled_from(("tutor_message_sent", "evidence_uploaded", "quest_started"))
    return [
        draw(happenings(now, last - timedelta(days=ago), draw(st.sampled_from(DEVICES)), learnt))
        for ago in (*range(later), *range(later + 1, later + 1 + earlier))
    ]


@st.composite
def records(draw: DrawFn, history: History, now: datetime) -> list[Event]:
    """Milestones to import, told as events: from years before, of the last days, and some of a tracked identity."""
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    kinds = st.sampled_from(sorted(name for name, entry in TAXONOMY.items() if "milestone" in entry))
    found = []
    for years in draw(st.lists(st.integers(0, 3), max_size=8)):
        at = draw(moments(now, history.time_zone)) - timedelta(days=365 * years)
        event = draw(happenings(now, min(at, now), None, kinds))
        if draw(st.booleans()) and history.events:
            twin = draw(st.sampled_from(history.events))
            event = replace(event, event_id=twin.event_id, occurred_at=twin.occurred_at)
        found.append(event)
    return found


def as_line(event: Event, user_id: str) -> dict[str, Any]:
    """The milestone as a line of a file to import."""
    title = next((event.data[name] for name in TITLE_KEYS if name in event.data), None)
    return {
        "userId": user_id,
        "kind": TAXONOMY[event.type]["milestone"],
        "occurredAt": event.occurred_at.isoformat(timespec="milliseconds"),
        "eventId": str(event.event_id),
        "title": title,
        **{name: event.data[name] for name in ("questId", "taskId", "badgeId", "xp", "pillar") if name in event.data},
    }


def sendable(now: datetime, event: Event, holds_for: timedelta) -> bool:
    """Whether it lies within the 60 days, and no figure turns because of it between `now` and `holds_for` later."""
    turning = (event.occurred_at + wait for wait in (HALF_AN_HOUR, WHOLE_DAY))
    return now - SPREAD <= event.occurred_at <= now and not any(now < turn <= now + holds_for for turn in turning)


@st.composite
def histories(draw: DrawFn, now: datetime, holds_for: timedelta = timedelta(0)) -> History:
    """A history of the 60 days that end `now`, in no order and each identity once.

    With `holds_for`, its figures are the same at every moment from `now` until that much later: for a real server,
    whose clock goes on. `user_id` is a stand-in: whoever stores the history gives it one of its own, and `upserted_at`
    likewise where the server sets it.
    """
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    lasting = [zone for zone in ZONES if _same_day(now, now + holds_for, zone)]
    zone = draw(st.sampled_from(lasting))
    parts = st.sampled_from([clusters] * 7 + [terms, habits, marathons]).flatmap(lambda part: part(now, zone))
    events: dict[tuple[UUID, datetime], Event] = {}
    for event in (event for part in draw(st.lists(parts, max_size=6)) for event in part):
        if sendable(now, event, holds_for):
            events.setdefault((event.event_id, event.occurred_at), event)
    upserted_at = draw(st.one_of(st.just(now), moments(now, zone), moments(now - timedelta(days=13), zone)))
    return History("learner", zone, min(now, upserted_at), list(events.values()))


def _same_day(one: datetime, other: datetime, zone: str) -> bool:
    return one.astimezone(ZoneInfo(zone)).date() == other.astimezone(ZoneInfo(zone)).date()


@st.composite
def deliveries(draw: DrawFn, history: History) -> list[list[Event]]:
    """All events of a history at least once, shuffled, some of them repeated, split over batches of any size."""
    again = draw(st.lists(st.sampled_from(history.events), max_size=10)) if history.events else []
    rest: Sequence[Event] = draw(st.permutations(history.events + again))
    batches = []
    while rest:
        size = draw(st.integers(1, len(rest)))
        batches.append(list(rest[:size]))
        rest = rest[size:]
    return batches


def as_input(event: Event, user_id: str) -> dict[str, Any]:
    """The event as `TrackEventInput`; `userId` stands in it where a SERVICE is to send it."""
    return {
        "eventId": str(event.event_id),
        "occurredAt": event.occurred_at.isoformat(timespec="milliseconds"),
        "event": {TAXONOMY[event.type]["field"]: event.data},
        **({"userId": user_id} if event.from_service else {}),
        **({"client": {"userAgent": event.user_agent}} if event.from_service and event.user_agent else {}),
        **({"deviceId": str(event.device_id)} if event.device_id else {}),
        **({"page": {"path": event.page_path}} if event.page_path else {}),
    }


def as_tracked(event: Event, user_id: str, role: UserRole | None = None) -> TrackedEvent:
    """The event as intake hands it to a worker, received as it happened."""
    custom = event.type == "custom"
    return TrackedEvent(
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        received_at=event.occurred_at,
        event_type=event.data["name"] if custom else event.type,
        user_id=user_id,
        role=role,
        from_service=event.from_service,
        data=orjson.dumps(event.data["data"] if custom else event.data).decode(),
        device_id=event.device_id,
        page_path=event.page_path and page_path(event.page_path),
        user_agent=event.user_agent,
    )
