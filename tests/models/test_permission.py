"""Whose events may be kept, to the instant, and which of them."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.age import birthday
from models.horizon import midnight
from models.permission import FREE, ConsentRule, Standing
from models.taxonomy import EVENT_TYPES
from models.user import Subject, UserRole
from tests.histories import ZONES, as_tracked
from tests.models.test_age import whole_years
from tests.recomputation import Event

BORN = date(2012, 2, 29)
TICK = timedelta(microseconds=1)
NEEDED = {
    *("quest_started", "quest_completed", "quest_abandoned", "task_completed", "badge_earned", "badge_claimed"),
    *("login_success", "login_failed", "logout", "session_expired", "tutor_safety_flag"),
    *("javascript_error", "api_error", "network_error"),
}
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def learner(born: date | None = BORN, zone: str = "UTC", *, consented: bool = False, objected: bool = False) -> Subject:
    return Subject(uuid4(), zone, UserRole.STUDENT, born, objected, consented)


@pytest.mark.parametrize("zone", [*ZONES, "America/Havana"])
@pytest.mark.parametrize("age", [13, 16])
def test_consent_is_needed_until_the_instant_of_the_birthday(zone: str, age: int) -> None:
    turns = midnight(birthday(BORN, age), ZoneInfo(zone))
    rule = ConsentRule(age)
    assert rule.standing(learner(zone=zone), turns - TICK).lacks_consent
    assert not rule.standing(learner(zone=zone), turns).lacks_consent
    assert rule.standing(learner(zone=zone, consented=True), turns - TICK) == FREE


@settings(deadline=None)
@given(
    born=st.none() | st.dates(date(2000, 1, 1), date(2026, 1, 1)),
    zone=st.sampled_from(ZONES),
    now=st.datetimes(datetime(2026, 1, 2), datetime(2035, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    role=st.sampled_from(UserRole),
    age=st.integers(0, 21),
    unknown=st.booleans(),
    consented=st.booleans(),
    objected=st.booleans(),
)
def test_any_standing(
    born: date | None,
    zone: str,
    now: datetime,
    role: UserRole,
    age: int,
    *,
    unknown: bool,
    consented: bool,
    objected: bool,
) -> None:
    found = ConsentRule(age, unknown).standing(Subject(uuid4(), zone, role, born, objected, consented), now)
    is_young = whole_years(born, now.astimezone(ZoneInfo(zone)).date()) < age if born else unknown
    assert found == Standing(role == "STUDENT" and is_young and not consented, objected)


def test_of_whoever_objects_only_what_is_needed_is_kept() -> None:
    for name, kind in EVENT_TYPES.items():
        assert FREE.refusal(kind) is None
        assert Standing(objects=True).refusal(kind) == (None if name in NEEDED else "TRACKING_OBJECTED")
        assert Standing(lacks_consent=True, objects=name in NEEDED).refusal(kind) == "CONSENT_REQUIRED"


def test_an_error_of_whoever_objects_is_kept_without_them() -> None:
    device = uuid4()
    error = as_tracked(Event(uuid4(), NOW, "network_error", {"message": "away"}, device, False, "/of/sam"), "sam")
    kept = Standing(objects=True).kept(error)
    assert FREE.kept(error) is error
    assert kept.data == error.data
    assert (kept.event_id, kept.occurred_at) == (error.event_id, NOW)
    assert kept.device_id not in (None, device, error.event_id)
    named = [kept.user_id, kept.role, kept.page_path, kept.page_title, kept.referrer, kept.user_agent, kept.ip_address]
    assert named == [None] * 7
    again = Standing(objects=True).kept(kept)
    assert again == kept
    login = as_tracked(Event(uuid4(), NOW, "login_success", {}, UUID(int=1)), "sam")
    assert Standing(objects=True).kept(login) is login
