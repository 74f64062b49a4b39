"""The rule: what each factor makes of what was done, its evidence in words, and where the levels end."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.risk import (
    Assessment,
    EngagementLevel,
    Factor,
    QuestStep,
    RecentDay,
    Record,
    RiskFactorName,
    assess,
    may_be_listed,
)
from models.taxonomy import MilestoneKind

NOW = datetime(2026, 11, 22, 15, tzinfo=UTC)
TODAY = NOW.date()
LONG_AGO = datetime(2026, 6, 3, 8, tzinfo=UTC)
STARTED, COMPLETED = MilestoneKind.QUEST_STARTED, MilestoneKind.QUEST_COMPLETED


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def visited(
    *days: int, minutes: float = 10, active: bool = False, open_for: timedelta = timedelta(0)
) -> list[RecentDay]:
    """A session of so many minutes on each of these days ago, oldest first."""
    return [
        RecentDay(ago(day), True, active, [int(minutes * 60_000)], [NOW + open_for])
        for day in sorted(days, reverse=True)
    ]


def record(
    *days: RecentDay, steps: tuple[tuple[int, MilestoneKind, str], ...] = (), since: datetime = LONG_AGO
) -> Record:
    """Somebody with these days, and quest steps by days ago."""
    visits = [day.day for day in days if day.visited]
    quest_steps = [QuestStep(ago(day), kind, quest) for day, kind, quest in steps]
    return Record(ZoneInfo("UTC"), since, max(visits, default=None), days, quest_steps)


def factor(name: RiskFactorName, of: Record, days: int = 30) -> tuple[float | None, str]:
    """Its value and evidence."""
    (found,) = [factor for factor in assess(of, days, NOW).factors if factor.name is name]
    return found.value, found.evidence


@pytest.mark.parametrize(
    ("of", "value", "evidence"),
    [
        (record(*visited(0)), 0, "Visited today"),
        (record(*visited(1)), 1 / 14, "No visit for 1 day; last on 21 November"),
        (record(*visited(20, 9)), 9 / 14, "No visit for 9 days; last on 13 November"),
        (record(*visited(14)), 1, "No visit for 14 days; last on 8 November"),
        (record(*visited(60)), 1, "No visit for 60 days; last on 23 September"),
        (record(*visited(400)), 1, "No visit for 400 days; last on 18 October 2025"),
        (record(since=NOW), 0, "No visit yet; known since 22 November"),
        (record(since=NOW - timedelta(days=7)), 7 / 14, "No visit yet; known since 15 November"),
        (record(RecentDay(TODAY, False, True, [], [])), 1, "No visit yet; known since 3 June"),
    ],
)
def test_days_inactive(of: Record, value: float, evidence: str) -> None:
    assert factor(RiskFactorName.DAYS_INACTIVE, of) == (value, evidence)


@pytest.mark.parametrize(
    ("days", "visits", "value", "evidence"),
    [
        (30, [], 1, "Visited on 0 of the last 30 days"),
        (30, [0, 1, 29, 30], 69 / 90, "Visited on 3 of the last 30 days"),
        (7, [0, 6, 7], 7 / 21, "Visited on 2 of the last 7 days"),
        (7, [0, 1, 2], 0, "Visited on 3 of the last 7 days"),
        (7, [0, 1, 2, 3, 4], 0, "Visited on 5 of the last 7 days"),
        (14, [0, 1, 2], 0.5, "Visited on 3 of the last 14 days"),
    ],
)
def test_login_frequency(days: int, visits: list[int], value: float, evidence: str) -> None:
    found = factor(RiskFactorName.LOGIN_FREQUENCY, record(*visited(*visits)), days)
    assert found == (value, evidence)


@pytest.mark.parametrize(
    ("steps", "value", "evidence"),
    [
        ((), None, "No quest started in the last 7 days"),
        (((7, STARTED, "a"), (1, COMPLETED, "a")), None, "No quest started in the last 7 days"),
        (((6, STARTED, "a"),), 1, "Completed 0 of 1 quest started in the last 7 days"),
        (((6, STARTED, "a"), (5, COMPLETED, "a")), 0, "Completed 1 of 1 quest started in the last 7 days"),
        (
            ((5, COMPLETED, "a"), (4, STARTED, "a"), (3, STARTED, "b"), (2, STARTED, "b"), (1, COMPLETED, "b")),
            0.5,
            "Completed 1 of 2 quests started in the last 7 days",
        ),
    ],
)
def test_quest_completion(
    steps: tuple[tuple[int, MilestoneKind, str], ...], value: float | None, evidence: str
) -> None:
    assert factor(RiskFactorName.QUEST_COMPLETION, record(steps=steps), 7) == (value, evidence)


@pytest.mark.parametrize(
    ("days", "value", "evidence"),
    [
        ([], None, "No session that has ended in the last 30 days"),
        (visited(0, open_for=timedelta(seconds=1)), None, "No session that has ended in the last 30 days"),
        (visited(30), None, "No session that has ended in the last 30 days"),
        (visited(3, 2, 1), 0.5, "The usual session of the last 30 days lasted 10 minutes"),
        (visited(1, minutes=1), 0.95, "The usual session of the last 30 days lasted 1 minute"),
        (visited(1, minutes=0), 1, "The usual session of the last 30 days lasted 0 minutes"),
        (visited(1, minutes=45), 0, "The usual session of the last 30 days lasted 45 minutes"),
        (
            [*visited(2, minutes=5), *visited(1, minutes=10)],
            0.625,
            "The usual session of the last 30 days lasted 7.5 minutes",
        ),
        (
            [*visited(2, minutes=5), *visited(0, minutes=10, open_for=timedelta(seconds=1))],
            0.75,
            "The usual session of the last 30 days lasted 5 minutes",
        ),
    ],
)
def test_session_duration(days: list[RecentDay], value: float | None, evidence: str) -> None:
    assert factor(RiskFactorName.SESSION_DURATION, record(*days)) == (value, evidence)


@pytest.mark.parametrize(
    ("active", "value", "evidence"),
    [
        ([], 1, "Learnt neither today nor yesterday"),
        ([2, 3], 1, "Learnt neither today nor yesterday"),
        ([0], 6 / 7, "Learnt today"),
        ([1, 3], 6 / 7, "Learnt yesterday"),
        ([0, 1, 2], 4 / 7, "Learnt on 3 days in a row up to today"),
        ([1, 2, 4], 5 / 7, "Learnt on 2 days in a row up to yesterday"),
        (range(7), 0, "Learnt every day for a week or more"),
        (range(1, 60), 0, "Learnt every day for a week or more"),
    ],
)
def test_streak_whatever_the_window(active: list[int], value: float, evidence: str) -> None:
    of = record(*visited(*active, active=True))
    for days in (7, 30):
        assert factor(RiskFactorName.STREAK, of, days) == (value, evidence)


def test_the_score_is_the_weighted_mean_of_the_factors_that_have_a_value() -> None:
    everything = record(
        *visited(8, minutes=15), *visited(1, minutes=15, active=True), steps=((1, STARTED, "a"), (1, STARTED, "b"))
    )
    found = assess(everything, 14, NOW)
    assert [factor.value for factor in found.factors] == [1 / 14, pytest.approx(2 / 3), 1, 0.25, 6 / 7]
    assert [factor.weight for factor in found.factors] == [0.4, 0.25, 0.2, 0.1, 0.05]
    weighted = 0.4 / 14 + 0.25 * 2 / 3 + 0.2 + 0.1 * 0.25 + 0.05 * 6 / 7
    assert found.score == pytest.approx(weighted)
    assert (found.model, found.assessed_at) == ("seed-weights-1", NOW)

    nothing = assess(record(), 30, NOW)
    assert [factor.value for factor in nothing.factors] == [1, 1, None, None, 1]
    assert nothing.score == 1


@pytest.mark.parametrize(("days", "told"), [(13, False), (14, True)])
def test_there_is_no_score_before_14_local_dates_have_passed(days: int, told: bool) -> None:
    """In the learner's own zone: to one in Kiritimati it is tomorrow."""
    for zone, hours in (("UTC", 0), ("Pacific/Kiritimati", 14)):
        since = datetime.combine(ago(days), datetime.min.time(), UTC) - timedelta(hours=hours)
        of = Record(ZoneInfo(zone), since, None, [], [])
        found = assess(of, 30, NOW - timedelta(hours=hours))
        assert (found.score is not None, found.level is not None) == (told, told)
        assert len(found.factors) == 5
        assert may_be_listed(of, NOW - timedelta(hours=hours)) is told


@pytest.mark.parametrize(
    ("score", "level"),
    [
        (None, None),
        (0, "HIGH"),
        (0.2999999999999999, "HIGH"),
        (0.3, "MEDIUM"),
        (0.5999999999999999, "MEDIUM"),
        (0.6, "LOW"),
        (0.7999999999999998, "LOW"),
        (0.8, "AT_RISK"),
        (1, "AT_RISK"),
    ],
)
def test_levels_begin_where_they_are_said_to(score: float | None, level: str | None) -> None:
    assert Assessment(score, [], NOW).level == (level and EngagementLevel(level))


def test_a_score_on_the_edge_of_a_level_is_not_lost_to_rounding() -> None:
    """Exactly 0.8, which the weighted mean in floats misses by one in the last place."""
    found = assess(
        record(
            *visited(13, 14, 15, minutes=5),
            *(RecentDay(ago(day), False, True, [], []) for day in (2, 1, 0)),
            steps=(*((14, STARTED, quest) for quest in "abc"), (13, COMPLETED, "a")),
        ),
        30,
        NOW,
    )
    assert sum(one.weight * one.value for one in found.factors if one.value is not None) < 0.8
    assert (found.score, found.level) == (0.8, EngagementLevel.AT_RISK)


@pytest.mark.parametrize(
    ("last_visit", "known", "listed"),
    [(89, 200, True), (90, 200, False), (None, 89, True), (None, 90, False), (0, 200, True), (0, 13, False)],
)
def test_listed_is_who_visited_or_became_known_within_90_days(last_visit: int | None, known: int, listed: bool) -> None:
    since = NOW - timedelta(days=known)
    of = Record(ZoneInfo("UTC"), since, None if last_visit is None else ago(last_visit), [], [])
    assert may_be_listed(of, NOW) is listed


@given(
    days=st.sampled_from((7, 14, 30, 90)),
    visits=st.sets(st.integers(0, 100)),
    minutes=st.floats(0, 1440),
    quests=st.lists(st.tuples(st.integers(0, 100), st.sampled_from((STARTED, COMPLETED)), st.sampled_from("abc"))),
)
def test_every_value_lies_between_0_and_1(
    days: int, visits: set[int], minutes: float, quests: list[tuple[int, MilestoneKind, str]]
) -> None:
    found = assess(record(*visited(*visits, minutes=minutes, active=True), steps=tuple(quests)), days, NOW)
    assert found.score is not None
    assert 0 <= found.score <= 1
    for one in found.factors:
        assert isinstance(one, Factor)
        assert one.evidence
        assert one.value is None or 0 <= one.value <= 1
