"""Those at risk: whom the list holds, in which order and on which pages, and what is said of somebody new."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from sqlalchemy import text

from models.viewer import Role
from tests.platform import Answer, Asker, Platform, until

ADMIN: Asker = (Role.ADMIN, "root")
NOW = datetime.now(UTC).replace(microsecond=0)
LIST = """
query ($days: Int! = 30, $threshold: Float! = 0, $first: Int, $after: String, $last: Int, $before: String) {
  atRiskStudents(days: $days, threshold: $threshold, first: $first, after: $after, last: $last, before: $before) {
    edges { cursor node { user { userId } risk { score } } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
RISK = """
query ($who: ID!) {
  user(userId: $who) {
    engagement(days: 7) { level }
    risk { score engagementLevel factors { name weight value evidence } assessedAt model }
  }
}
"""
# The last visit of each, in days ago: the longer, the higher the score; the last two alike.
LAST_VISITS = {"ann": 0, "bob": 2, "cem": 4, "dora": 6, "eve": 8, "fay": 10, "zoe": 12, "gil": 12}
IN_ORDER = ["gil", "zoe", "fay", "eve", "dora", "cem", "bob", "ann"]


def visit(user_id: str, ago: int) -> Answer:
    return {
        "eventId": str(uuid4()),
        "occurredAt": (NOW - timedelta(days=ago)).isoformat(),
        "event": {"pageView": {}},
        "page": {"path": "/"},
        "userId": user_id,
        "deviceId": str(uuid4()),
    }


@pytest.fixture(scope="module", autouse=True)
async def school(platform: Platform) -> None:
    """Eight who may be listed; who may not: a parent, somebody new, and one whom nobody saw for 90 days."""
    others = {"pat": "PARENT", "new": "STUDENT", "gone": "STUDENT"}
    await platform.upsert(
        *({"userId": who, "role": "STUDENT"} for who in LAST_VISITS),
        *({"userId": who, "role": role} for who, role in others.items()),
    )
    await platform.track([visit(who, ago) for who, last in LAST_VISITS.items() for ago in (last, 40)])
    await platform.settle()
    await known_since(platform, 100, "pat", "gone")


async def known_since(platform: Platform, days: int, *user_ids: str) -> None:
    """Let them be known for so many days, and be assessed."""
    async with platform.superuser.begin() as connection:
        among = {"days": days, "ids": list(user_ids)}
        await connection.execute(
            text("UPDATE users SET known_since = now() - interval '1 day' * :days WHERE user_id = ANY (:ids)"), among
        )
        await connection.execute(
            text(
                "UPDATE assessments_due SET due_at = now()"
                " WHERE subject_key IN (SELECT subject_key FROM users WHERE user_id = ANY (:ids))"
            ),
            among,
        )
    await platform.settle()


async def page(platform: Platform, **arguments: Any) -> Answer:
    found: Answer = (await platform.data(LIST, ADMIN, **arguments))["atRiskStudents"]
    return found


def names(found: Answer) -> list[str]:
    return [edge["node"]["user"]["userId"] for edge in found["edges"]]


async def errors(platform: Platform, **arguments: Any) -> list[tuple[str, str]]:
    answer = await platform.ask(LIST, ADMIN, **arguments)
    assert answer["data"] == {"atRiskStudents": None}
    return [(error["extensions"]["code"], error["message"]) for error in answer["errors"]]


# ------------------------------------------------------------------------------------------ whom it holds


async def test_students_are_listed_from_the_threshold_up_the_highest_score_first(platform: Platform) -> None:
    everybody = await page(platform)
    scores = [edge["node"]["risk"]["score"] for edge in everybody["edges"]]
    assert names(everybody) == IN_ORDER
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == scores[1] > scores[2]
    for place, score in enumerate(scores[2:], start=2):
        assert names(await page(platform, threshold=score)) == IN_ORDER[: place + 1]
        assert names(await page(platform, threshold=score + 1e-9)) == IN_ORDER[:place]


async def test_the_score_is_that_of_the_days_asked_for(platform: Platform) -> None:
    found = {}
    for days in (7, 14, 30, 90):
        (edge,) = (await page(platform, days=days, first=1))["edges"]
        assert edge["node"]["user"]["userId"] == "gil"
        found[days] = edge["node"]["risk"]["score"]
    assert len(set(found.values())) == 4


async def test_what_the_defaults_are(platform: Platform) -> None:
    answer = await platform.data("{ atRiskStudents { nodes { user { userId } risk { score } } } }", ADMIN)
    expected = await page(platform, days=30, threshold=0.7)
    assert answer["atRiskStudents"]["nodes"] == [edge["node"] for edge in expected["edges"]]
    assert 0 < len(expected["edges"]) < len(IN_ORDER)


async def test_a_student_hangs_with_all_there_is_below(platform: Platform) -> None:
    query = """{
      atRiskStudents(first: 1, threshold: 0) {
        nodes {
          user { userId engagement { visitDays level } journey { rhythm } events { nodes { type } } guardians { userId }
                 risk { score } }
          risk { score engagementLevel model factors { evidence } }
        }
      }
    }"""
    await platform.link("pat", "gil")
    (node,) = (await platform.data(query, ADMIN))["atRiskStudents"]["nodes"]
    assert node["user"]["engagement"] == {"visitDays": 1, "level": node["risk"]["engagementLevel"]}
    assert node["user"]["journey"] == {"rhythm": "YELLOW"}
    assert len(node["user"]["events"]["nodes"]) == 2
    assert node["user"]["guardians"] == [{"userId": "pat"}]
    assert node["user"]["risk"]["score"] == node["risk"]["score"]
    last = NOW - timedelta(days=12)
    days = (datetime.now(UTC).date() - last.date()).days
    assert node["risk"]["factors"][0] == {"evidence": f"No visit for {days} days; last on {last.day} {last:%B}"}


# ------------------------------------------------------------------------------------------ on which pages


@pytest.mark.parametrize("size", [1, 3, 8])
async def test_pages_put_together_are_the_whole_list(platform: Platform, size: int) -> None:
    forward: list[str] = []
    backward: list[str] = []
    after = before = None
    while len(forward) < len(IN_ORDER):
        found = await page(platform, first=size, after=after)
        assert found["pageInfo"]["hasPreviousPage"] is bool(forward)
        forward += names(found)
        assert found["pageInfo"]["hasNextPage"] is (len(forward) < len(IN_ORDER))
        after = found["pageInfo"]["endCursor"]
    while len(backward) < len(IN_ORDER):
        found = await page(platform, last=size, before=before)
        assert found["pageInfo"]["hasNextPage"] is bool(backward)
        backward = names(found) + backward
        assert found["pageInfo"]["hasPreviousPage"] is (len(backward) < len(IN_ORDER))
        before = found["pageInfo"]["startCursor"]
    assert forward == backward == IN_ORDER


async def test_who_comes_while_paging_neither_hides_nor_repeats_anybody(platform: Platform) -> None:
    first = await page(platform, first=3)
    await platform.upsert({"userId": "hal", "role": "STUDENT"}, {"userId": "ian", "role": "STUDENT"})
    await platform.track([visit("hal", 13), visit("hal", 40), visit("ian", 1), visit("ian", 40)])
    await platform.settle()
    rest = await page(platform, first=100, after=first["pageInfo"]["endCursor"])
    assert [*names(first), *names(rest)] == [*IN_ORDER[:-1], "ian", "ann"]
    assert names(await page(platform))[0] == "hal"
    async with platform.superuser.begin() as connection:
        await connection.execute(text("DELETE FROM users WHERE user_id IN ('hal', 'ian')"))
    assert names(await page(platform)) == IN_ORDER


async def test_a_cursor_of_another_list_is_refused(platform: Platform) -> None:
    other = await platform.data("{ users(first: 1) { pageInfo { endCursor } } }", ADMIN)
    places: list[tuple[object, ...]] = [
        ("users", "-0.5", "ann"),
        ("atRiskStudents", "-0.5"),
        ("atRiskStudents", "-0.5", "ann", "ann"),
        ("atRiskStudents", "nan", "ann"),
        ("atRiskStudents", "-inf", "ann"),
        ("atRiskStudents", "much", "ann"),
        ("atRiskStudents", None, "ann"),
        ("atRiskStudents", "-0.5", "a\x00"),
        ("atRiskStudents", "-0.5", 5),
    ]
    made = [base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=") for place in places]
    for cursor in (other["users"]["pageInfo"]["endCursor"], "garbage", "", *made):
        for argument in ("after", "before"):
            assert await errors(platform, **{argument: cursor}) == [
                ("BAD_USER_INPUT", f"{argument} is no cursor of this list")
            ]


# ------------------------------------------------------------------------------------------ what bad input gets


@pytest.mark.parametrize("days", [0, -7, 1, 8, 31, 365, 2**31 - 1])
async def test_the_days_are_7_14_30_or_90(platform: Platform, days: int) -> None:
    expected = ("BAD_USER_INPUT", f"days is {days}, and must be 7, 14, 30 or 90")
    assert await errors(platform, days=days) == [expected]


@pytest.mark.parametrize("threshold", [-0.001, 1.001, -1e308, 1e308])
async def test_the_threshold_is_0_to_1(platform: Platform, threshold: float) -> None:
    expected = ("BAD_USER_INPUT", f"threshold is {threshold}, and must be 0 to 1")
    assert await errors(platform, threshold=threshold) == [expected]
    assert names(await page(platform, threshold=1)) == []


@pytest.mark.parametrize("arguments", [{"first": 0}, {"first": 101}, {"last": 0}, {"first": 1, "last": 1}])
async def test_exactly_one_of_first_and_last_is_given_and_1_to_100(
    platform: Platform, arguments: dict[str, int]
) -> None:
    assert [code for code, _ in await errors(platform, **arguments)] == ["BAD_USER_INPUT"]


# ------------------------------------------------------------------------------------------ of one user


async def test_whoever_became_known_a_moment_ago_is_assessed_on_the_spot(platform: Platform) -> None:
    """Also where no worker got to it yet."""
    now = datetime.now(UTC)
    await platform.upsert({"userId": "fresh", "role": "STUDENT"})
    await platform.settle()
    kept = (await platform.data(RISK, ADMIN, who="fresh"))["user"]
    async with platform.superuser.begin() as connection:
        await connection.execute(text("DELETE FROM risk_assessments WHERE user_id = 'fresh'"))
    found = (await platform.data(RISK, ADMIN, who="fresh"))["user"]
    assert kept["risk"].pop("assessedAt") < found["risk"].pop("assessedAt")
    assert found == kept
    assert found["engagement"] == {"level": None}
    assert (found["risk"]["score"], found["risk"]["engagementLevel"]) == (None, None)
    assert found["risk"]["model"] == "seed-weights-1"
    today = f"{now.day} {now:%B}"
    assert [(one["name"], one["value"], one["evidence"]) for one in found["risk"]["factors"]] == [
        ("DAYS_INACTIVE", 0, f"No visit yet; known since {today}"),
        ("LOGIN_FREQUENCY", 1, "Visited on 0 of the last 30 days"),
        ("QUEST_COMPLETION", None, "No quest started in the last 30 days"),
        ("SESSION_DURATION", None, "No session that has ended in the last 30 days"),
        ("STREAK", 1, "Learnt neither today nor yesterday"),
    ]


async def test_the_level_is_that_of_30_days_whatever_days_are_asked_for(platform: Platform) -> None:
    found = (await platform.data(RISK, ADMIN, who="fay"))["user"]
    assert found["engagement"]["level"] == found["risk"]["engagementLevel"] is not None


async def test_the_worker_assesses_whose_days_have_changed(platform: Platform) -> None:
    await platform.upsert({"userId": "back", "role": "STUDENT"})
    await platform.track([visit("back", 20)])
    await platform.settle()
    before = (await platform.data(RISK, ADMIN, who="back"))["user"]["risk"]
    await platform.track([visit("back", 0)])

    async def assessed_again() -> bool:
        now = (await platform.data(RISK, ADMIN, who="back"))["user"]["risk"]
        return bool(now["score"] < before["score"] and now["assessedAt"] > before["assessedAt"])

    await until(assessed_again)
