"""A family, a stranger and the platform's own people, of whom every list has something to tell."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from models.viewer import Role
from tests.platform import BROWSER, Asker, Platform

CHILD, SIBLING, PARENT, ADMIN, SERVICE_USER = "sam", "kim", "pat", "ada", "robin"
STRANGER, STRANGERS_GUARDIAN, NOBODY = "zenobia", "gus", "nobody"
STRANGERS_XP = 987_654
"""The stranger alone has so much XP, talks with the tutor, and is named in whatever can hold a name."""

ASKERS: dict[str, Asker] = {
    "no token": None,
    "STUDENT": (Role.STUDENT, CHILD),
    "PARENT": (Role.PARENT, PARENT),
    "ADMIN": (Role.ADMIN, ADMIN),
    "SERVICE": (Role.SERVICE, SERVICE_USER),
}
_TELLING = re.compile(rf'{STRANGER}|{STRANGERS_GUARDIAN}|{STRANGERS_XP}|"TUTOR", "count": [1-9]', re.IGNORECASE)


async def move_in(platform: Platform) -> None:
    """Make all of them known, link them, and let each have had the same day two days ago."""
    roles = {PARENT: "PARENT", STRANGERS_GUARDIAN: "PARENT", ADMIN: "ADMIN"}
    known = (CHILD, SIBLING, PARENT, ADMIN, SERVICE_USER, STRANGER)
    await platform.upsert(
        *(
            {"userId": who, "role": roles.get(who, "STUDENT"), "displayName": who.title()}
            for who in (*known, STRANGERS_GUARDIAN)
        )
    )
    for guardian, child in ((PARENT, CHILD), (PARENT, SIBLING), (STRANGERS_GUARDIAN, STRANGER)):
        await platform.link(guardian, child)
        await platform.consent(child, guardian, revoke=True)
        await platform.consent(child, guardian)
    for who in known:
        sent = await platform.track(list(day_of(who)))
        assert not sent["rejected"], sent["userErrors"]
    await platform.settle()


def day_of(who: str) -> Iterator[dict[str, Any]]:
    """The events of one day, as a SERVICE sends them: with something in every figure and field."""
    start = (datetime.now(UTC) - timedelta(days=2)).replace(hour=10, minute=0, second=0, microsecond=0)
    xp = STRANGERS_XP if who == STRANGER else 100
    quests = [{"questId": f"{who}-{index}", "questTitle": f"{who}'s quest"} for index in range(5)]
    badge = {"badgeId": f"{who}-badge", "badgeName": f"{who}'s badge"}
    events: list[dict[str, Any]] = [
        {"pageView": {"loadTimeMs": 10}},
        {"loginSuccess": {"method": "password"}},
        *({"questStarted": quest} for quest in quests),
        {"questViewed": quests[0]},
        {"questCompleted": {**quests[0], "xp": xp, "pillar": f"{who}'s pillar"}},
        {"questAbandoned": quests[1]},
        {"taskCompleted": {"taskId": f"{who}-task"}},
        {"badgeEarned": badge},
        {"badgeClaimed": badge},
        {"profileViewed": {"profileId": who}},
        {"pageExit": {"visibleSeconds": 12}},
        {"badgeViewed": badge},
        {
            "javascriptError": {
                "message": f"{who}'s error",
                "stack": f"{who}@https://quests.example/app.js:1:2",
                "componentName": f"{who}'s part",
                "release": "1",
            }
        },
        {"apiError": {"message": "no", "endpoint": f"/api/{who}", "statusCode": 500}},
        {"tutorOpened": {}} if who == STRANGER else {"pageView": {}},
    ]
    for index, event in enumerate(events):
        yield {
            "eventId": str(uuid5(NAMESPACE_OID, f"{who} {index}")),
            "occurredAt": (start + timedelta(minutes=index)).isoformat(),
            "event": event,
            "deviceId": str(device_of(who)),
            "page": {"path": f"/of/{who}"},
            "client": {"userAgent": BROWSER},
            "userId": who,
        }


def device_of(who: str) -> UUID:
    """The one browser that somebody has."""
    return uuid5(NAMESPACE_OID, who)


def tells_of_stranger(answer: object) -> bool:
    """Whether anything in an answer could only come from the stranger."""
    return bool(_TELLING.search(json.dumps(answer)))


NODE_IDS = """
query ($who: ID!) {
  user(userId: $who) {
    User: id
    events(types: ["profile_viewed"]) { nodes { ActivityEvent: id } edges { cursor } }
    sessions { nodes { Session: id } edges { cursor } }
    journey { milestones { nodes { Milestone: id } edges { cursor } } }
  }
}
"""


async def node_ids(platform: Platform, who: str) -> dict[str, str]:
    """A node of each kind that tells of them, by kind, as an admin finds them."""
    user = (await platform.data(NODE_IDS, ASKERS["ADMIN"], who=who))["user"]
    return {
        "User": user["User"],
        **user["events"]["nodes"][0],
        **user["sessions"]["nodes"][0],
        **user["journey"]["milestones"]["nodes"][0],
    }


async def cursors(platform: Platform, who: str) -> dict[str, str]:
    """The place of their first entry in each list, as an admin finds it."""
    user = (await platform.data(NODE_IDS, ASKERS["ADMIN"], who=who))["user"]
    lists = {"events": user["events"], "sessions": user["sessions"], "milestones": user["journey"]["milestones"]}
    return {name: found["edges"][0]["cursor"] for name, found in lists.items()}
