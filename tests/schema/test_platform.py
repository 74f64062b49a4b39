"""What an admin is told of the whole platform: bad input is named, and what nobody can tell apart any more is null."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from models.error import error_group
from models.horizon import horizon
from models.viewer import Role
from schema.node import global_id
from tests.platform import Answer, Asker, Platform

ADMIN: Asker = (Role.ADMIN, "root")
NOW = datetime.now(UTC).replace(microsecond=0)
WHOLE = {
    "pageViews": "nodes { path views uniqueUsers daily { dates views uniqueUsers } }",
    "popularQuests": "questId starts completionRate",
    "popularBadges": "badgeId views claimRate",
    "errors": "groups { nodes { message count usersAffected } }",
}
LATEST_GROUP = """
  id errorType message culprit count usersAffected firstSeen lastSeen
  sample { id message stack component pagePath endpoint statusCode release occurredAt }
"""


def sent(ago: timedelta, path: str, field: str, user_id: str = "sam", **payload: Any) -> Answer:
    return {
        "eventId": str(uuid4()),
        "occurredAt": (NOW - ago).isoformat(),
        "event": {field: payload},
        "userId": user_id,
        "deviceId": str(uuid4()),
        "page": {"path": path},
    }


@pytest.fixture(scope="module", autouse=True)
async def town(platform: Platform) -> None:
    """Two learners, with something of everything today and 20 days ago."""
    await platform.upsert(*({"userId": who, "role": "STUDENT"} for who in ("sam", "kim")))
    events = [
        sent(timedelta(days=ago), path, field, who, **payload)
        for ago in (0, 20)
        for who in ("sam", "kim")
        for path, field, payload in (
            ("/quests/100%", "pageView", {}),
            ("/quests/1000", "pageView", {}),
            ("/badges", "pageView", {}),
            ("/badges", "questStarted", {"questId": "maps", "questTitle": "Draw a map"}),
            ("/badges", "badgeViewed", {"badgeId": "globe"}),
            ("/badges", "apiError", {"message": f"No quest {ago}", "endpoint": "/api/quests", "statusCode": 500}),
        )
    ]
    old = sent(timedelta(days=20), "/old", "javascriptError", message="Gone", componentName="Map", release="0.9")
    assert not (await platform.track([*events, old]))["rejected"]
    await platform.settle()


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("pageViews(days: 0)", "days is 0, and must be 1 to 365"),
        ("pageViews(days: 366)", "days is 366, and must be 1 to 365"),
        ("pageViews(first: 101)", "first is 101, and must be 1 to 100"),
        ("pageViews(first: 1, last: 1)", "give first or last, not both"),
        ("popularQuests(days: -1)", "days is -1, and must be 1 to 365"),
        ("popularQuests(limit: 0)", "limit is 0, and must be 1 to 100"),
        ("popularBadges(limit: 101)", "limit is 101, and must be 1 to 100"),
        ("popularBadges(days: 1000)", "days is 1000, and must be 1 to 365"),
        ("errors(days: 366)", "days is 366, and must be 1 to 365"),
    ],
)
async def test_what_is_out_of_range_is_named_with_its_range(platform: Platform, question: str, told: str) -> None:
    root = question.partition("(")[0]
    answer = await platform.ask(f"{{ {question} {{ {WHOLE[root]} }} }}", ADMIN)
    assert answer["data"] == {root: None}
    assert [(error["message"], error["extensions"]["code"]) for error in answer["errors"]] == [(told, "BAD_USER_INPUT")]


async def test_how_many_recent_errors_are_asked_for_is_checked(platform: Platform) -> None:
    answer = await platform.ask("{ errors { recentErrors(first: 101) { id } } }", ADMIN)
    assert [error["message"] for error in answer["errors"]] == ["first is 101, and must be 1 to 100"]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (None, ["/badges", "/quests/100%", "/quests/1000"]),
        ("", ["/badges", "/quests/100%", "/quests/1000"]),
        ("/quests/", ["/quests/100%", "/quests/1000"]),
        ("/quests/100%", ["/quests/100%"]),
        ("/quests/100_", []),
        ("/Quests", []),
        ("maps", []),
        ("\x00", []),
    ],
)
async def test_paths_begin_with_the_prefix_letter_by_letter(
    platform: Platform, prefix: str | None, expected: list[str]
) -> None:
    query = "query ($prefix: String) { pageViews(pathPrefix: $prefix) { nodes { path } } }"
    found = await platform.data(query, ADMIN, prefix=prefix)
    assert [page["path"] for page in found["pageViews"]["nodes"]] == expected


async def test_people_are_told_apart_up_to_the_horizon_and_no_further(platform: Platform) -> None:
    now = datetime.now(UTC)
    edge = horizon(now, platform.settings.anonymize_after_days).date()
    days = (now.date() - edge).days + 1
    query = "query ($days: Int!) {" + " ".join(f"{root}(days: $days) {{ {of} }}" for root, of in WHOLE.items()) + "}"
    within, beyond = [await platform.data(query, ADMIN, days=each) for each in (days, days + 1)]
    assert [page["uniqueUsers"] for page in within["pageViews"]["nodes"]] == [2, 2, 2]
    assert within["popularQuests"] == [{"questId": "maps", "starts": 4, "completionRate": 0.0}]
    assert within["popularBadges"] == [{"badgeId": "globe", "views": 4, "claimRate": 0.0}]
    assert [group["usersAffected"] for group in within["errors"]["groups"]["nodes"]] == [2, 1]
    assert [page["uniqueUsers"] for page in beyond["pageViews"]["nodes"]] == [None] * 3
    assert beyond["popularQuests"] == [{"questId": "maps", "starts": 4, "completionRate": None}]
    assert beyond["popularBadges"] == [{"badgeId": "globe", "views": 4, "claimRate": None}]
    assert [group["usersAffected"] for group in beyond["errors"]["groups"]["nodes"]] == [None, None]
    daily = beyond["pageViews"]["nodes"][0]["daily"]
    assert len(daily["dates"]) == days + 1
    assert daily["uniqueUsers"][:2] == [None, 0]
    assert daily["dates"][-1] == str(now.date())
    last = daily["dates"].index(str(NOW.date()))
    assert (daily["views"][last], daily["uniqueUsers"][last]) == (2, 2)


async def test_a_group_is_of_the_window_where_it_is_listed_and_of_seven_days_by_its_id(platform: Platform) -> None:
    query = f"{{ errors(days: 30) {{ groups {{ nodes {{ {LATEST_GROUP} }} }} }} }}"
    recent, old = (await platform.data(query, ADMIN))["errors"]["groups"]["nodes"]
    assert (recent["count"], recent["message"], recent["culprit"]) == (4, "No quest 0", "/api/quests")
    assert [datetime.fromisoformat(recent[seen]) for seen in ("firstSeen", "lastSeen")] == [
        NOW - timedelta(days=20),
        NOW,
    ]
    assert (old["count"], old["usersAffected"], old["culprit"]) == (1, 1, "Map")
    assert old["sample"]["release"] == "0.9"
    nodes = f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on ErrorGroup {{ {LATEST_GROUP} }} }} }}"
    found = (await platform.data(nodes, ADMIN, ids=[recent["id"], old["id"], global_id("ErrorGroup", uuid4())]))[
        "nodes"
    ]
    assert found == [{**recent, "count": 2}, {**old, "count": 0, "usersAffected": 0}, None]
    one = "query ($id: ID!) { node(id: $id) { ... on ErrorEvent { id message component release } } }"
    sample = (await platform.data(one, ADMIN, id=old["sample"]["id"]))["node"]
    assert sample == {"id": old["sample"]["id"], "message": "Gone", "component": "Map", "release": "0.9"}


async def test_errors_are_narrowed_by_their_type(platform: Platform) -> None:
    query = """
    query ($type: ErrorType) {
      errors(days: 30, errorType: $type) {
        totalErrors countsByType { errorType count } groups { nodes { message } } recentErrors(first: 1) { message }
      }
    }"""
    assert (await platform.data(query, ADMIN, type="JAVASCRIPT_ERROR"))["errors"] == {
        "totalErrors": 1,
        "countsByType": [{"errorType": "JAVASCRIPT_ERROR", "count": 1}],
        "groups": {"nodes": [{"message": "Gone"}]},
        "recentErrors": [{"message": "Gone"}],
    }
    assert (await platform.data(query, ADMIN))["errors"] == {
        "totalErrors": 5,
        "countsByType": [
            {"errorType": "JAVASCRIPT_ERROR", "count": 1},
            {"errorType": "API_ERROR", "count": 4},
            {"errorType": "NETWORK_ERROR", "count": 0},
        ],
        "groups": {"nodes": [{"message": "No quest 0"}, {"message": "Gone"}]},
        "recentErrors": [{"message": "No quest 0"}],
    }


async def test_a_quest_is_called_by_the_title_last_sent_whatever_comes_late(platform: Platform) -> None:
    for ago, title in ((1, "Draw maps"), (3, "Maps"), (0, None), (0, "Zeichne Karten")):
        named = {"questTitle": title} if title else {}
        await platform.track([sent(timedelta(days=ago), "/", "questViewed", questId="maps", **named)])
        await platform.settle()
        found = (await platform.data("{ popularQuests { questTitle } }", ADMIN))["popularQuests"]
        assert found == [{"questTitle": "Zeichne Karten" if title == "Zeichne Karten" else "Draw a map"}]


async def test_errors_stay_in_the_group_that_an_earlier_version_found(platform: Platform) -> None:
    earlier = sent(timedelta(hours=1), "/", "networkError", message="Away")
    await platform.track([earlier])
    await platform.settle()
    group = uuid4()
    async with platform.superuser.begin() as connection:
        for statement in (
            "UPDATE error_events SET group_id = :group, grouping = 0 WHERE message = 'Away'",
            "INSERT INTO error_groups SELECT group_id, occurred_at, occurred_at FROM error_events WHERE grouping = 0",
        ):
            await connection.execute(text(statement), {"group": group} if ":group" in statement else {})
    await platform.track([earlier, sent(timedelta(hours=2), "/", "networkError", message="Away")])
    await platform.settle()
    query = "{ errors(errorType: NETWORK_ERROR) { groups { nodes { id message count } } } }"
    kept, new = (await platform.data(query, ADMIN))["errors"]["groups"]["nodes"]
    assert kept == {"id": global_id("ErrorGroup", group), "message": "Away", "count": 1}
    assert new == {
        "id": global_id("ErrorGroup", error_group("network_error", {"message": "Away"})),
        "message": "Away",
        "count": 1,
    }


async def test_what_a_fast_clock_sent_of_tomorrow_is_none_of_todays_errors(platform: Platform) -> None:
    await platform.track([sent(timedelta(0), "/", "networkError", message="Tomorrow")])
    await platform.settle()
    now = datetime.now(UTC)
    tomorrow = now.replace(hour=0, minute=1) + timedelta(days=1)
    query = "{ errors(days: 1, errorType: NETWORK_ERROR) { recentErrors { message } groups { nodes { message } } } }"
    told = {"recentErrors": [{"message": "Tomorrow"}], "groups": {"nodes": [{"message": "Tomorrow"}]}}
    for at, errors in ((now, told), (tomorrow, {"recentErrors": [], "groups": {"nodes": []}})):
        async with platform.superuser.begin() as connection:
            statement = "UPDATE error_events SET occurred_at = :at WHERE message = 'Tomorrow'"
            await connection.execute(text(statement), {"at": at})
            await connection.execute(text("DELETE FROM error_events WHERE message = 'Away'"))
        assert (await platform.data(query, ADMIN))["errors"] == errors
