"""How much must be read around a change: enough, and no more than is known."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from models.rollup import Span, stretch_around
from models.session import StoredEvent
from tests.histories import ZONES, as_tracked, histories
from tests.recomputation import Event, History
from workers.rollup import Rewrite, derive

NOW = datetime(2025, 3, 20, 12, tzinfo=UTC)
LONG_AGO, FAR_AHEAD = NOW - timedelta(days=400), NOW + timedelta(days=400)
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
    )


def derived(events: list[StoredEvent], zone: str, first_at: datetime, last_at: datetime) -> list[Rewrite]:
    """What a roll-up of this span writes, with all events known."""
    stretch = stretch_around(Span(SUBJECT, ZoneInfo(zone), first_at, last_at), events, LONG_AGO, FAR_AHEAD)
    assert stretch is not None
    return derive(stretch, LONG_AGO, {})


def table(rewrites: list[Rewrite]) -> dict[str, list[dict[str, object]]]:
    return {rewrite.column.class_.__tablename__: rewrite.rows for rewrite in rewrites}


def rewritten(before: dict[str, list[dict[str, Any]]], rewrites: list[Rewrite]) -> dict[str, list[dict[str, Any]]]:
    """The tables after these rewrites."""
    after = {}
    for rewrite in rewrites:
        name, column = rewrite.column.class_.__tablename__, rewrite.column.key
        kept = [row for row in before[name] if not rewrite.since <= row[column] < rewrite.until]
        after[name] = kept + rewrite.rows
    return after


def in_order(tables: dict[str, list[dict[str, object]]]) -> dict[str, list[str]]:
    return {name: sorted(map(repr, rows)) for name, rows in tables.items()}


@settings(deadline=None, max_examples=75)
@given(history=histories(NOW), data=st.data())
def test_deriving_around_what_came_late_gives_what_deriving_everything_gives(
    history: History, data: st.DataObject
) -> None:
    events = sorted((read(event) for event in history.events), key=lambda event: event.occurred_at)
    late = data.draw(st.lists(st.sampled_from(events), min_size=1, max_size=4)) if events else []
    if not late:
        return
    early = [event for event in events if event not in late]
    before = table(derived(early, history.time_zone, NOW - timedelta(days=70), NOW))
    whole = table(derived(events, history.time_zone, NOW - timedelta(days=70), NOW))
    times = [event.occurred_at for event in late]
    change = derived(events, history.time_zone, min(times), max(times))
    assert in_order(rewritten(before, change)) == in_order(whole)


@settings(deadline=None, max_examples=50)
@given(history=histories(NOW), data=st.data())
def test_what_little_is_known_gives_the_whole_stretch_or_none(history: History, data: st.DataObject) -> None:
    events = sorted((read(event) for event in history.events), key=lambda event: event.occurred_at)
    at = data.draw(st.sampled_from(events)).occurred_at if events else NOW
    span = Span(SUBJECT, ZoneInfo(history.time_zone), at, at)
    around = stretch_around(span, events, LONG_AGO, FAR_AHEAD)
    for hours in (1, 6, 26, 50, 80):
        known_from, known_to = at - timedelta(hours=hours), at + timedelta(hours=hours)
        known = [event for event in events if known_from <= event.occurred_at < known_to]
        found = stretch_around(span, known, known_from, known_to)
        assert found is None or (found.since, found.until) == (around and (around.since, around.until))
        assert found is None or around is None or derive(found, LONG_AGO, {}) == derive(around, LONG_AGO, {})


@given(
    at=st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    zone=st.sampled_from(ZONES),
)
def test_days_of_a_span_are_whole_and_hold_it(at: datetime, zone: str) -> None:
    span = Span(SUBJECT, ZoneInfo(zone), at, at)
    for since, until in (span.local_days, span.utc_days):
        assert since <= at < until
    assert span.utc_days[1] - span.utc_days[0] == timedelta(days=1)
    since, until = span.local_days
    assert since.astimezone(span.zone).date() == at.astimezone(span.zone).date() < until.astimezone(span.zone).date()
