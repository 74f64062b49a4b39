"""Sessions found in events, and the quiet instants between which they can be found alone."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.session import StoredEvent, find_sessions, quiet_after, quiet_before
from models.user_agent import describe
from tests import recomputation
from tests.histories import as_tracked, histories
from tests.recomputation import Event, History

NOW = datetime(2025, 3, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SUBJECT = UUID(int=7)


def read(event: Event) -> StoredEvent:
    """The event as a roll-up reads it."""
    kept = as_tracked(event, "somebody")
    return StoredEvent(
        kept.event_id,
        kept.occurred_at,
        kept.event_type,
        kept.device_id,
        kept.from_service,
        kept.page_path,
        kept.payload,
        kept.user_agent,
    )


def visits(*minutes: float) -> list[datetime]:
    return [NOW + minute * MINUTE for minute in minutes]


def event(minute: float, kind: str = "route_change", device: int = 1, event_id: int | None = None) -> StoredEvent:
    identity = uuid4() if event_id is None else UUID(int=event_id)
    return StoredEvent(identity, NOW + minute * MINUTE, kind, UUID(int=device), False, None, {"visibleSeconds": 1})


def minutes(events: Sequence[StoredEvent]) -> list[tuple[float, float]]:
    """Start and end of each session found."""
    return [((one.started_at - NOW) / MINUTE, (one.ended_at - NOW) / MINUTE) for one in find_sessions(events)]


@settings(deadline=None, max_examples=100)
@given(history=histories(NOW), seed=st.randoms(use_true_random=False))
def test_they_are_those_of_the_recomputation_in_whatever_order_the_events_come(
    history: History, seed: random.Random
) -> None:
    events = [read(each) for each in history.events]
    seed.shuffle(events)
    found = [
        (
            one.started_at,
            one.ended_at,
            one.first.device_id,
            one.events,
            one.page_views,
            one.is_bounce,
            describe(one.user_agent),
        )
        for one in find_sessions(events)
    ]
    expected = []
    for visit in recomputation.visits_of(history):
        theirs = recomputation.belonging(history, visit)
        views = sum(each.type == "page_view" for each in theirs)
        agent = next((each.user_agent for each in visit.active if each.user_agent), None)
        bounce = recomputation.is_bounce(theirs)
        expected.append(
            (visit.start, visit.end, visit.device_id, len(theirs), views, bounce, recomputation.AGENTS[agent])
        )
    assert sorted(found, key=repr) == sorted(expected, key=repr)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([event(0), event(29.999)], [(0, 29.999)], id="short of half an hour"),
        pytest.param([event(0), event(30)], [(0, 0), (30, 30)], id="half an hour"),
        pytest.param([event(0, "page_exit"), event(1)], [(1, 1)], id="page_exit opens none"),
        pytest.param([event(0), event(20, "page_exit"), event(45)], [(0, 45)], id="and extends one"),
        pytest.param([event(0), event(5, "logout"), event(6)], [(0, 5), (6, 6)], id="logout ends one"),
        pytest.param([event(0), event(5, "logout", 2), event(6)], [(0, 6)], id="on its device alone"),
        pytest.param([event(0, "logout", event_id=0), event(0, event_id=1)], [(0, 0)], id="logout comes last"),
        pytest.param([event(0, "network_error"), event(40, "network_error")], [], id="passive events make none"),
        pytest.param(
            [event(29 * step) for step in range(51)], [(0, 29 * 49), (29 * 50, 29 * 50)], id="24 hours and no more"
        ),
    ],
)
def test_edges(events: list[StoredEvent], expected: list[tuple[float, float]]) -> None:
    assert minutes(events) == expected


def test_the_id_is_of_subject_device_and_first_event_whatever_follows() -> None:
    first = event(0)
    alone, longer = (find_sessions(events)[0] for events in ([first], [first, event(9)]))
    assert alone.session_id(SUBJECT) == longer.session_id(SUBJECT)
    others = [first._replace(device_id=UUID(int=2)), first._replace(event_id=UUID(int=9)), event(1)]
    ids = {find_sessions([other])[0].session_id(SUBJECT) for other in others}
    assert alone.session_id(SUBJECT) not in ids
    assert alone.session_id(UUID(int=8)) != alone.session_id(SUBJECT)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("times", "at", "known_from", "expected"),
    [
        pytest.param(visits(), 0, -30, 0, id="nothing there"),
        pytest.param(visits(), 0, -29.9, None, id="too little known"),
        pytest.param(visits(-30), 0, -99, 0, id="a whole break before"),
        pytest.param(visits(-29.9), 0, -99, -29.9, id="less than one"),
        pytest.param(visits(-29.9), 0, -59, None, id="less than one, and what lies before is unknown"),
        pytest.param(visits(-80, -40, -20, -10), 0, -999, -40, id="a chain, broken"),
        pytest.param(visits(0, 10), 0, -30, 0, id="what comes at it or later does not count"),
    ],
)
def test_quiet_before(times: list[datetime], at: float, known_from: float, expected: float | None) -> None:
    found = quiet_before(times, NOW + at * MINUTE, NOW + known_from * MINUTE)
    assert found == (None if expected is None else NOW + expected * MINUTE)


@pytest.mark.parametrize(
    ("times", "at", "known_to", "expected"),
    [
        pytest.param(visits(), 0, 0, 0, id="nothing there"),
        pytest.param(visits(-10), 0, 20, 20, id="a break after the last"),
        pytest.param(visits(-10), 0, 19.9, None, id="too little known"),
        pytest.param(visits(-10, 20), 0, 99, 20, id="the next is a session of its own"),
        pytest.param(visits(-10, 19.9), 0, 99, 49.9, id="the next belongs to it"),
        pytest.param(visits(-10, 19.9, 40, 80), 0, 99, 70, id="a chain, broken"),
        pytest.param(visits(-40), 0, 99, 0, id="quiet already"),
    ],
)
def test_quiet_after(times: list[datetime], at: float, known_to: float, expected: float | None) -> None:
    found = quiet_after(times, NOW + at * MINUTE, NOW + known_to * MINUTE)
    assert found == (None if expected is None else NOW + expected * MINUTE)


@settings(deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0, 1, 29.999, 30, 30.001, 45, 1500]), max_size=25),
    at=st.integers(-100, 3000),
)
def test_sessions_on_both_sides_of_a_quiet_instant_are_found_apart(gaps: list[float], at: int) -> None:
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    events = [event(minute) for minute in times]
    known = [each.occurred_at for each in events]
    ages = timedelta(days=400)
    instant = NOW + at * MINUTE
    for quiet in (quiet_before(known, instant, NOW - ages), quiet_after(known, instant, NOW + ages)):
        assert quiet is not None
        before = [each for each in events if each.occurred_at < quiet]
        after = [each for each in events if each.occurred_at >= quiet]
        assert minutes(before) + minutes(after) == minutes(events)
