"""What is sent in a run of chaos: histories of learners and of devices that nobody signed in on, in no order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from models.viewer import Role
from tests.histories import LEARNERS_OWN, SPREAD, ZONES, as_input, sendable
from tests.platform import BROWSER, SERVICE, Asker
from tests.recomputation import Event, History

EVENTS = 20_000
LEARNERS, DEVICES = 24, 6
HOLDS_FOR = timedelta(minutes=10)
SENT_AGAIN = 0.05
MOST_A_REQUEST = 80
SEALED_FOR = timedelta(days=120)

Payload = Callable[[Random], dict[str, Any]]


def _nothing(_random: Random) -> dict[str, Any]:
    return {}


def _quest(random: Random) -> dict[str, Any]:
    return {"questId": f"q{random.randrange(12)}"}


def _reward(random: Random) -> dict[str, Any]:
    return _quest(random) | {"xp": random.choice((5, 10, 50)), "pillar": random.choice(("art", "craft", "maths"))}


def _task(random: Random) -> dict[str, Any]:
    return {"taskId": f"t{random.randrange(30)}"}


def _exit(random: Random) -> dict[str, Any]:
    return {"visibleSeconds": random.choice((0.5, 9.75, 10, 300))}


STRANGERS: dict[str, Payload] = {
    "page_view": _nothing,
    "route_change": _nothing,
    "page_exit": _exit,
    "network_error": lambda _: {"message": "no answer"},
}
LEARNING: dict[str, Payload] = {
    **STRANGERS,
    "quest_viewed": _quest,
    "quest_started": _quest,
    "quest_abandoned": _quest,
    "quest_completed": _quest,
    "task_completed": _task,
    "tutor_message_sent": _nothing,
    "badge_claimed": lambda random: {"badgeId": f"b{random.randrange(5)}"},
    "login_success": _nothing,
    "logout": _nothing,
}
MARKING: dict[str, Payload] = {
    "quest_completed": _reward,
    "badge_earned": lambda random: {"badgeId": f"b{random.randrange(5)}", "xp": 20},
}


@dataclass(frozen=True)
class Sending:
    """One request: who sends which TrackEventInput objects. Sent alone, an event goes by `trackEvent`."""

    asker: Asker
    events: list[dict[str, Any]]


@dataclass(frozen=True)
class Load:
    """All that is sent. `withheld` are ids that no table of events may ever hold: sealed days, unknown users."""

    learners: list[History]
    devices: list[History]
    sendings: list[Sending]
    withheld: set[str]

    @property
    def ids(self) -> set[str]:
        """The ids of all events that are to be stored."""
        return {str(event.event_id) for history in [*self.learners, *self.devices] for event in history.events}


def load_of(seed: int, now: datetime) -> Load:
    """What a seed sends; no figure of it turns within ten minutes from `now`."""
    random = Random(f"load {seed}")
    each = EVENTS // (LEARNERS + DEVICES)
    learners = learners_of(random, now, LEARNERS, each)
    devices = [
        History("", "UTC", now, _events(random, now, each, STRANGERS, _uuid(random), LEARNERS_OWN))
        for _ in range(DEVICES)
    ]
    withheld = [
        as_input(Event(_uuid(random), at, "quest_started", {"questId": "q1"}, from_service=True), user_id)
        for at, user_id in [(now - SEALED_FOR, "learner 0")] * 40 + [(now - timedelta(hours=5), "nobody")] * 20
    ]
    return Load(
        learners,
        devices,
        list(_sendings(random, learners, devices, withheld)),
        {event["eventId"] for event in withheld},
    )


def learners_of(random: Random, now: datetime, number: int, events: int) -> list[History]:
    """So many learners in any time zone, each with so many events."""
    zones = [zone for zone in ZONES if _same_day(now, zone)]
    return [
        History(f"learner {index}", random.choice(zones), now, _events(random, now, events, LEARNING))
        for index in range(number)
    ]


def _same_day(now: datetime, zone: str) -> bool:
    return now.astimezone(ZoneInfo(zone)).date() == (now + HOLDS_FOR).astimezone(ZoneInfo(zone)).date()


def _events(
    random: Random,
    now: datetime,
    number: int,
    kinds: dict[str, Payload],
    device: UUID | None = None,
    back_to: timedelta = SPREAD,
) -> list[Event]:
    """So many events, in sittings on one device after the other."""
    own = [_uuid(random), _uuid(random), None]
    found: list[Event] = []
    while len(found) < number:
        at = _millisecond(now - random.uniform(0.01, 0.99) * random.choice((back_to, LEARNERS_OWN)))
        here = device or random.choice(own)
        for _ in range(random.randint(3, 40)):
            at += random.choice((timedelta(seconds=20), timedelta(minutes=4), timedelta(minutes=29, seconds=59)))
            by_service = now - at > LEARNERS_OWN or (device is None and random.random() < 0.3)
            among = MARKING if by_service and device is None and random.random() < 0.1 else kinds
            kind = random.choice(list(among))
            path = f"/quests/{random.randrange(9)}" if kind == "page_view" or random.random() < 0.2 else None
            event = Event(
                _uuid(random), at, kind, among[kind](random), here, by_service, path, None if by_service else BROWSER
            )
            if sendable(now, event, HOLDS_FOR) and not (device and by_service):
                found.append(event)
    return found[:number]


def _millisecond(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)


def _sendings(
    random: Random, learners: Sequence[History], devices: Sequence[History], withheld: Sequence[dict[str, Any]]
) -> Iterator[Sending]:
    """Every event once and some again, shuffled, in requests of any size, from whoever may send it."""
    by_asker: dict[Asker, list[dict[str, Any]]] = {SERVICE: list(withheld), None: []}
    for history in [*learners, *devices]:
        own: Asker = (Role.STUDENT, history.user_id) if history.user_id else None
        for event in history.events:
            sent = by_asker.setdefault(SERVICE if event.from_service else own, [])
            sent += [as_input(event, history.user_id)] * (1 + (random.random() < SENT_AGAIN))
    sendings = []
    for asker, events in by_asker.items():
        random.shuffle(events)
        while events:
            size = random.choice((1, random.randint(2, MOST_A_REQUEST)))
            sendings.append(Sending(asker, events[:size]))
            del events[:size]
    random.shuffle(sendings)
    yield from sendings
