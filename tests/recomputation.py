"""The figures of one learner, and of all together, recomputed from their events in the slowest and most obvious way.

It judges the project's own figures and shares no code with them: each function restates one of the definitions. Answers
have the contract's keys; instants are aware datetimes in UTC, days are dates in the learner's time zone. No event may
lie after `now`.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

TAXONOMY: dict[str, dict[str, Any]] = {
    entry["type"]: entry for entry in json.loads(Path(__file__).with_name("taxonomy.json").read_text())["events"]
}
CATEGORIES = ("NAVIGATION", "QUEST", "BADGE", "TUTOR", "COMMUNITY", "AUTH", "PARENT", "ERROR", "CUSTOM")
AGENTS: dict[str | None, tuple[str, str | None, str | None]] = {
    None: ("OTHER", None, None),
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0": ("DESKTOP", "Firefox", "Linux"),
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3"
    " Mobile/15E148 Safari/604.1": ("MOBILE", "Mobile Safari", "iOS"),
    "Mozilla/5.0 (Linux; Android 14; SM-X710) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36": (
        "TABLET",
        "Chrome",
        "Android",
    ),
}
"""User agents with what they tell, read by a person."""
ENDINGS = ("logout", "session_expired")
TITLES = ("questTitle", "taskTitle", "badgeName")
REWARDED = ("quest_completed", "task_completed", "badge_earned")

HALF_AN_HOUR = timedelta(minutes=30)
WHOLE_DAY = timedelta(hours=24)


@dataclass(frozen=True)
class Event:
    """One event as sent: `occurred_at` in UTC, to the millisecond; `data` with the contract's camelCase keys."""

    event_id: UUID
    occurred_at: datetime
    type: str
    data: dict[str, Any]
    device_id: UUID | None = None
    from_service: bool = False
    page_path: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True)
class History:
    """All that was ever sent of one learner, in the order it came.

    `upserted_at` is the earliest of their first upsert and first token. `imported` are the milestones from before the
    platform came, told as the events that would have made them.
    """

    user_id: str
    time_zone: str
    upserted_at: datetime
    events: list[Event]
    imported: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Visit:
    """A session: its non-passive events in order, and whether logout or expiry ended it."""

    active: list[Event]
    ended: bool

    @property
    def device_id(self) -> UUID | None:
        """The device it took place on; None stands for a signed-in user's events without one."""
        return self.active[0].device_id

    @property
    def start(self) -> datetime:
        """The time of its first non-passive event."""
        return self.active[0].occurred_at

    @property
    def end(self) -> datetime:
        """The time of its last non-passive event."""
        return self.active[-1].occurred_at


# ------------------------------------------------------------------------------------------ events and days


def passive(event: Event) -> bool:
    """The taxonomy's flag: it neither opens nor extends a session, and makes no visit day."""
    return bool(TAXONOMY[event.type]["passive"])


def interactive(event: Event) -> bool:
    """The taxonomy's flag: with it, a session does not bounce."""
    return bool(TAXONOMY[event.type]["interactive"])


def learning(event: Event) -> bool:
    """The taxonomy's flag: it makes an active day."""
    return bool(TAXONOMY[event.type]["learning"])


def opens(event: Event) -> bool:
    """A session opens with a non-passive event, but for those of the taxonomy with `opensSession` false."""
    return not passive(event) and TAXONOMY[event.type].get("opensSession", True)


def without_visit(event: Event) -> bool:
    """From a SERVICE without `deviceId`: makes no session and no visit day; all else it makes."""
    return event.from_service and event.device_id is None


def order(event: Event) -> tuple[datetime, bool, UUID]:
    """By event time, then `logout` and `session_expired` last, then `eventId`."""
    return event.occurred_at, event.type in ENDINGS, event.event_id


def kept(history: History) -> list[Event]:
    """Each identity (`eventId` and `occurredAt`) once, with the first payload that came, in the definitions' order."""
    firsts: dict[tuple[UUID, datetime], Event] = {}
    for event in history.events:
        firsts.setdefault((event.event_id, event.occurred_at), event)
    return sorted(firsts.values(), key=order)


def record(history: History) -> list[Event]:
    """The milestones, in order: imported ones and those that follow from events.

    They count for journey, quest counts and XP, not for active days. Of one identity the first imported one counts.
    """
    milestones: dict[tuple[UUID, datetime], Event] = {}
    for event in [*history.imported, *kept(history)]:
        if "milestone" in TAXONOMY[event.type]:
            milestones.setdefault((event.event_id, event.occurred_at), event)
    return sorted(milestones.values(), key=order)


def local_day(history: History, instant: datetime) -> date:
    """The calendar day of an instant in the learner's own time zone."""
    return instant.astimezone(ZoneInfo(history.time_zone)).date()


def last_days(history: History, now: datetime, days: int) -> list[date]:
    """The last N local calendar days, today included, oldest first."""
    today = local_day(history, now)
    return [today - timedelta(days=ago) for ago in reversed(range(days))]


def events_on(history: History, days: Iterable[date]) -> list[Event]:
    """All events of these local days, in order."""
    wanted = set(days)
    return [event for event in kept(history) if local_day(history, event.occurred_at) in wanted]


def record_of(history: History, days: Iterable[date]) -> list[Event]:
    """The milestones of these local days, in order."""
    wanted = set(days)
    return [event for event in record(history) if local_day(history, event.occurred_at) in wanted]


def first_seen(history: History) -> datetime | None:
    """The earliest event time."""
    return min((event.occurred_at for event in history.events), default=None)


def last_seen(history: History) -> datetime | None:
    """The latest event time."""
    return max((event.occurred_at for event in history.events), default=None)


def known_since(history: History) -> datetime:
    """The earliest of first upsert, first token and earliest event."""
    return min([history.upserted_at, *(event.occurred_at for event in history.events)])


# ------------------------------------------------------------------------------------------ sessions


def page_path(sent: str | None) -> str | None:
    """Without query and fragment, no trailing slash (but `/`), at most 512 characters."""
    if sent is None:
        return None
    path = sent.split("#")[0].split("?")[0][:512]
    return path.rstrip("/") or "/"


def visits_of_device(events: list[Event]) -> list[Visit]:
    """The sessions of one device, oldest first, from its events in order.

    A session opens with the first non-passive event (`page_exit`, `logout` and `session_expired` open none). It ends
    when the next non-passive event comes 30 minutes or more after the last, at 24 hours, or with `logout` or
    `session_expired`. `session_expired` is passive: it ends the session without extending it.
    """
    rest = [event for event in events if not passive(event) or event.type in ENDINGS]
    visits = []
    while any(opens(event) for event in rest):
        first = next(event for event in rest if opens(event))
        active, ended = [first], False
        for event in rest[rest.index(first) + 1 :]:
            too_late = event.occurred_at - active[-1].occurred_at >= HALF_AN_HOUR
            too_long = event.occurred_at - first.occurred_at >= WHOLE_DAY
            if too_late or too_long:
                break
            if not passive(event):
                active.append(event)
            if event.type in ENDINGS:
                ended = True
                break
        visits.append(Visit(active, ended))
        rest = [event for event in rest if order(event) > order(active[-1])]
    return visits


def visits_of(history: History) -> list[Visit]:
    """The sessions of all devices, newest first; events without `deviceId` are one device more, but not a SERVICE's.

    Where two devices' sessions start at once, the one whose first event is later in the definitions' order comes first.
    """
    events = [event for event in kept(history) if not without_visit(event)]
    visits = []
    for device in {event.device_id for event in events}:
        visits += visits_of_device([event for event in events if event.device_id == device])
    return sorted(visits, key=lambda visit: order(visit.active[0]), reverse=True)


def belonging(history: History, visit: Visit) -> list[Event]:
    """A session's non-passive events, and that device's passive events from its start to its end, both included."""
    return [
        event
        for event in kept(history)
        if event.device_id == visit.device_id
        and not without_visit(event)
        and (event in visit.active if not passive(event) else visit.start <= event.occurred_at <= visit.end)
    ]


def is_open(visit: Visit, now: datetime) -> bool:
    """Until 30 minutes after its last non-passive event, unless logout, expiry or the 24 hours ended it."""
    return not visit.ended and now < visit.end + HALF_AN_HOUR and now < visit.start + WHOLE_DAY


def minutes(visit: Visit) -> float:
    """From its first to its last non-passive event; while open it counts so far."""
    return (visit.end - visit.start) / timedelta(minutes=1)


def is_bounce(events: list[Event]) -> bool | None:
    """Has a page view, and neither two page views, nor an interactive event, nor 10 s of `visibleSeconds` in all.

    Null without a page view.
    """
    views = [event for event in events if event.type == "page_view"]
    visible = math.fsum(event.data["visibleSeconds"] for event in events if event.type == "page_exit")
    if not views:
        return None
    return len(views) == 1 and not any(interactive(event) for event in events) and visible < 10


def sessions(history: History, now: datetime) -> list[dict[str, Any]]:
    """The contract's `Session`, beside it `deviceId` and `eventIds`; newest first.

    Its user agent is the first that one of its non-passive events has.
    """
    answer = []
    for visit in visits_of(history):
        events = belonging(history, visit)
        views = [event for event in events if event.type == "page_view"]
        agent = next((event.user_agent for event in visit.active if event.user_agent), None)
        device_type, browser, system = AGENTS[agent]
        answer.append(
            {
                "startedAt": visit.start,
                "endedAt": visit.end,
                "isOpen": is_open(visit, now),
                "durationMinutes": minutes(visit),
                "pageViews": len(views),
                "events": len(events),
                "isBounce": is_bounce(events),
                "entryPath": page_path(views[0].page_path) if views else None,
                "exitPath": page_path(views[-1].page_path) if views else None,
                "deviceType": device_type,
                "browser": browser,
                "os": system,
                "deviceId": visit.device_id,
                "eventIds": [event.event_id for event in events],
            }
        )
    return answer


def session_of(history: History, event: Event) -> tuple[UUID | None, datetime] | None:
    """The session an event belongs to, told by its device and start; None where it belongs to none.

    Two events have the same `sessionId` just where this is the same and not None.
    """
    for visit in visits_of(history):
        if event in belonging(history, visit):
            return visit.device_id, visit.start
    return None


# ------------------------------------------------------------------------------------------ days and streaks


def visit_days(history: History) -> list[date]:
    """Local days with a non-passive event, oldest first."""
    visiting = [event for event in kept(history) if not passive(event) and not without_visit(event)]
    return sorted({local_day(history, event.occurred_at) for event in visiting})


def active_days(history: History) -> list[date]:
    """Local days with a learning event, oldest first."""
    return sorted({local_day(history, event.occurred_at) for event in kept(history) if learning(event)})


def run_ending(days: list[date], last: date) -> int:
    """How many consecutive days of these end with `last`."""
    length = 0
    while last - timedelta(days=length) in days:
        length += 1
    return length


def current_streak(history: History, now: datetime) -> int:
    """Consecutive active days that end today or yesterday; else 0."""
    today = local_day(history, now)
    days = active_days(history)
    return run_ending(days, today) or run_ending(days, today - timedelta(days=1))


def longest_streak(history: History) -> int:
    """The most consecutive active days, over all time."""
    days = active_days(history)
    return max((run_ending(days, day) for day in days), default=0)


def enough_data(history: History, now: datetime) -> bool:
    """Not while fewer than 14 local dates have passed since *known since*."""
    return (local_day(history, now) - local_day(history, known_since(history))).days >= 14


def rhythm(history: History, now: datetime) -> str:
    """`NOT_ENOUGH_DATA` while fewer than 14 local dates have passed since *known since*.

    Else `GREEN` with 2 or more active days among the last 7 local days; else `YELLOW`.
    """
    if not enough_data(history, now):
        return "NOT_ENOUGH_DATA"
    recent = [day for day in active_days(history) if day in last_days(history, now, 7)]
    return "GREEN" if len(recent) >= 2 else "YELLOW"


# ------------------------------------------------------------------------------------------ quests and XP


def distinct(events: Iterable[Event], kind: str, key: str) -> set[str]:
    """The distinct ids under `key` in the events of this type."""
    return {event.data[key] for event in events if event.type == kind}


def xp_of(event: Event) -> int:
    """Its `xp`, where it is `quest_completed`, `task_completed` or `badge_earned`; else, and where it has none, 0."""
    return (event.data.get("xp") or 0) if event.type in REWARDED else 0


def completion_rate(history: History, window: list[date], fewest_starts: int = 5) -> float | None:
    """Of the distinct quests started in the window, the share completed by now, after their first start in the window.

    Abandoned ones stay in the denominator. Null under 5 starts; for risk, from 1 start on.
    """
    firsts: dict[str, Event] = {}
    for event in record_of(history, window):
        if event.type == "quest_started":
            firsts.setdefault(event.data["questId"], event)
    if len(firsts) < fewest_starts:
        return None
    completions = [event for event in record(history) if event.type == "quest_completed"]
    completed = [
        quest
        for quest, start in firsts.items()
        if any(event.data["questId"] == quest and order(event) > order(start) for event in completions)
    ]
    return len(completed) / len(firsts)


def xp_by_pillar(history: History) -> list[dict[str, Any]]:
    """Most first, ties by name; a missing `pillar` adds to the total only, and a pillar without XP has no row."""
    rewarded = [event for event in record(history) if xp_of(event) > 0 and event.data.get("pillar") is not None]
    totals = {
        pillar: sum(xp_of(event) for event in rewarded if event.data["pillar"] == pillar)
        for pillar in {event.data["pillar"] for event in rewarded}
    }
    ranked = sorted(totals, key=lambda pillar: (-totals[pillar], pillar))
    return [{"pillar": pillar, "xp": totals[pillar]} for pillar in ranked]


def milestones(history: History) -> list[dict[str, Any]]:
    """Newest first; a milestone is one event, also where a quest is completed twice."""
    return [
        {
            "kind": TAXONOMY[event.type]["milestone"],
            "occurredAt": event.occurred_at,
            "questId": event.data.get("questId"),
            "badgeId": event.data.get("badgeId"),
            "title": next((event.data[key] for key in TITLES if key in event.data), None),
            "xp": xp_of(event),
            "pillar": event.data.get("pillar"),
        }
        for event in reversed(record(history))
    ]


def recent_completions(history: History, first: int = 5) -> list[dict[str, Any]]:
    """The newest completed quests, newest first."""
    completions = [event for event in reversed(record(history)) if event.type == "quest_completed"]
    return [
        {
            "questId": event.data["questId"],
            "questTitle": event.data.get("questTitle"),
            "completedAt": event.occurred_at,
            "xp": xp_of(event),
            "pillar": event.data.get("pillar"),
        }
        for event in completions[:first]
    ]


# ------------------------------------------------------------------------------------------ the questions


def engagement(history: History, now: datetime, days: int = 30) -> dict[str, Any]:
    """The contract's `Engagement` but for `level`, over the last `days` local days.

    Streaks and the last active day are over all time. A session and its minutes belong to the local day on which it
    opened.
    """
    window = last_days(history, now, days)
    events, milestones = events_on(history, window), record_of(history, window)
    visits = [visit for visit in visits_of(history) if local_day(history, visit.start) in window]
    closed = [minutes(visit) for visit in visits if not is_open(visit, now)]
    return {
        "days": days,
        "activeDays": len([day for day in active_days(history) if day in window]),
        "visitDays": len([day for day in visit_days(history) if day in window]),
        "sessions": len(visits),
        "medianSessionMinutes": median(closed) if closed else None,
        "timeOnPlatformHours": math.fsum(minutes(visit) for visit in visits) / 60,
        "logins": len([event for event in events if event.type == "login_success"]),
        "questsViewed": len(distinct(events, "quest_viewed", "questId")),
        "questsStarted": len(distinct(milestones, "quest_started", "questId")),
        "questsCompleted": len(distinct(milestones, "quest_completed", "questId")),
        "questsAbandoned": len(distinct(milestones, "quest_abandoned", "questId")),
        "tasksCompleted": len(distinct(milestones, "task_completed", "taskId")),
        "badgesEarned": len(distinct(milestones, "badge_earned", "badgeId")),
        "completionRate": completion_rate(history, window),
        "currentStreak": current_streak(history, now),
        "longestStreak": longest_streak(history),
        "lastActiveOn": max(active_days(history), default=None),
        "daily": daily(history, window),
    }


def daily(history: History, window: list[date]) -> dict[str, list[Any]]:
    """Columns with one entry a local day, oldest first, no gaps."""
    visits = visits_of(history)
    record = record_of(history, window)
    milestones = [[event for event in record if local_day(history, event.occurred_at) == day] for day in window]
    return {
        "dates": window,
        "events": [len(events_on(history, [day])) for day in window],
        "activeMinutes": [
            math.fsum(minutes(visit) for visit in visits if local_day(history, visit.start) == day) for day in window
        ],
        "questsCompleted": [len(distinct(events, "quest_completed", "questId")) for events in milestones],
        "xp": [sum(xp_of(event) for event in events) for events in milestones],
    }


def journey(history: History, now: datetime, first: int = 5) -> dict[str, Any]:
    """The contract's `LearningJourney`, over all time; `first` is how many recent completions are asked for."""
    events = record(history)
    by_pillar = xp_by_pillar(history)
    starts = [event.occurred_at for event in events if event.type == "quest_started"]
    return {
        "firstQuestDate": local_day(history, starts[0]) if starts else None,
        "totalQuestsStarted": len(distinct(events, "quest_started", "questId")),
        "totalQuestsCompleted": len(distinct(events, "quest_completed", "questId")),
        "currentStreak": current_streak(history, now),
        "badgesEarned": len(distinct(events, "badge_earned", "badgeId")),
        "timeOnPlatformHours": math.fsum(minutes(visit) for visit in visits_of(history)) / 60,
        "favoritePillar": by_pillar[0]["pillar"] if by_pillar else None,
        "xpByPillar": by_pillar,
        "totalXp": sum(xp_of(event) for event in events),
        "rhythm": rhythm(history, now),
        "recentCompletions": recent_completions(history, first),
        "milestones": milestones(history),
    }


def event_counts(history: History, now: datetime, days: int = 30) -> list[dict[str, Any]]:
    """All events of the last `days` local days by category, categories without any included, in the enum's order."""
    categories = [
        TAXONOMY[event.type]["category"].upper() for event in events_on(history, last_days(history, now, days))
    ]
    return [{"category": category, "count": categories.count(category)} for category in CATEGORIES]


# ------------------------------------------------------------------------------------------ dropout risk

WEIGHTS = {
    "DAYS_INACTIVE": Fraction("0.40"),
    "LOGIN_FREQUENCY": Fraction("0.25"),
    "QUEST_COMPLETION": Fraction("0.20"),
    "SESSION_DURATION": Fraction("0.10"),
    "STREAK": Fraction("0.05"),
}


def risk_values(history: History, now: datetime, days: int) -> dict[str, Fraction]:
    """The factors, clamped to 0..1, without those that are null."""
    window = last_days(history, now, days)
    last_sign = max(visit_days(history), default=local_day(history, known_since(history)))
    visits = [day for day in visit_days(history) if day in window]
    rate = completion_rate(history, window, fewest_starts=1)
    closed = [
        Fraction((visit.end - visit.start) // timedelta(milliseconds=1), 20 * 60 * 1000)
        for visit in visits_of(history)
        if local_day(history, visit.start) in window and not is_open(visit, now)
    ]
    values = {
        "DAYS_INACTIVE": Fraction((local_day(history, now) - last_sign).days, 14),
        "LOGIN_FREQUENCY": 1 - len(visits) / (days * Fraction(3, 7)),
        "QUEST_COMPLETION": None if rate is None else 1 - Fraction(rate).limit_denominator(10_000),
        "SESSION_DURATION": 1 - median(closed) if closed else None,
        "STREAK": 1 - Fraction(current_streak(history, now), 7),
    }
    return {name: min(max(value, Fraction(0)), Fraction(1)) for name, value in values.items() if value is not None}


def risk(history: History, now: datetime, days: int = 30) -> dict[str, Any]:
    """The contract's `RiskAssessment` but for the evidence, over the last `days` local days, as of `now`."""
    values = risk_values(history, now, days)
    score = sum(WEIGHTS[name] * value for name, value in values.items()) / sum(WEIGHTS[name] for name in values)
    return {
        "score": float(score) if enough_data(history, now) else None,
        "engagementLevel": risk_level(score) if enough_data(history, now) else None,
        "factors": [
            {"name": name, "weight": float(weight), "value": float(values[name]) if name in values else None}
            for name, weight in WEIGHTS.items()
        ],
        "assessedAt": now,
        "model": "seed-weights-1",
    }


def risk_level(score: Fraction | float) -> str:
    """`HIGH` [0, 0.3), `MEDIUM` [0.3, 0.6), `LOW` [0.6, 0.8), `AT_RISK` [0.8, 1]."""
    if score < Fraction("0.3"):
        return "HIGH"
    if score < Fraction("0.6"):
        return "MEDIUM"
    return "LOW" if score < Fraction("0.8") else "AT_RISK"


def at_risk(histories: Iterable[History], now: datetime, days: int, threshold: float) -> list[str]:
    """Of these students, who have a score from the threshold up, and visited or became known within the last 90 days:
    highest first, then by user id."""
    found = []
    for history in histories:
        score = risk(history, now, days)["score"]
        signs = [*visit_days(history), local_day(history, known_since(history))]
        if score is not None and score >= threshold and set(signs) & set(last_days(history, now, 90)):
            found.append((-score, history.user_id))
    return [user_id for _, user_id in sorted(found)]


# ------------------------------------------------------------------------------------------ the platform


def last_utc_days(now: datetime, days: int) -> list[date]:
    """The last N UTC days, today included, oldest first."""
    return [now.astimezone(UTC).date() - timedelta(days=ago) for ago in reversed(range(days))]


def utc_day(event: Event) -> date:
    """The UTC day of an event."""
    return event.occurred_at.astimezone(UTC).date()


def nobody_told_apart(now: datetime, days: int) -> bool:
    """The window reaches past the horizon: a figure that needs people told apart is null."""
    return last_utc_days(now, days)[0] < horizon(now).date()


def of_type(history: History, window: list[date], *kinds: str) -> list[Event]:
    """The events of these types on these UTC days, in order."""
    return [event for event in kept(history) if event.type in kinds and utc_day(event) in window]


def at_rank(values: list[float], quantile: float) -> float | None:
    """The value that stands there among all in order; of two in the middle, the lower."""
    return sorted(values)[int(quantile * (len(values) - 1))] if values else None


def page_views(histories: list[History], now: datetime, days: int) -> list[dict[str, Any]]:
    """The contract's `pageViews`, each history another subject; load times as they are, without a sketch."""
    window = last_utc_days(now, days)
    visits = [
        ([event for event in visit.active if event.type == "page_view"], is_bounce(belonging(history, visit)))
        for history in histories
        for visit in visits_of(history)
    ]
    views = [(number, event) for number, one in enumerate(histories) for event in of_type(one, window, "page_view")]
    exits = [event for one in histories for event in of_type(one, window, "page_exit")]
    answer = []
    for path in {page_path(event.page_path) for _, event in views}:
        mine = [(number, event) for number, event in views if page_path(event.page_path) == path]
        loads = [event.data["loadTimeMs"] for _, event in mine if "loadTimeMs" in event.data]
        seconds = [event.data["visibleSeconds"] for event in exits if page_path(event.page_path) == path]
        firsts = [[event for event in seen if page_path(event.page_path) == path][:1] for seen, _ in visits]
        entered = [
            bounced
            for seen, bounced in visits
            if seen and page_path(seen[0].page_path) == path and utc_day(seen[0]) in window
        ]
        answer.append(
            {
                "path": path,
                "views": len(mine),
                "uniqueUsers": None if nobody_told_apart(now, days) else len({number for number, _ in mine}),
                "sessions": len([event for first in firsts for event in first if utc_day(event) in window]),
                "bounceRate": entered.count(True) / len(entered) if entered else None,
                "medianLoadTimeMs": at_rank(loads, 0.5),
                "p95LoadTimeMs": at_rank(loads, 0.95),
                "medianTimeOnPageSeconds": median(seconds) if seconds else None,
                "daily": {
                    "dates": window,
                    "views": [len([event for _, event in mine if utc_day(event) == day]) for day in window],
                    "uniqueUsers": [
                        None
                        if day < horizon(now).date()
                        else len({number for number, event in mine if utc_day(event) == day})
                        for day in window
                    ],
                },
            }
        )
    return sorted(answer, key=lambda page: (-page["views"], page["path"]))


def last_title(histories: list[History], key: str, name: str, title: str, kinds: tuple[str, ...]) -> str | None:
    """The title last sent with these types of event, by UTC day; of two on one day the greater."""
    sent = [
        (utc_day(event), event.data[title])
        for history in histories
        for event in kept(history)
        if event.type in kinds and event.data[key] == name and title in event.data
    ]
    return max(sent)[1] if sent else None


def popular_quests(histories: list[History], now: datetime, days: int) -> list[dict[str, Any]]:
    """The contract's `popularQuests`, all of them."""
    window, kinds = last_utc_days(now, days), ("quest_viewed", "quest_started", "quest_completed")
    found = [of_type(history, window, *kinds) for history in histories]
    answer = []
    for quest in {event.data["questId"] for events in found for event in events}:
        by_subject = [[event for event in events if event.data["questId"] == quest] for events in found]
        views, starts, completions = (
            len([event for events in by_subject for event in events if event.type == kind]) for kind in kinds
        )
        outcomes = []
        for events in by_subject:
            started = [event for event in events if event.type == "quest_started"]
            if started:
                after = [event for event in events if order(event) > order(started[0])]
                outcomes.append(any(event.type == "quest_completed" for event in after))
        unknown = nobody_told_apart(now, days) or not outcomes
        answer.append(
            {
                "questId": quest,
                "questTitle": last_title(histories, "questId", quest, "questTitle", kinds),
                "views": views,
                "starts": starts,
                "completions": completions,
                "completionRate": None if unknown else outcomes.count(True) / len(outcomes),
                "popularity": views + 2 * starts + 5 * completions,
            }
        )
    return sorted(answer, key=lambda row: (-row["popularity"], row["questId"]))


def popular_badges(histories: list[History], now: datetime, days: int) -> list[dict[str, Any]]:
    """The contract's `popularBadges`, all of them."""
    window, kinds = last_utc_days(now, days), ("badge_viewed", "badge_claimed", "badge_earned")
    found = [of_type(history, window, *kinds) for history in histories]
    answer = []
    for badge in {event.data["badgeId"] for events in found for event in events}:
        by_subject = [[event.type for event in events if event.data["badgeId"] == badge] for events in found]
        views, claims, earned = (sum(types.count(kind) for types in by_subject) for kind in kinds)
        outcomes = ["badge_claimed" in types for types in by_subject if "badge_viewed" in types]
        unknown = nobody_told_apart(now, days) or not outcomes
        answer.append(
            {
                "badgeId": badge,
                "badgeName": last_title(histories, "badgeId", badge, "badgeName", kinds),
                "views": views,
                "claims": claims,
                "earned": earned,
                "claimRate": None if unknown else outcomes.count(True) / len(outcomes),
            }
        )
    return sorted(answer, key=lambda row: (-row["claims"], row["badgeId"]))


def same_error(event: Event) -> tuple[object, ...]:
    """What errors of one group have in common; of the texts in these histories numbers alone change."""
    data = event.data
    if "fingerprint" in data:
        return (data["fingerprint"],)
    if "stack" in data:
        top = [line for line in data["stack"].splitlines() if line.startswith("    at ")][:3]
        return (event.type, data.get("componentName"), *(line.rpartition("(")[0] for line in top))
    words = [re.sub(r"[0-9.]+", "#", data.get(text, "")) for text in ("endpoint", "message")]
    return (event.type, data.get("statusCode"), *words)


def errors(histories: list[History], now: datetime, days: int, error_type: str | None = None) -> dict[str, Any]:
    """The contract's `errors`; its groups by what their errors have in common, in no order."""
    kinds = ("javascript_error", "api_error", "network_error")
    wanted = [kind for kind in kinds if error_type in (None, kind.upper())]
    every = [(number, event) for number, one in enumerate(histories) for event in kept(one) if event.type in kinds]
    chosen = [(number, event) for number, event in every if event.type in wanted]
    recent = [(number, event) for number, event in chosen if utc_day(event) in last_utc_days(now, days)]
    groups = []
    for same in {same_error(event) for _, event in recent}:
        mine = [(number, event) for number, event in recent if same_error(event) == same]
        ever = [event.occurred_at for _, event in every if same_error(event) == same]
        latest = max((event for _, event in mine), key=lambda event: (event.occurred_at, event.event_id))
        groups.append(
            {
                "errorType": latest.type.upper(),
                "message": latest.data["message"],
                "count": len(mine),
                "usersAffected": None if nobody_told_apart(now, days) else len({number for number, _ in mine}),
                "firstSeen": min(ever),
                "lastSeen": max(ever),
                "sample": {"occurredAt": latest.occurred_at, "message": latest.data["message"]},
            }
        )
    counts = [{"errorType": kind.upper(), "count": sum(event.type == kind for _, event in recent)} for kind in wanted]
    return {"totalErrors": len(recent), "countsByType": counts, "groups": groups}


# ------------------------------------------------------------------------------------------ sealed days


def horizon(now: datetime, anonymize_after_days: int = 90) -> datetime:
    """Monday 00:00 UTC of the oldest week whose Monday will be under 90 times 24 h old at the next 02:00 UTC.

    That is so whether or not there are events. At 02:00 sharp the next one is tomorrow's.
    """
    nights = [datetime.combine(now.date() + timedelta(days=ahead), time(2), UTC) for ahead in (0, 1)]
    tonight = next(night for night in nights if night > now)
    midnights = [
        datetime.combine(tonight.date() - timedelta(days=ago), time(0), UTC) for ago in range(anonymize_after_days + 1)
    ]
    return min(
        midnight
        for midnight in midnights
        if midnight.weekday() == 0 and tonight - midnight < anonymize_after_days * WHOLE_DAY
    )


def is_sealed(day: date, time_zone: str, sealed_before: datetime) -> bool:
    """Local days that begin before the horizon are sealed."""
    return datetime.combine(day, time(0), ZoneInfo(time_zone)).astimezone(UTC) < sealed_before


# ------------------------------------------------------------------------------------------ comparing


def differences(expected: object, answered: object, where: str = "answer") -> list[str]:
    """Where an answer, as read from JSON, is not what was recomputed; keys that were not asked for are not compared."""
    if isinstance(expected, dict) and isinstance(answered, dict) and answered:
        return [
            line
            for key, value in answered.items()
            for line in (
                differences(expected[key], value, f"{where}.{key}")
                if key in expected
                else [f"{where}.{key}: never recomputed"]
            )
        ]
    if isinstance(expected, list) and isinstance(answered, list) and len(expected) == len(answered):
        pairs = enumerate(zip(expected, answered, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{where}[{index}]")]
    return [] if _same(expected, answered) else [f"{where}: {answered!r} where {expected!r} was recomputed"]


def _same(expected: object, answered: object) -> bool:
    if isinstance(expected, datetime):
        return isinstance(answered, str) and datetime.fromisoformat(answered) == expected
    if isinstance(expected, date | UUID):
        return answered == str(expected)
    if isinstance(expected, bool) or isinstance(answered, bool) or not isinstance(expected, int | float):
        return expected is answered or (type(expected) is type(answered) and expected == answered)
    return isinstance(answered, int | float) and math.isclose(expected, answered, rel_tol=1e-9, abs_tol=1e-9)
