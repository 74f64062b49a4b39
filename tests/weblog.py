"""A public site's access log as page views of today's visitors: `tests/data/SOURCE.md` says whose log it is."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from tests.recomputation import Event, History, page_path

DATA = Path(__file__).with_name("data")
COMBINED = re.compile(
    r'(?P<address>\S+) \S+ \S+ \[(?P<at>[^]]+)\] "(?P<method>\S+) (?P<target>\S+) [^"]*" (?P<status>\d+) \S+ '
    r'"(?P<referrer>[^"]*)" "(?P<user_agent>.*)"'
)
PAGES = {"", ".html", ".xhtml"}
"""What a page's name may end in; all else is an image, a script, a style sheet, a feed or a file to keep."""


@dataclass(frozen=True)
class Line:
    """One request of the log: `number` counts its lines from 0."""

    number: int
    address: str
    at: datetime
    method: str
    target: str
    status: int
    referrer: str | None
    user_agent: str

    @cached_property
    def device_id(self) -> UUID:
        """Who cannot be told apart by address and user agent is one device."""
        return uuid5(NAMESPACE_URL, f"{self.address} {self.user_agent}")

    @property
    def is_page(self) -> bool:
        """Whether somebody was shown a page: asked for, found (or found unchanged), and meant to be read."""
        path, _, query = self.target.partition("?")
        is_shown = self.method == "GET" and (200 <= self.status < 300 or self.status == 304)
        return is_shown and "flav=" not in query and (path.endswith("/") or PurePosixPath(path).suffix in PAGES)

    def event(self, later: timedelta) -> Event:
        """Its page view, so much later than it was."""
        event_id = uuid5(self.device_id, f"{self.number} {later}")
        return Event(event_id, self.at + later, "page_view", {}, self.device_id, page_path=self.target)

    def as_input(self, later: timedelta) -> dict[str, Any]:
        """Its page view as `TrackEventInput`."""
        event = self.event(later)
        return {
            "eventId": str(event.event_id),
            "occurredAt": event.occurred_at.isoformat(),
            "event": {"pageView": {}},
            "deviceId": str(self.device_id),
            "page": {"path": self.target, "referrer": self.referrer},
        }


def read() -> list[Line]:
    """All lines of the log, in its order."""
    with gzip.open(DATA / "weblog" / "access.log.gz", "rt") as log:
        return [_line(number, line.rstrip("\n")) for number, line in enumerate(log)]


def _line(number: int, line: str) -> Line:
    found = COMBINED.fullmatch(line)
    assert found, line
    at = datetime.strptime(found["at"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC)
    referrer = None if found["referrer"] == "-" else found["referrer"]
    status = int(found["status"])
    return Line(number, found["address"], at, found["method"], found["target"], status, referrer, found["user_agent"])


def until_yesterday(lines: Iterable[Line], today: date) -> timedelta:
    """By how many whole days these lines have to be moved to end on the UTC day before `today`."""
    return today - timedelta(days=1) - max(line.at for line in lines).date()


def histories(lines: Iterable[Line], later: timedelta) -> dict[UUID, History]:
    """What each device did, for the slow recomputation."""
    events: defaultdict[UUID, list[Event]] = defaultdict(list)
    for line in lines:
        events[line.device_id].append(line.event(later))
    known = datetime.combine(date.min, time(), UTC)
    return {device: History(str(device), "UTC", known, of_device) for device, of_device in events.items()}


def unique_users(histories: Iterable[History], days: Collection[date]) -> dict[str, int]:
    """Of each path, how many distinct subjects saw it on these UTC days."""
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for history in histories:
        for event in history.events:
            if event.occurred_at.date() in days:
                seen[page_path(event.page_path) or ""].add(history.user_id)
    return {path: len(subjects) for path, subjects in seen.items()}


def user_agents(name: str) -> list[dict[str, Any]]:
    """A kept list of user agents, each with what is known of it: `ua` is the text itself."""
    (path,) = (DATA / "useragents").glob(f"{name}.jsonl*")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]
