"""Hand-worked examples of each definition for the recomputation, and of the histories that it is fed with."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests import recomputation
from tests.histories import LEARNERS_OWN, SPREAD, TICK, as_input, deliveries, histories
from tests.recomputation import HALF_AN_HOUR, TAXONOMY, WHOLE_DAY, Event, History

NOW = datetime(2025, 3, 20, 12, tzinfo=UTC)
HOME, SCHOOL = UUID(int=1), UUID(int=2)
NUMBERS = count(1000)


def at(text: str) -> datetime:
    """An instant in UTC, its year 2025 unless it says another."""
    return datetime.fromisoformat(text if text.startswith("20") else f"2025-{text}").replace(tzinfo=UTC)


def event(
    kind: str,
    clock: str | datetime,
    *,
    number: int | None = None,
    device: UUID | None = HOME,
    service: bool = False,
    path: str | None = None,
    **data: object,
) -> Event:
    """An event at this time; its id is higher than those of all before it, unless `number` is given."""
    occurred_at = at(clock) if isinstance(clock, str) else clock
    event_id = UUID(int=next(NUMBERS) if number is None else number)
    return Event(event_id, occurred_at, kind, data, device, service, path)


def marked(kind: str, clock: str, **data: object) -> Event:
    """An event that a service sends without a device."""
    return replace(event(kind, clock, device=None, service=True), data=data)


def learner(*events: Event, zone: str = "UTC", upserted: str = "01-01T00:00") -> History:
    """A learner with these events."""
    return History("ada", zone, at(upserted), list(events))


def spans(history: History) -> list[tuple[str, str]]:
    """Start and end of each session, oldest first."""
    visits = reversed(recomputation.visits_of(history))
    return [(f"{visit.start:%d %H:%M}", f"{visit.end:%d %H:%M}") for visit in visits]


# ------------------------------------------------------------------------------------------ events and days


def test_a_repeated_identity_is_one_event_with_the_first_payload() -> None:
    history = learner(
        event("quest_completed", "03-01T10:00", number=7, questId="q1", xp=5),
        event("quest_completed", "03-01T10:00", number=7, questId="q1", xp=900),
    )
    assert recomputation.journey(history, NOW)["totalXp"] == 5
    assert len(recomputation.milestones(history)) == 1


def test_the_same_id_at_another_time_is_another_event() -> None:
    history = learner(
        event("page_view", "03-01T10:00", number=7), event("page_view", at("03-01T10:00") + TICK, number=7)
    )
    assert len(recomputation.kept(history)) == 2


def test_order_is_by_time_then_endings_last_then_id() -> None:
    logout = event("logout", "03-01T10:00", number=1)
    expiry = event("session_expired", "03-01T10:00", number=2)
    third, fourth = (event("page_view", "03-01T10:00", number=number) for number in (3, 4))
    earlier = event("page_view", "03-01T09:59", number=9)
    history = learner(logout, fourth, expiry, third, earlier)
    assert recomputation.kept(history) == [earlier, third, fourth, logout, expiry]


@pytest.mark.parametrize(
    ("zone", "instant", "day"),
    [
        ("UTC", "03-01T23:59:59.999", date(2025, 3, 1)),
        ("Asia/Kathmandu", "03-01T18:14:59.999", date(2025, 3, 1)),
        ("Asia/Kathmandu", "03-01T18:15:00.000", date(2025, 3, 2)),
        ("Pacific/Kiritimati", "03-01T10:00:00.000", date(2025, 3, 2)),
        ("America/St_Johns", "03-02T03:29:59.999", date(2025, 3, 1)),
        # The day of 23 hours, and the day of 25.
        ("America/New_York", "03-09T04:59:59.999", date(2025, 3, 8)),
        ("America/New_York", "03-09T05:00:00.000", date(2025, 3, 9)),
        ("America/New_York", "03-10T03:59:59.999", date(2025, 3, 9)),
        ("America/New_York", "03-10T04:00:00.000", date(2025, 3, 10)),
        ("America/New_York", "11-02T04:00:00.000", date(2025, 11, 2)),
        ("America/New_York", "11-03T04:59:59.999", date(2025, 11, 2)),
        ("America/New_York", "11-03T05:00:00.000", date(2025, 11, 3)),
    ],
)
def test_a_local_day_is_one_of_the_learners_own_zone(zone: str, instant: str, day: date) -> None:
    assert recomputation.local_day(learner(zone=zone), at(instant)) == day


def test_the_last_days_are_calendar_days_with_today_included() -> None:
    history = learner(zone="America/New_York")
    assert recomputation.last_days(history, at("03-10T03:59"), 3) == [date(2025, 3, day) for day in (7, 8, 9)]


def test_seen_and_known_since_go_by_event_time() -> None:
    history = learner(marked("badge_earned", "03-02T10:00", badgeId="b1"), event("page_view", "03-01T10:00"))
    assert recomputation.first_seen(history) == at("03-01T10:00")
    assert recomputation.last_seen(history) == at("03-02T10:00")
    assert recomputation.known_since(history) == at("01-01T00:00")
    assert recomputation.known_since(replace(history, upserted_at=NOW)) == at("03-01T10:00")
    assert recomputation.first_seen(learner()) is None
    assert recomputation.last_seen(learner()) is None


# ------------------------------------------------------------------------------------------ sessions


@pytest.mark.parametrize(
    ("gap", "number"), [(HALF_AN_HOUR - TICK, 1), (HALF_AN_HOUR, 2), (HALF_AN_HOUR + TICK, 2), (timedelta(0), 1)]
)
def test_a_session_ends_where_the_next_event_comes_30_minutes_later_or_more(gap: timedelta, number: int) -> None:
    history = learner(event("page_view", "03-01T10:00"), event("page_view", at("03-01T10:00") + gap))
    assert len(recomputation.sessions(history, NOW)) == number


@pytest.mark.parametrize(
    ("past", "starts"),
    [(WHOLE_DAY - TICK, [at("03-01T10:00")]), (WHOLE_DAY, [at("03-02T10:00"), at("03-01T10:00")])],
)
def test_a_session_ends_at_24_hours(past: timedelta, starts: list[datetime]) -> None:
    busy = [event("page_view", at("03-01T10:00") + n * timedelta(minutes=29)) for n in range(50)]
    found = recomputation.sessions(learner(*busy, event("page_view", at("03-01T10:00") + past)), NOW)
    assert [session["startedAt"] for session in found] == starts
    assert found[-1]["durationMinutes"] == pytest.approx(
        1440 - TICK / timedelta(minutes=1) if len(starts) == 1 else 1421
    )


def test_page_exit_extends_a_session_and_opens_none() -> None:
    alone = event("page_exit", "03-01T09:00", visibleSeconds=1)
    history = learner(
        alone,
        event("page_view", "03-01T10:00"),
        event("page_exit", "03-01T10:20", visibleSeconds=1),
        event("page_view", "03-01T10:45"),
    )
    assert spans(history) == [("01 10:00", "01 10:45")]
    assert recomputation.session_of(history, alone) is None
    assert recomputation.visit_days(learner(alone)) == [date(2025, 3, 1)]


def test_page_exit_after_30_minutes_belongs_to_no_session() -> None:
    late = event("page_exit", "03-01T10:30", visibleSeconds=1)
    history = learner(event("page_view", "03-01T10:00"), late)
    assert spans(history) == [("01 10:00", "01 10:00")]
    assert recomputation.session_of(history, late) is None


def test_logout_ends_the_session_as_its_last_event() -> None:
    history = learner(
        event("page_view", "03-01T10:00"), event("logout", "03-01T10:05"), event("page_view", "03-01T10:06")
    )
    assert spans(history) == [("01 10:00", "01 10:05"), ("01 10:06", "01 10:06")]


def test_logout_opens_no_session() -> None:
    assert spans(learner(event("logout", "03-01T10:00"))) == []


def test_expiry_ends_the_session_without_extending_it() -> None:
    expiry = event("session_expired", "03-01T10:05")
    history = learner(event("page_view", "03-01T10:00"), expiry, event("page_view", "03-01T10:06"))
    assert spans(history) == [("01 10:00", "01 10:00"), ("01 10:06", "01 10:06")]
    assert recomputation.session_of(history, expiry) is None


@pytest.mark.parametrize("ending", ["logout", "session_expired"])
def test_an_ending_of_the_same_millisecond_comes_after_all_else(ending: str) -> None:
    history = learner(
        event(ending, "03-01T10:00", number=1),
        event("page_view", "03-01T10:00", number=2),
        event("page_view", "03-01T10:01", number=3),
    )
    first = recomputation.sessions(history, at("03-01T10:01"))[1]
    assert (first["endedAt"], first["isOpen"], first["events"]) == (at("03-01T10:00"), False, 2)
    assert len(spans(history)) == 2


def test_logout_after_expiry_belongs_to_no_session() -> None:
    logout = event("logout", "03-01T10:06")
    history = learner(event("page_view", "03-01T10:00"), event("session_expired", "03-01T10:05"), logout)
    assert spans(history) == [("01 10:00", "01 10:00")]
    assert recomputation.session_of(history, logout) is None


def test_an_ending_ends_the_session_of_its_own_device() -> None:
    history = learner(
        event("page_view", "03-01T10:00"),
        event("logout", "03-01T10:01", device=SCHOOL),
        event("session_expired", "03-01T10:02", device=None),
        event("page_view", "03-01T10:03"),
    )
    assert spans(history) == [("01 10:00", "01 10:03")]


def test_devices_have_sessions_of_their_own_and_no_device_is_one_more() -> None:
    history = learner(
        event("page_view", "03-01T10:00"),
        event("page_view", "03-01T10:10", device=SCHOOL),
        event("page_view", "03-01T10:20", device=None),
        event("page_view", "03-01T10:25", device=None),
        event("page_view", "03-01T10:29"),
    )
    assert spans(history) == [("01 10:00", "01 10:29"), ("01 10:10", "01 10:10"), ("01 10:20", "01 10:25")]


def test_midnight_does_not_split_a_session_which_belongs_to_the_day_it_opened() -> None:
    history = learner(event("page_view", "03-19T23:50"), event("page_view", "03-20T00:10"))
    today, both = (recomputation.engagement(history, NOW, days) for days in (1, 2))
    assert (today["sessions"], today["timeOnPlatformHours"], today["visitDays"]) == (0, 0, 1)
    assert (both["sessions"], both["visitDays"]) == (1, 2)
    assert both["daily"]["activeMinutes"] == [20, 0]
    assert both["daily"]["events"] == [1, 1]


def test_the_repeated_hour_is_an_hour() -> None:
    apart = [event("page_view", "11-02T05:30"), event("page_view", "11-02T06:30")]
    near = [event("page_view", "11-02T05:45"), event("page_view", "11-02T06:10")]
    assert len(spans(learner(*apart, zone="America/New_York"))) == 2
    assert (
        recomputation.sessions(learner(*near, zone="America/New_York"), at("11-03T00:00"))[0]["durationMinutes"] == 25
    )


def test_passive_events_belong_to_the_session_they_fall_into_both_ends_included() -> None:
    outside = [event("api_error", clock) for clock in ("03-01T09:59:59.999", "03-01T10:10:00.001")]
    inside = [event("api_error", clock) for clock in ("03-01T10:00", "03-01T10:05", "03-01T10:10")]
    elsewhere = event("api_error", "03-01T10:05", device=SCHOOL)
    history = learner(
        *outside, *inside, elsewhere, event("page_view", "03-01T10:00"), event("page_view", "03-01T10:10")
    )
    assert [recomputation.session_of(history, one) for one in [*outside, elsewhere]] == [None, None, None]
    assert {recomputation.session_of(history, one) for one in inside} == {(HOME, at("03-01T10:00"))}
    assert recomputation.sessions(history, NOW)[0]["events"] == 5


def test_passive_events_alone_make_neither_session_nor_visit_day() -> None:
    history = learner(event("login_failed", "03-01T10:00"), event("network_error", "03-01T10:01", message="said"))
    assert spans(history) == []
    assert recomputation.visit_days(history) == []


def test_a_service_without_device_makes_no_session_and_no_visit_day_but_all_else() -> None:
    done = marked("quest_completed", "03-20T10:00", questId="q1", xp=5)
    fault = marked("api_error", "03-20T10:01")
    history = learner(done, fault)
    figures = recomputation.engagement(history, NOW, 1)
    assert (figures["sessions"], figures["visitDays"], figures["timeOnPlatformHours"]) == (0, 0, 0)
    assert (figures["activeDays"], figures["questsCompleted"], figures["daily"]["events"]) == (1, 1, [2])
    assert len(recomputation.milestones(history)) == 1
    own = event("page_view", "03-20T09:50", device=None), event("page_view", "03-20T10:10", device=None)
    assert recomputation.sessions(learner(done, fault, *own), NOW)[0]["events"] == 2


def test_a_service_with_a_device_makes_a_session_and_a_visit_day() -> None:
    history = learner(event("page_view", "03-01T10:00", service=True))
    assert spans(history) == [("01 10:00", "01 10:00")]
    assert recomputation.visit_days(history) == [date(2025, 3, 1)]


def test_late_events_merge_and_split_as_if_all_had_come_in_order() -> None:
    first, third = event("page_view", "03-01T10:00"), event("page_view", "03-01T10:40")
    between, logout = event("page_view", "03-01T10:20"), event("logout", "03-01T10:30")
    assert len(spans(learner(first, third))) == 2
    assert spans(learner(first, third, between)) == [("01 10:00", "01 10:40")]
    assert spans(learner(first, third, between, logout)) == [("01 10:00", "01 10:30"), ("01 10:40", "01 10:40")]
    assert spans(learner(logout, between, third, first)) == spans(learner(first, between, logout, third))


@pytest.mark.parametrize(
    ("last", "after", "is_open"),
    [
        ("page_view", timedelta(0), True),
        ("page_view", HALF_AN_HOUR - TICK, True),
        ("page_view", HALF_AN_HOUR, False),
        ("page_exit", HALF_AN_HOUR - TICK, True),
        ("logout", timedelta(0), False),
        ("session_expired", timedelta(0), False),
    ],
)
def test_a_session_is_open_until_30_minutes_after_its_last_event(last: str, after: timedelta, is_open: bool) -> None:
    end = event(last, "03-01T10:00", visibleSeconds=1)
    history = learner(event("page_view", "03-01T10:00", number=0), end)
    assert recomputation.sessions(history, at("03-01T10:00") + after)[0]["isOpen"] is is_open


@pytest.mark.parametrize(("after", "is_open"), [(WHOLE_DAY - TICK, True), (WHOLE_DAY, False)])
def test_a_session_is_open_for_24_hours_at_most(after: timedelta, is_open: bool) -> None:
    busy = [event("page_view", at("03-01T10:00") + n * timedelta(minutes=29)) for n in range(50)]
    assert recomputation.sessions(learner(*busy), at("03-01T10:00") + after)[0]["isOpen"] is is_open


@pytest.mark.parametrize(
    ("others", "is_bounce"),
    [
        ([], True),
        ([("route_change", {})], True),
        ([("page_view", {})], False),
        ([("quest_viewed", {"questId": "q1"})], False),
        ([("custom", {"name": "map_drawn"})], False),
        ([("api_error", {})], True),
        ([("page_exit", {"visibleSeconds": 9.75})], True),
        ([("page_exit", {"visibleSeconds": 10})], False),
        ([("page_exit", {"visibleSeconds": 5}), ("page_exit", {"visibleSeconds": 5.0})], False),
    ],
)
def test_a_bounce_has_one_page_view_and_neither_interaction_nor_ten_seconds(
    others: list[tuple[str, dict[str, Any]]], is_bounce: bool
) -> None:
    history = learner(event("page_view", "03-01T10:00"), *(event(kind, "03-01T10:00", **data) for kind, data in others))
    assert recomputation.sessions(history, NOW)[0]["isBounce"] is is_bounce


def test_a_session_without_page_view_has_neither_bounce_nor_paths() -> None:
    session = recomputation.sessions(learner(event("route_change", "03-01T10:00", path="/maps")), NOW)[0]
    assert (session["isBounce"], session["entryPath"], session["exitPath"], session["pageViews"]) == (
        None,
        None,
        None,
        0,
    )


def test_entry_and_exit_path_are_of_the_first_and_last_page_view() -> None:
    history = learner(
        event("route_change", "03-01T09:59", path="/before"),
        event("page_view", "03-01T10:00", path="/maps/?zoom=3"),
        event("page_view", "03-01T10:01", path="/quests"),
        event("page_view", "03-01T10:02", path="/badges#top"),
        event("page_exit", "03-01T10:03", path="/after", visibleSeconds=1),
    )
    session = recomputation.sessions(history, NOW)[0]
    assert (session["entryPath"], session["exitPath"], session["pageViews"]) == ("/maps", "/badges", 3)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (None, None),
        ("/", "/"),
        ("/?a=1", "/"),
        ("/maps/", "/maps"),
        ("/maps/?a=/b/", "/maps"),
        ("/maps#?a", "/maps"),
        ("/" + "x" * 600, "/" + "x" * 511),
    ],
)
def test_a_page_path_has_no_query_fragment_or_trailing_slash(sent: str | None, kept: str | None) -> None:
    assert recomputation.page_path(sent) == kept


def test_a_sessions_browser_is_the_first_that_a_non_passive_event_tells() -> None:
    firefox, safari, _ = filter(None, recomputation.AGENTS)
    history = learner(
        replace(event("api_error", "03-01T10:00"), user_agent=safari),
        event("page_view", "03-01T10:00"),
        replace(event("page_view", "03-01T10:01"), user_agent=firefox),
        replace(event("page_view", "03-01T10:02"), user_agent=safari),
        event("page_view", "03-01T12:00"),
    )
    found = recomputation.sessions(history, NOW)
    assert [(one["deviceType"], one["browser"], one["os"]) for one in found] == [
        ("OTHER", None, None),
        ("DESKTOP", "Firefox", "Linux"),
    ]


# ------------------------------------------------------------------------------------------ days and streaks


def test_visit_days_need_a_non_passive_event_and_active_days_a_learning_one() -> None:
    history = learner(
        event("page_view", "03-01T10:00"),
        event("tutor_message_sent", "03-02T10:00"),
        event("javascript_error", "03-03T10:00", message="said"),
        event("logout", "03-04T10:00"),
        marked("task_completed", "03-05T10:00", taskId="t1"),
        marked("badge_earned", "03-06T10:00", badgeId="b1"),
        event("badge_claimed", "03-07T10:00", badgeId="b1"),
    )
    assert [day.day for day in recomputation.visit_days(history)] == [1, 2, 4, 7]
    assert [day.day for day in recomputation.active_days(history)] == [2, 5]


@pytest.mark.parametrize(
    ("days", "current", "longest"),
    [
        ([], 0, 0),
        ([20], 1, 1),
        ([19], 1, 1),
        ([18], 0, 1),
        ([17, 18, 19], 3, 3),
        ([17, 18, 20], 1, 2),
        ([17, 18, 19, 20], 4, 4),
        ([10, 11, 12, 13, 19, 20], 2, 4),
    ],
)
def test_a_streak_ends_today_or_yesterday(days: list[int], current: int, longest: int) -> None:
    history = learner(*(event("evidence_uploaded", f"03-{day}T10:00") for day in days))
    assert recomputation.current_streak(history, NOW) == current
    assert recomputation.longest_streak(history) == longest


def test_a_streak_goes_by_local_days() -> None:
    evenings = [event("tutor_message_sent", clock) for clock in ("03-18T03:00", "03-19T01:00", "03-20T03:59")]
    assert recomputation.current_streak(learner(*evenings), NOW) == 3
    assert recomputation.current_streak(learner(*evenings, zone="America/New_York"), NOW) == 3
    assert recomputation.current_streak(learner(*evenings, zone="America/New_York"), at("03-21T04:00")) == 0


@pytest.mark.parametrize(
    ("known", "days", "rhythm"),
    [
        ("03-07T00:00", [19, 20], "NOT_ENOUGH_DATA"),
        ("03-06T23:59:59.999", [19, 20], "GREEN"),
        ("03-06T23:59:59.999", [20], "YELLOW"),
        ("01-01T00:00", [14, 20], "GREEN"),
        ("01-01T00:00", [13, 20], "YELLOW"),
        ("01-01T00:00", [], "YELLOW"),
        ("03-20T00:00", ["06", 19, 20], "GREEN"),
    ],
)
def test_rhythm_needs_14_local_dates_and_two_active_days_of_the_last_seven(
    known: str, days: list[int | str], rhythm: str
) -> None:
    history = learner(*(event("tutor_message_sent", f"03-{day}T10:00") for day in days), upserted=known)
    assert recomputation.rhythm(history, NOW) == rhythm


def test_rhythm_counts_dates_of_the_learners_zone() -> None:
    assert recomputation.rhythm(learner(upserted="03-07T03:00"), NOW) == "NOT_ENOUGH_DATA"
    assert recomputation.rhythm(learner(upserted="03-07T03:00", zone="America/New_York"), NOW) == "YELLOW"


# ------------------------------------------------------------------------------------------ quests and XP


def test_quest_counts_are_of_distinct_ids() -> None:
    history = learner(
        *(event("quest_started", f"03-{day}T10:00", questId="q1") for day in (17, 18)),
        event("quest_started", "03-18T11:00", questId="q2"),
        *(marked("badge_earned", f"03-{day}T10:00", badgeId="b1") for day in (18, 19)),
        *(event("task_completed", f"03-{day}T10:00", taskId="t1") for day in (18, 19)),
        *(event("quest_completed", f"03-{day}T10:00", questId="q1") for day in (18, 19)),
    )
    figures = recomputation.engagement(history, NOW, 3)
    assert (figures["questsStarted"], figures["questsCompleted"]) == (2, 1)
    assert (figures["tasksCompleted"], figures["badgesEarned"]) == (1, 1)
    assert figures["daily"]["questsCompleted"] == [1, 1, 0]


def started(*days: int) -> list[Event]:
    """Quests q1, q2 and so on, started on these days of March at 10:00, with ids 500, 501 and so on."""
    return [
        event("quest_started", f"03-{day:02}T10:00", number=500 + n, questId=f"q{n + 1}") for n, day in enumerate(days)
    ]


def rate(*events: Event) -> float | None:
    """The completion rate over the ten days from 11 to 20 March."""
    answer: float | None = recomputation.engagement(learner(*events), NOW, 10)["completionRate"]
    return answer


def test_completion_rate_is_null_under_five_distinct_starts_in_the_window() -> None:
    assert rate(*started(12, 12, 12, 12)) is None
    assert rate(*started(12, 12, 12, 12), event("quest_started", "03-13T10:00", questId="q1")) is None
    assert rate(*started(10, 12, 12, 12, 12)) is None
    assert rate(*started(12, 12, 12, 12, 12)) == 0


def test_completion_rate_counts_each_quest_once_and_keeps_the_abandoned_ones() -> None:
    done = [event("quest_completed", f"03-{day}T09:00", questId="q1") for day in (13, 14)]
    gone = event("quest_abandoned", "03-13T09:00", questId="q2")
    unasked = event("quest_completed", "03-13T09:00", questId="q9")
    assert rate(*started(12, 12, 12, 12, 12), *done, gone, unasked) == 1 / 5


@pytest.mark.parametrize(
    ("clock", "number", "expected"),
    [
        ("03-12T09:59:59.999", 999, 0),
        ("03-12T10:00", 499, 0),
        ("03-12T10:00", 999, 1 / 5),
        ("03-20T12:00", 999, 1 / 5),
    ],
)
def test_completion_rate_asks_for_a_completion_after_the_first_start(clock: str, number: int, expected: float) -> None:
    done = event("quest_completed", clock, number=number, questId="q1")
    again = event("quest_started", "03-20T11:59", questId="q1")
    assert rate(*started(12, 12, 12, 12, 12), done, again) == expected


def test_completion_rate_looks_for_the_first_start_in_the_window_only() -> None:
    before = event("quest_started", "03-01T10:00", questId="q1")
    between = event("quest_completed", "03-05T10:00", questId="q1")
    assert rate(before, between, *started(12, 12, 12, 12, 12)) == 0


def test_xp_is_of_quests_tasks_and_earned_badges() -> None:
    history = learner(
        marked("quest_completed", "03-01T10:00", questId="q1", xp=10, pillar="maths"),
        marked("quest_completed", "03-01T11:00", questId="q1", xp=10, pillar="maths"),
        marked("task_completed", "03-02T10:00", taskId="t1", xp=20, pillar="art"),
        marked("badge_earned", "03-02T11:00", badgeId="b1", xp=7),
        marked("badge_earned", "03-02T12:00", badgeId="b2", xp=0, pillar="craft"),
        marked("task_completed", "03-02T13:00", taskId="t2", pillar="music"),
        marked("task_completed", "03-02T13:30", taskId="t3", xp=3, pillar="acting"),
        event("badge_claimed", "03-02T14:00", badgeId="b1"),
    )
    figures = recomputation.journey(history, NOW)
    assert figures["totalXp"] == 50
    assert figures["xpByPillar"] == [
        {"pillar": "art", "xp": 20},
        {"pillar": "maths", "xp": 20},
        {"pillar": "acting", "xp": 3},
    ]
    assert figures["favoritePillar"] == "art"
    assert figures["totalQuestsCompleted"] == 1
    assert len(figures["recentCompletions"]) == 2
    assert len(figures["milestones"]) == 8


def test_a_learner_without_events_has_a_journey_of_nothing() -> None:
    assert recomputation.journey(learner(), NOW) == {
        "firstQuestDate": None,
        "totalQuestsStarted": 0,
        "totalQuestsCompleted": 0,
        "currentStreak": 0,
        "badgesEarned": 0,
        "timeOnPlatformHours": 0,
        "favoritePillar": None,
        "xpByPillar": [],
        "totalXp": 0,
        "rhythm": "YELLOW",
        "recentCompletions": [],
        "milestones": [],
    }
    figures = recomputation.engagement(learner(), NOW, 2)
    assert (figures["medianSessionMinutes"], figures["lastActiveOn"]) == (None, None)
    assert figures["daily"]["dates"] == [date(2025, 3, 19), date(2025, 3, 20)]


def test_imported_milestones_count_for_journey_quests_and_xp_but_for_no_day() -> None:
    twin = event("quest_completed", "03-19T10:00", number=7, questId="q1", xp=900)
    history = replace(
        learner(twin),
        imported=[
            replace(twin, data={"questId": "q1", "xp": 5}),
            replace(twin, data={"questId": "q1", "xp": 6}),
            event("quest_started", "2019-05-01T10:00", questId="q0"),
            event("badge_earned", "03-20T09:00", badgeId="b", xp=2, pillar="art"),
        ],
    )
    journey = recomputation.journey(history, NOW)
    assert journey["firstQuestDate"] == date(2019, 5, 1)
    assert (journey["totalQuestsStarted"], journey["totalQuestsCompleted"], journey["badgesEarned"]) == (1, 1, 1)
    assert (journey["totalXp"], journey["xpByPillar"]) == (7, [{"pillar": "art", "xp": 2}])
    today = recomputation.engagement(history, NOW, 2)
    assert today["daily"]["xp"] == [5, 2]
    assert (today["daily"]["events"], today["activeDays"], today["badgesEarned"]) == ([1, 0], 1, 1)
    assert recomputation.known_since(history) == at("01-01T00:00")


# ------------------------------------------------------------------------------------------ the questions

ADA = learner(
    event("page_view", "03-13T23:50", path="/"),
    event("quest_viewed", "03-14T00:10", questId="q1"),
    event("login_success", "03-18T10:00"),
    event("quest_started", "03-18T10:05", questId="q1", questTitle="Maps"),
    event("quest_completed", "03-18T10:20", service=True, questId="q1", questTitle="Maps", xp=50, pillar="art"),
    event("task_completed", "03-19T09:00", service=True, taskId="t1", questId="q2", taskTitle="Draw", xp=5),
    event("page_exit", "03-19T09:10", visibleSeconds=600),
    marked("badge_earned", "03-20T08:00", badgeId="b1", badgeName="Scout", xp=7),
    event("quest_started", "03-20T11:50", questId="q2"),
    event("quest_abandoned", "03-20T11:55", questId="q2"),
)


def test_engagement_of_a_week() -> None:
    assert recomputation.engagement(ADA, NOW, 7) == {
        "days": 7,
        "activeDays": 3,
        "visitDays": 4,
        "sessions": 3,
        "medianSessionMinutes": 15,
        "timeOnPlatformHours": pytest.approx(35 / 60),
        "logins": 1,
        "questsViewed": 1,
        "questsStarted": 2,
        "questsCompleted": 1,
        "questsAbandoned": 1,
        "tasksCompleted": 1,
        "badgesEarned": 1,
        "completionRate": None,
        "currentStreak": 3,
        "longestStreak": 3,
        "lastActiveOn": date(2025, 3, 20),
        "daily": {
            "dates": [date(2025, 3, day) for day in range(14, 21)],
            "events": [1, 0, 0, 0, 3, 2, 3],
            "activeMinutes": [0, 0, 0, 0, 20, 10, 5],
            "questsCompleted": [0, 0, 0, 0, 1, 0, 0],
            "xp": [0, 0, 0, 0, 50, 5, 7],
        },
    }


def test_a_journey() -> None:
    def milestone(kind: str, clock: str, xp: int = 0, **others: str) -> dict[str, Any]:
        unset = dict.fromkeys(("questId", "badgeId", "title", "pillar"))
        return {**unset, "kind": kind, "occurredAt": at(clock), "xp": xp, **others}

    assert recomputation.journey(ADA, NOW) == {
        "firstQuestDate": date(2025, 3, 18),
        "totalQuestsStarted": 2,
        "totalQuestsCompleted": 1,
        "currentStreak": 3,
        "badgesEarned": 1,
        "timeOnPlatformHours": pytest.approx(55 / 60),
        "favoritePillar": "art",
        "xpByPillar": [{"pillar": "art", "xp": 50}],
        "totalXp": 62,
        "rhythm": "GREEN",
        "recentCompletions": [
            {"questId": "q1", "questTitle": "Maps", "completedAt": at("03-18T10:20"), "xp": 50, "pillar": "art"}
        ],
        "milestones": [
            milestone("QUEST_ABANDONED", "03-20T11:55", questId="q2"),
            milestone("QUEST_STARTED", "03-20T11:50", questId="q2"),
            milestone("BADGE_EARNED", "03-20T08:00", 7, badgeId="b1", title="Scout"),
            milestone("TASK_COMPLETED", "03-19T09:00", 5, questId="q2", title="Draw"),
            milestone("QUEST_COMPLETED", "03-18T10:20", 50, questId="q1", title="Maps", pillar="art"),
            milestone("QUEST_STARTED", "03-18T10:05", questId="q1", title="Maps"),
        ],
    }


def test_recent_completions_are_the_newest() -> None:
    done = [event("quest_completed", f"03-0{day}T10:00", questId=f"q{day}") for day in range(1, 8)]
    figures = recomputation.journey(learner(*done), NOW, first=3)
    assert [completion["questId"] for completion in figures["recentCompletions"]] == ["q7", "q6", "q5"]


def test_sessions_are_answered_newest_first() -> None:
    newest, *_, oldest = recomputation.sessions(ADA, NOW)
    assert (newest["startedAt"], newest["isOpen"], newest["durationMinutes"]) == (at("03-20T11:50"), True, 5)
    assert (oldest["startedAt"], oldest["isOpen"], oldest["entryPath"]) == (at("03-13T23:50"), False, "/")


def test_event_counts_have_every_category_in_the_enums_order() -> None:
    counts = recomputation.event_counts(ADA, NOW, 7)
    assert [row["category"] for row in counts] == list(recomputation.CATEGORIES)
    assert [row["count"] for row in counts] == [1, 6, 1, 0, 0, 1, 0, 0, 0]
    assert [row["count"] for row in recomputation.event_counts(ADA, NOW, 8)] == [2, 6, 1, 0, 0, 1, 0, 0, 0]


# ------------------------------------------------------------------------------------------ dropout risk


def values_of(found: dict[str, Any]) -> list[float | None]:
    """The factors' values, in their order."""
    return [factor["value"] for factor in found["factors"]]


def test_risk_of_a_week() -> None:
    found = recomputation.risk(ADA, NOW, 7)
    assert values_of(found) == [0, 0, 0.5, 0.25, 4 / 7]
    assert found["score"] == pytest.approx(0.20 * 0.5 + 0.10 * 0.25 + 0.05 * 4 / 7)
    assert (found["engagementLevel"], found["model"]) == ("HIGH", "seed-weights-1")


def test_risk_of_who_never_came_leaves_out_what_nothing_tells_of() -> None:
    found = recomputation.risk(learner(), NOW)
    assert values_of(found) == [1, 1, None, None, 1]
    assert (found["score"], found["engagementLevel"]) == (1, "AT_RISK")


def test_risk_is_not_told_before_14_local_dates_have_passed() -> None:
    for upserted, score in (("03-07T23:59", None), ("03-06T00:00", pytest.approx((0.4 + 0.25 + 0.05) / 0.7))):
        assert recomputation.risk(learner(upserted=upserted), NOW)["score"] == score
    week = recomputation.risk(learner(upserted="03-13T12:00"), NOW)
    assert values_of(week) == [0.5, 1, None, None, 1]


@pytest.mark.parametrize(
    ("score", "level"),
    [(0, "HIGH"), (0.2999, "HIGH"), (0.3, "MEDIUM"), (0.6, "LOW"), (0.7999, "LOW"), (0.8, "AT_RISK"), (1, "AT_RISK")],
)
def test_levels_of_risk(score: float, level: str) -> None:
    assert recomputation.risk_level(Fraction(str(score))) == level


def test_at_risk_are_the_highest_first_then_by_id_of_who_was_there_within_90_days() -> None:
    never = [replace(learner(), user_id=name) for name in ("bob", "ann")]
    gone = replace(learner(event("page_view", "2024-12-20T10:00"), upserted="2024-12-20T00:00"), user_id="gone")
    just = replace(learner(event("page_view", "2024-12-21T10:00"), upserted="2024-12-20T00:00"), user_id="just")
    here = replace(learner(event("page_view", "03-20T10:00")), user_id="here")
    everybody = [*never, gone, just, here]
    assert recomputation.at_risk(everybody, NOW, 30, 0.7) == ["ann", "bob", "just"]
    assert recomputation.at_risk(everybody, NOW, 30, 0) == ["ann", "bob", "just", "here"]


# ------------------------------------------------------------------------------------------ sealed days


@pytest.mark.parametrize(
    ("now", "monday"),
    [
        ("03-20T12:00", "2024-12-23T00:00"),
        ("03-22T01:59:59.999", "2024-12-23T00:00"),
        ("03-22T02:00", "2024-12-30T00:00"),
        ("03-29T01:59:59.999", "2024-12-30T00:00"),
        ("03-29T02:00", "2025-01-06T00:00"),
    ],
)
def test_the_horizon_moves_at_two_in_the_night_before_a_monday_is_90_days_old(now: str, monday: str) -> None:
    assert recomputation.horizon(at(now)) == at(monday)


def test_the_horizon_follows_the_setting() -> None:
    assert recomputation.horizon(at("03-20T12:00"), anonymize_after_days=14) == at("03-10T00:00")


@given(st.timedeltas(timedelta(0), timedelta(days=800)))
def test_events_are_identified_for_82_to_90_days(later: timedelta) -> None:
    now = NOW + later
    oldest = recomputation.horizon(now)
    assert oldest.weekday() == 0
    assert timedelta(days=82) < now - oldest < timedelta(days=90)


@pytest.mark.parametrize(
    ("zone", "first_open"),
    [
        ("UTC", date(2024, 12, 23)),
        ("America/New_York", date(2024, 12, 23)),
        ("Asia/Kathmandu", date(2024, 12, 24)),
        ("Pacific/Kiritimati", date(2024, 12, 24)),
    ],
)
def test_a_local_day_that_begins_before_the_horizon_is_sealed(zone: str, first_open: date) -> None:
    oldest = at("2024-12-23T00:00")
    assert not recomputation.is_sealed(first_open, zone, oldest)
    assert recomputation.is_sealed(first_open - timedelta(days=1), zone, oldest)


# ------------------------------------------------------------------------------------------ comparing


def in_json(value: object) -> object:
    """What a client reads where this was answered."""
    return json.loads(json.dumps(value, default=lambda one: one.isoformat() if isinstance(one, date) else str(one)))


def test_an_answer_that_agrees_has_no_differences() -> None:
    for answer in (recomputation.engagement(ADA, NOW), recomputation.journey(ADA, NOW)):
        assert recomputation.differences(answer, in_json(answer)) == []
    assert recomputation.differences(recomputation.sessions(ADA, NOW), in_json(recomputation.sessions(ADA, NOW))) == []
    assert recomputation.differences({"at": NOW, "hours": 1 / 3}, {"at": "2025-03-20T12:00:00Z"}) == []


@pytest.mark.parametrize(
    ("expected", "answered"),
    [
        ({"xp": 1}, {"xp": 2}),
        ({"xp": 1}, {"xp": None}),
        ({"xp": 1}, {"xp": 1, "more": 1}),
        ({"xp": 1}, {"xp": True}),
        ({"xp": 1}, {"xp": "1"}),
        ({"xp": 1}, {}),
        ({"xp": 1}, None),
        ({"xp": None}, {"xp": 0}),
        ({"open": False}, {"open": 0}),
        ([1, 2], [1, 3]),
        ([1, 2], [1]),
        ([], None),
        (NOW, "2025-03-20T12:00:00.001Z"),
        (NOW, None),
        (NOW.date(), "2025-03-21"),
        (1 / 3, 0.333),
    ],
)
def test_an_answer_that_does_not_agree_has_one_difference(expected: object, answered: object) -> None:
    assert len(recomputation.differences(expected, answered)) == 1


# ------------------------------------------------------------------------------------------ histories

NOWS = st.sampled_from([at("03-20T12:00"), at("11-15T00:00:00.001"), at("2026-01-03T09:59:59.999")])
INPUTS = json.loads(Path(__file__).with_name("taxonomy.json").read_text())["inputs"]
TYPES: dict[str, Any] = {
    "Int": int,
    "BigInt": int,
    "Float": (int, float),
    "ID": str,
    "String": str,
    "SafetySeverity": str,
    "JSON": dict,
}


def is_valid(one: Event) -> bool:
    """Whether the payload has what the taxonomy asks for, of the right type and within its range, and nothing else."""
    fields = {field["name"]: field for field in INPUTS[TAXONOMY[one.type]["input"]]}
    required = {name for name, field in fields.items() if field["type"].endswith("!")}
    return required <= one.data.keys() <= fields.keys() and all(
        (value is None and name not in required)
        or (isinstance(value, TYPES[fields[name]["type"].rstrip("!")]) and within(fields[name].get("note", ""), value))
        for name, value in one.data.items()
    )


def within(note: str, value: float) -> bool:
    """Whether the value lies in the range that ends the note, where there is one."""
    found = re.search(r"\b(\d+) to (\d+)$", note)
    return found is None or int(found[1]) <= value <= int(found[2])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_histories_may_be_sent(data: st.DataObject) -> None:
    now = data.draw(NOWS)
    history = data.draw(histories(now))
    ZoneInfo(history.time_zone)
    assert len({(one.event_id, one.occurred_at) for one in history.events}) == len(history.events)
    assert history.upserted_at <= now
    for one in history.events:
        assert now - SPREAD <= one.occurred_at <= now
        assert one.occurred_at.microsecond % 1000 == 0
        assert is_valid(one)
        assert one.from_service or (now - one.occurred_at <= LEARNERS_OWN and "xp" not in one.data)
        assert one.from_service or not TAXONOMY[one.type].get("serviceOnly")
        assert one.page_path or one.type != "page_view"
        assert datetime.fromisoformat(as_input(one, "ada")["occurredAt"]) == one.occurred_at


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_delivery_holds_the_same_figures(data: st.DataObject) -> None:
    now = data.draw(NOWS)
    history = data.draw(histories(now))
    batches = data.draw(deliveries(history))
    delivered = replace(history, events=[one for batch in batches for one in batch])
    assert all(batches)
    assert len(delivered.events) >= len(history.events)
    assert recomputation.kept(delivered) == recomputation.kept(history)
    assert recomputation.sessions(delivered, now) == recomputation.sessions(history, now)
    assert recomputation.engagement(delivered, now) == recomputation.engagement(history, now)
    assert recomputation.journey(delivered, now) == recomputation.journey(history, now)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_figures_hold_for_as_long_as_asked(data: st.DataObject) -> None:
    now, holds_for = data.draw(NOWS), timedelta(minutes=5)
    history = data.draw(histories(now, holds_for))
    for ask in (recomputation.sessions, recomputation.engagement, recomputation.journey, recomputation.event_counts):
        assert ask(history, now) == ask(history, now + holds_for)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_sessions_of_a_device_never_touch_and_share_no_event(data: st.DataObject) -> None:
    history = data.draw(histories(data.draw(NOWS)))
    visits = recomputation.visits_of(history)
    for device in {visit.device_id for visit in visits}:
        mine = [visit for visit in reversed(visits) if visit.device_id == device]
        assert all(one.end < other.start for one, other in pairwise(mine))
        assert all(visit.end - visit.start < WHOLE_DAY for visit in mine)
    held = [one for visit in visits for one in recomputation.belonging(history, visit)]
    assert len(held) == len({(one.event_id, one.occurred_at) for one in held})


def gaps(history: History) -> set[timedelta]:
    """The distances between neighbouring events of one device."""
    events = recomputation.kept(history)
    lanes = [[one for one in events if one.device_id == device] for device in {one.device_id for one in events}]
    return {other.occurred_at - one.occurred_at for lane in lanes for one, other in pairwise(lane)}


REACHED: dict[str, Callable[[History], bool]] = {
    "30 minutes sharp": lambda history: HALF_AN_HOUR in gaps(history),
    "a session ended at 24 hours": lambda history: any(
        visit.end - visit.start > WHOLE_DAY - HALF_AN_HOUR for visit in recomputation.visits_of(history)
    ),
    "a session ended by logout or expiry": lambda history: any(
        visit.ended for visit in recomputation.visits_of(history)
    ),
    "an open session": lambda history: any(session["isOpen"] for session in recomputation.sessions(history, NOW)),
    "a bounce, and none": lambda history: (
        {True, False, None} <= {session["isBounce"] for session in recomputation.sessions(history, NOW)}
    ),
    "a passive event of a session": lambda history: any(
        recomputation.passive(one)
        for visit in recomputation.visits_of(history)
        for one in recomputation.belonging(history, visit)
    ),
    "an ending at the time of another event": lambda history: any(
        one.type == "logout" and other.type == "page_view" and one.occurred_at == other.occurred_at
        for one in history.events
        for other in history.events
    ),
    "some of five quests completed": lambda history: (
        recomputation.engagement(history, NOW)["completionRate"] not in (None, 0, 1)
    ),
    "a streak, and a longer one before": lambda history: (
        1 < recomputation.current_streak(history, NOW) < recomputation.longest_streak(history)
    ),
    "a green rhythm": lambda history: recomputation.rhythm(history, NOW) == "GREEN",
    "two pillars alike": lambda history: (
        len({row["xp"] for row in recomputation.xp_by_pillar(history)}) < len(recomputation.xp_by_pillar(history))
    ),
    "a local midnight that is none in UTC": lambda history: any(
        (there := one.occurred_at.astimezone(ZoneInfo(history.time_zone))).hour == there.minute == there.second == 0
        and one.occurred_at.hour != 0
        for one in history.events
    ),
    "the clocks put forward": lambda history: (
        history.time_zone == "America/New_York"
        and any(abs(one.occurred_at - at("03-09T07:00")) <= TICK for one in history.events)
    ),
}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("edge", REACHED)
def test_histories_reach_the_edges(edge: str) -> None:
    generating = settings(max_examples=3000, phases=[Phase.generate], database=None, deadline=None, derandomize=True)
    assert REACHED[edge](find(histories(NOW), REACHED[edge], settings=generating))
