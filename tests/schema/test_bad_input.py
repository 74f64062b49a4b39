"""What bad input gets: an error that names the argument and its range, and nothing from whoever has no data."""

import base64
from typing import Any

import pytest

from models.viewer import Role
from tests.platform import Asker, Platform

ADMIN: Asker = (Role.ADMIN, "root")


def of_sam(selection: str) -> str:
    return f'user(userId: "sam") {{ {selection} }}'


WINDOWS = {
    "engagement": 'engagement(userId: "sam", days: $n) { days }',
    "eventCounts": 'eventCounts(userId: "sam", days: $n) { count }',
    "eventCounts of all": "eventCounts(days: $n) { count }",
    "User.engagement": of_sam("engagement(days: $n) { days }"),
    "User.eventCounts": of_sam("eventCounts(days: $n) { count }"),
}
LISTS = {
    "users": "users(HERE) { nodes { id } }",
    "activityEvents": "activityEvents(HERE) { nodes { id } }",
    "User.events": of_sam("events(HERE) { nodes { id } }"),
    "User.sessions": of_sam("sessions(HERE) { nodes { id } }"),
    "LearningJourney.milestones": of_sam("journey { milestones(HERE) { nodes { id } } }"),
    "atRiskStudents": "atRiskStudents(HERE) { nodes { risk { score } } }",
    "pageViews": "pageViews(HERE) { nodes { path } }",
    "ErrorSummary.groups": "errors { groups(HERE) { nodes { id } } }",
}
RECENT = of_sam("journey { recentCompletions(first: $n) { xp } }")
OF_USERS = base64.urlsafe_b64encode(b'["users", "sam"]').decode()
OF_EVENTS = base64.urlsafe_b64encode(
    b'["events", "2026-11-20T09:00:00+00:00", "00000000-0000-0000-0000-000000000007"]'
).decode()


@pytest.fixture(scope="module", autouse=True)
async def sam(platform: Platform) -> None:
    await platform.upsert({"userId": "sam", "role": "STUDENT"})


async def refused(platform: Platform, selection: str, **variables: Any) -> str:
    """Why the one thing that is asked is refused as bad input."""
    types = {"n": "Int!", "cursor": "String"}
    declared = ", ".join(f"${name}: {types[name]}" for name in variables)
    answer = await platform.ask(f"query ({declared}) {{ {selection} }}", ADMIN, **variables)
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT", error
    assert error["path"]
    message: str = error["message"]
    return message


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("days", [-1, 0, 366, 2**31 - 1])
async def test_days_are_1_to_365(platform: Platform, name: str, days: int) -> None:
    assert await refused(platform, WINDOWS[name], n=days) == f"days is {days}, and must be 1 to 365"


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("days", [1, 365])
async def test_both_ends_are_good(platform: Platform, name: str, days: int) -> None:
    assert await platform.data(f"query ($n: Int!) {{ {WINDOWS[name]} }}", ADMIN, n=days)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("argument", ["first", "last"])
@pytest.mark.parametrize("size", [-1, 0, 101])
async def test_first_and_last_are_1_to_100(platform: Platform, name: str, argument: str, size: int) -> None:
    message = await refused(platform, LISTS[name].replace("HERE", f"{argument}: $n"), n=size)
    assert message == f"{argument} is {size}, and must be 1 to 100"


async def test_of_several_variables_the_one_that_is_too_deep_is_named(platform: Platform) -> None:
    query = "query ($a: [ID!]!, $b: [ID!]!) { a: nodes(ids: $a) { id } b: nodes(ids: $b) { id } }"
    variables = '{"a": [["a"]], "b": %s}' % ("[" * 1000 + "]" * 1000)
    body = f'{{"query": "{query}", "variables": {variables}}}'
    answer = await platform.client.post("/graphql", content=body, headers={"content-type": "application/json"})
    error = answer.json()["errors"][-1]
    assert error["message"] == "Variable '$b' has invalid value: It is nested too deeply."
    assert (error["extensions"]["code"], error["path"]) == ("BAD_USER_INPUT", ["b"])


@pytest.mark.parametrize("size", [0, 101])
async def test_so_is_the_number_of_recent_completions(platform: Platform, size: int) -> None:
    assert await refused(platform, RECENT, n=size) == f"first is {size}, and must be 1 to 100"


@pytest.mark.parametrize("name", LISTS)
async def test_first_and_last_do_not_go_together(platform: Platform, name: str) -> None:
    message = await refused(platform, LISTS[name].replace("HERE", "first: $n, last: $n"), n=1)
    assert message == "give first or last, not both"


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("argument", ["after", "before"])
async def test_a_cursor_of_another_list_is_named(platform: Platform, name: str, argument: str) -> None:
    cursor = OF_EVENTS if name == "users" else OF_USERS
    message = await refused(platform, LISTS[name].replace("HERE", f"{argument}: $cursor"), cursor=cursor)
    assert message == f"{argument} is no cursor of this list"


NOTHING = """
{
  user(userId: "sam") {
    firstSeenAt lastSeenAt
    engagement {
      days activeDays visitDays sessions medianSessionMinutes timeOnPlatformHours logins questsViewed questsStarted
      questsCompleted questsAbandoned tasksCompleted badgesEarned completionRate currentStreak longestStreak
      lastActiveOn daily { events activeMinutes questsCompleted xp }
    }
    journey {
      firstQuestDate totalQuestsStarted totalQuestsCompleted currentStreak badgesEarned timeOnPlatformHours
      favoritePillar xpByPillar { xp } totalXp rhythm recentCompletions { xp } milestones { nodes { id } }
    }
    events { nodes { id } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } }
    sessions { nodes { id } }
    eventCounts { count }
  }
}
"""


async def test_a_learner_without_data_gets_zeros_and_nulls(platform: Platform) -> None:
    user = (await platform.data(NOTHING, ADMIN))["user"]
    none = dict.fromkeys(("medianSessionMinutes", "completionRate", "lastActiveOn"))
    engagement = user["engagement"]
    daily = engagement.pop("daily")
    assert engagement == {**dict.fromkeys(engagement, 0), **none, "days": 30}
    assert daily == dict.fromkeys(daily, [0] * 30)
    journey = user["journey"]
    assert journey == {
        **dict.fromkeys(journey, 0),
        "firstQuestDate": None,
        "favoritePillar": None,
        "xpByPillar": [],
        "rhythm": "NOT_ENOUGH_DATA",
        "recentCompletions": [],
        "milestones": {"nodes": []},
    }
    nowhere = {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    assert user["events"] == {"nodes": [], "pageInfo": nowhere}
    assert user["sessions"] == {"nodes": []}
    assert user["eventCounts"] == [{"count": 0}] * 9
    assert user["firstSeenAt"] is None
    assert user["lastSeenAt"] is None
