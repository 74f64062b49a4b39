"""Nothing of a learner is kept before somebody consents, nor after, and of whoever objects only what must be."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from models.viewer import Role
from questlog.app import create_app
from tests.platform import (
    CONSENT,
    LINK,
    REVOKE,
    SERVICE,
    SET_TRACKING,
    TRACK,
    Answer,
    Asker,
    Platform,
    browser,
)

ADMIN: Asker = (Role.ADMIN, "root")
NEEDED = {
    *("questStarted", "questCompleted", "questAbandoned", "taskCompleted", "badgeEarned", "badgeClaimed"),
    *("loginSuccess", "loginFailed", "logout", "sessionExpired", "tutorSafetyFlag"),
    *("javascriptError", "apiError", "networkError"),
}
TAXONOMY: Answer = json.loads((Path(__file__).parents[1] / "taxonomy.json").read_text())
CONSENTS = """
query ($userId: ID!) {
  user(userId: $userId) {
    trackingObjected
    consents { basis method givenBy { userId role displayName } givenAt noticeVersion revokedAt }
  }
}
"""
VISIBLE_TO = "{ viewer { visibleTo { person { userId displayName } role sees until } } }"


def born(age: int) -> str:
    """The birth date of somebody who became so many years old some months ago."""
    day = datetime.now(UTC).date() - timedelta(days=100)
    return day.replace(year=day.year - age, day=min(day.day, 28)).isoformat()


def event(field: str = "questViewed", payload: Answer | None = None, **more: Any) -> Answer:
    return {
        "eventId": str(uuid4()),
        "occurredAt": datetime.now(UTC).isoformat(),
        "event": {field: {"questId": "q"} if payload is None else payload},
        **more,
    }


class Family:
    """A child of twelve or so, their parent, and what becomes of what is sent about them."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform = platform
        self.child, self.parent = f"child {name}", f"parent {name}"
        self.themself: Asker = (Role.STUDENT, self.child)
        self.guardian: Asker = (Role.PARENT, self.parent)

    async def sent(self, *events: Answer, asker: Asker = None, headers: Answer | None = None) -> list[str]:
        """The codes of what was refused; the request itself always succeeds."""
        token = self.platform.token(*(asker or self.themself))  # type: ignore[misc]
        body = {"query": TRACK, "variables": {"events": events or [event()]}}
        answer = await self.platform.client.post(
            "/graphql", json=body, headers={"authorization": f"Bearer {token}", **(headers or {})}
        )
        assert answer.status_code == 200
        payload = answer.json()["data"]["trackEvents"]
        assert payload["accepted"] + payload["rejected"] == len(events or [0])
        return [error["code"] for error in payload["userErrors"]]

    async def by_service(self, *events: Answer) -> list[str]:
        return await self.sent(*({**each, "userId": self.child} for each in events or [event()]), asker=SERVICE)

    async def do(self, mutation: str, asker: Asker, **variables: Any) -> list[tuple[list[str], str]]:
        """The user errors of a mutation about the child."""
        ((payload),) = (await self.platform.data(mutation, asker, **({"userId": self.child} | variables))).values()
        return [(error["field"], error["code"]) for error in payload["userErrors"]]

    async def stored(self) -> list[str]:
        """The types of the child's stored events."""
        await self.platform.settle()
        async with self.platform.superuser.connect() as connection:
            query = (
                "SELECT event_type FROM user_activity_events JOIN users USING (subject_key) WHERE users.user_id = :u"
            )
            return sorted(await connection.scalars(text(query), {"u": self.child}))


@pytest.fixture
async def family(platform: Platform) -> Family:
    made = Family(platform, str(uuid4()))
    await platform.upsert(
        {"userId": made.child, "role": "STUDENT", "birthDate": born(12), "displayName": "Kit"},
        {"userId": made.parent, "role": "PARENT", "displayName": "Pat"},
        {"userId": "root", "role": "ADMIN"},
    )
    await platform.link(made.parent, made.child)
    return made


async def test_nothing_of_a_child_is_kept_before_a_consent_and_after_it_is_revoked(family: Family) -> None:
    whatever = [event(), event("networkError", {"message": "away"}), event("loginSuccess", {})]
    assert await family.sent(*whatever) == ["CONSENT_REQUIRED"] * 3
    assert await family.by_service(*whatever) == ["CONSENT_REQUIRED"] * 3
    assert await family.stored() == []
    assert await family.do(CONSENT, family.guardian, basis="PARENT", notice="1") == []
    assert await family.sent() == []
    assert await family.by_service() == []
    assert await family.stored() == ["quest_viewed"] * 2
    assert await family.do(REVOKE, family.guardian) == []
    assert await family.sent() == ["CONSENT_REQUIRED"]
    assert await family.by_service() == ["CONSENT_REQUIRED"]
    assert await family.do(CONSENT, SERVICE, basis="SCHOOL", notice="1") == []
    assert await family.sent() == []
    assert await family.stored() == ["quest_viewed"] * 3


async def test_the_rest_of_a_batch_is_kept(family: Family) -> None:
    await family.platform.upsert({"userId": "of age", "role": "STUDENT", "birthDate": born(14)})
    sent = [event(userId=family.child), event(userId="of age"), event(userId=family.child)]
    answer = await family.platform.track(sent)
    assert answer["accepted"] == 1
    assert [(error["index"], error["field"], error["code"]) for error in answer["userErrors"]] == [
        (0, ["userId"], "CONSENT_REQUIRED"),
        (2, ["userId"], "CONSENT_REQUIRED"),
    ]


async def test_a_birth_date_counts_from_the_next_event_on(family: Family) -> None:
    upsert = family.platform.upsert
    await upsert({"userId": family.child, "role": "STUDENT", "birthDate": None})
    assert await family.sent() == []
    await upsert({"userId": family.child, "role": "STUDENT", "birthDate": born(12)})
    assert await family.sent() == ["CONSENT_REQUIRED"]
    await upsert({"userId": family.child, "role": "STUDENT", "birthDate": born(13)})
    assert await family.sent() == []


async def test_the_day_is_the_learner_s_own(family: Family) -> None:
    """Kiritimati is more than a day ahead of Pago Pago."""
    today = datetime.now(UTC).astimezone(ZoneInfo("Pacific/Kiritimati")).date()
    birthday = date(today.year - 13, today.month, 28 if (today.month, today.day) == (2, 29) else today.day)
    for zone, codes in (("Pacific/Kiritimati", []), ("Pacific/Pago_Pago", ["CONSENT_REQUIRED"])):
        kept = {"userId": family.child, "role": "STUDENT", "birthDate": birthday.isoformat(), "timeZone": zone}
        await family.platform.upsert(kept)
        assert await family.sent() == codes


async def test_parents_and_admins_need_no_consent(family: Family) -> None:
    await family.platform.upsert({"userId": family.parent, "role": "PARENT", "birthDate": born(12)})
    assert await family.sent(asker=family.guardian) == []


@pytest.mark.parametrize(
    ("asker", "sent", "refused"),
    [
        ("parent", {"basis": "SCHOOL"}, [(["basis"], "FORBIDDEN")]),
        ("parent", {"basis": "PARENT", "by": "root"}, [(["givenById"], "FORBIDDEN")]),
        ("service", {"basis": "PARENT", "by": "nobody"}, [(["givenById"], "NOT_FOUND")]),
        ("service", {"basis": "PARENT", "by": "a\0b"}, [(["givenById"], "NOT_FOUND")]),
        ("service", {"basis": "PARENT", "by": "root"}, [(["givenById"], "INVALID")]),
        ("service", {"basis": "PARENT", "by": "child"}, [(["givenById"], "INVALID")]),
        ("service", {"basis": "SELF", "by": "child"}, [(["basis"], "INVALID")]),
        ("service", {"basis": "SELF"}, [(["basis"], "INVALID")]),
        ("service", {"basis": "SCHOOL", "notice": ""}, [(["noticeVersion"], "INVALID")]),
        ("service", {"basis": "SCHOOL", "notice": "1" * 201}, [(["noticeVersion"], "INVALID")]),
        ("service", {"basis": "SCHOOL", "method": "a\0b"}, [(["method"], "INVALID")]),
        ("service", {"basis": "SCHOOL", "at": "2999-01-01T00:00:00Z"}, [(["givenAt"], "INVALID")]),
        ("service", {"basis": "SCHOOL", "at": "0001-01-01T00:00:00+14:00"}, "BAD_USER_INPUT"),
        ("service", {"basis": "SCHOOL", "userId": "root"}, [(["userId"], "INVALID")]),
        ("service", {"basis": "SCHOOL", "userId": "nobody"}, [(["userId"], "NOT_FOUND")]),
        ("parent", {"basis": "PARENT", "userId": "root"}, [(["userId"], "NOT_FOUND")]),
        ("parent", {"basis": "PARENT", "userId": "nobody"}, [(["userId"], "NOT_FOUND")]),
    ],
)
async def test_a_consent_that_cannot_be_is_refused(family: Family, asker: str, sent: Answer, refused: Any) -> None:
    by = {"parent": family.guardian, "service": SERVICE}[asker]
    variables = {"notice": "1"} | sent | ({"by": family.child} if sent.get("by") == "child" else {})
    if refused == "BAD_USER_INPUT":
        answer = await family.platform.ask(CONSENT, by, userId=family.child, **variables)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    else:
        assert await family.do(CONSENT, by, **variables) == refused
    assert await family.sent() == ["CONSENT_REQUIRED"]


async def test_a_parent_loses_their_say_with_the_link(family: Family) -> None:
    unlink = (
        "mutation ($p: ID!, $c: ID!) { unlinkGuardian(input: {guardianId: $p, childId: $c}) { userErrors { code } } }"
    )
    await family.platform.data(unlink, SERVICE, p=family.parent, c=family.child)
    for mutation, more in (
        (CONSENT, {"basis": "PARENT", "notice": "1"}),
        (REVOKE, {}),
        (SET_TRACKING, {"objected": True}),
    ):
        assert await family.do(mutation, family.guardian, **more) == [(["userId"], "NOT_FOUND")]


async def test_the_same_consent_again_is_done_already(family: Family) -> None:
    assert await family.do(REVOKE, SERVICE) == [(["userId"], "ALREADY_DONE")]
    assert await family.do(CONSENT, family.guardian, basis="PARENT", notice="1") == []
    assert await family.do(CONSENT, SERVICE, basis="PARENT", notice="1", by=family.parent) == [
        (["userId"], "ALREADY_DONE")
    ]
    assert await family.do(CONSENT, family.guardian, basis="PARENT", notice="2") == []


async def test_a_learner_of_age_consents_themself_where_their_age_is_unknown(family: Family, strict: Platform) -> None:
    """By a setting that wants a consent of whoever's birth date is unknown."""
    unknown = Family(strict, family.child)
    await family.platform.upsert({"userId": family.child, "role": "STUDENT", "birthDate": None})
    assert await unknown.sent() == ["CONSENT_REQUIRED"]
    assert await unknown.do(CONSENT, SERVICE, userId=family.child, basis="SELF", notice="1", by=family.child) == []
    assert await strict.track([event()], (Role.STUDENT, family.child)) == {
        "accepted": 1,
        "rejected": 0,
        "receivedAt": ANY,
        "userErrors": [],
    }
    nobody_yet = Family(strict, str(uuid4()))
    assert await nobody_yet.sent() == ["CONSENT_REQUIRED"]
    assert await nobody_yet.sent(asker=nobody_yet.guardian) == []


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ANY = _Anything()


@pytest.fixture
async def strict(platform: Platform) -> AsyncIterator[Platform]:
    """A second API of the same installation, for which unknown ages count as under age."""
    app = create_app(platform.settings.model_copy(update={"unknown_age_needs_consent": True}))
    async with app.router.lifespan_context(app), browser(app) as client:
        yield replace(platform, app=app, client=client)


async def test_all_consents_are_kept_and_told(family: Family) -> None:
    form = {"basis": "SCHOOL", "notice": "1", "method": "a form", "at": "2026-01-31T09:30:00Z"}
    assert await family.do(CONSENT, SERVICE, **form) == []
    assert await family.do(REVOKE, ADMIN) == []
    assert await family.do(CONSENT, family.guardian, basis="PARENT", notice="2") == []
    for asker in (family.themself, family.guardian, ADMIN):
        now, then = (await family.platform.data(CONSENTS, asker, userId=family.child))["user"]["consents"]
        assert now.items() >= {"basis": "PARENT", "method": None, "noticeVersion": "2", "revokedAt": None}.items()
        assert now["givenBy"] == {"userId": family.parent, "role": "PARENT", "displayName": "Pat"}
        assert then.items() >= {"basis": "SCHOOL", "method": "a form", "givenBy": None}.items()
        assert then["givenAt"] == form["at"]
        assert then["revokedAt"] > then["givenAt"]


# ------------------------------------------------------------------------------------------------- objections


def one_of_each(user_id: str) -> dict[str, Answer]:
    """An event of every type, by its field."""
    good = {"ID": "x", "String": "word", "Int": 200, "BigInt": 7, "Float": 1.5, "SafetySeverity": "HIGH"}
    found = {}
    for kind in TAXONOMY["events"]:
        payload = {
            field["name"]: user_id if field.get("person") else good.get(field["type"].rstrip("!"))
            for field in TAXONOMY["inputs"][kind["input"]]
            if field["type"].endswith("!")
        }
        if kind["type"] == "custom":
            payload = {"name": "map_drawn"}
        found[kind["field"]] = event(
            kind["field"], payload, page={"path": f"/of/{user_id}", "title": user_id}, deviceId=str(uuid4())
        )
    return found


async def test_of_whoever_objects_only_what_the_platform_needs_is_kept(family: Family) -> None:
    await family.platform.consent(family.child)
    assert await family.do(SET_TRACKING, family.themself, objected=True) == []
    assert await family.do(SET_TRACKING, family.themself, objected=True) == [(["objected"], "ALREADY_DONE")]
    sent = one_of_each(family.child)
    answer = await family.platform.track([{**each, "userId": family.child} for each in sent.values()])
    fields = list(sent)
    dropped = {fields[error["index"]] for error in answer["userErrors"]}
    assert {error["code"] for error in answer["userErrors"]} == {"TRACKING_OBJECTED"}
    assert dropped == sent.keys() - NEEDED
    types = {kind["field"]: kind["type"] for kind in TAXONOMY["events"]}
    named = {types[field] for field in NEEDED if not field.endswith("Error")}
    assert await family.stored() == sorted(named)
    assert (await family.platform.data(CONSENTS, family.themself, userId=family.child))["user"]["trackingObjected"]
    assert await family.do(SET_TRACKING, family.guardian, objected=False) == []
    assert await family.sent() == []


async def test_their_errors_tell_of_nobody(family: Family) -> None:
    await family.platform.consent(family.child)
    assert await family.do(SET_TRACKING, family.guardian, objected=True) == []
    device = str(uuid4())
    where = {"deviceId": device, "page": {"path": f"/of/{family.child}", "title": family.child}}
    errors = [event("networkError", {"message": "away"}, **where) for _ in range(2)]
    assert await family.sent(*errors, *errors) == []
    assert await family.by_service(*errors) == []
    await family.platform.settle()
    async with family.platform.superuser.connect() as connection:
        query = text(
            "SELECT to_jsonb(event) || to_jsonb(error) FROM user_activity_events AS event"
            " JOIN error_events AS error USING (subject_key, event_id, occurred_at) WHERE event_id = ANY (:ids)"
        )
        rows = list(await connection.scalars(query, {"ids": [each["eventId"] for each in errors]}))
        (key,) = await connection.scalars(
            text("SELECT subject_key::text FROM users WHERE user_id = :u"), {"u": family.child}
        )
    assert len(rows) == len({row["subject_key"] for row in rows}) == 2
    for telling in (family.child, device, key, "Firefox"):
        assert telling not in json.dumps(rows)


async def test_a_browser_s_signal_stops_as_much_whoever_sends(family: Family) -> None:
    signal = {"sec-gpc": "1"}
    login, view = event("loginSuccess", {}), event("pageView", {}, page={"path": "/"})
    for asker in (family.guardian, ADMIN):
        assert await family.sent(view, login, asker=asker, headers=signal) == ["TRACKING_OBJECTED"]
        assert await family.sent(view, asker=asker, headers={"sec-gpc": "0"}) == []
    body = {"query": TRACK, "variables": {"events": [view, event("networkError", {"message": "away"})]}}
    answer = (await family.platform.client.post("/graphql", json=body, headers=signal)).json()
    errors = answer["data"]["trackEvents"]["userErrors"]
    assert [(error["index"], error["code"]) for error in errors] == [(0, "TRACKING_OBJECTED")]
    assert await family.sent(view, headers=signal) == ["CONSENT_REQUIRED"]


async def test_a_browser_that_signals_gets_no_cookie_and_no_company_with_its_errors(platform: Platform) -> None:
    error, login = event("networkError", {"message": "away"}), event("loginFailed", {})
    body = {"query": TRACK, "variables": {"events": [error, login]}}
    async with browser(platform.app) as client:
        answer = await client.post("/graphql", json=body, headers={"sec-gpc": "1"})
    assert answer.json()["data"]["trackEvents"]["accepted"] == 2
    await platform.settle()
    async with platform.superuser.connect() as connection:
        query = text("SELECT subject_key FROM user_activity_events WHERE event_id = ANY (:ids)")
        keys = list(await connection.scalars(query, {"ids": [error["eventId"], login["eventId"]]}))
    assert len(keys) == len(set(keys)) == 2
    assert "set-cookie" not in answer.headers


async def test_below_the_age_of_consent_only_a_parent_takes_an_objection_back(family: Family) -> None:
    assert await family.do(SET_TRACKING, family.guardian, objected=True) == []
    assert await family.do(SET_TRACKING, family.themself, objected=False) == [(["objected"], "FORBIDDEN")]
    assert await family.do(SET_TRACKING, ADMIN, objected=False) == [(["userId"], "FORBIDDEN")]
    await family.platform.upsert({"userId": family.child, "role": "STUDENT", "birthDate": born(13)})
    assert await family.do(SET_TRACKING, family.themself, objected=False) == []


async def test_whoever_nobody_knows_yet_may_object(family: Family) -> None:
    new = Family(family.platform, str(uuid4()))
    assert await new.do(SET_TRACKING, new.themself, objected=True) == []
    assert await new.sent() == ["TRACKING_OBJECTED"]


# ------------------------------------------------------------------------------------------- who sees the viewer


async def test_a_learner_sees_who_can_see_them_and_until_when(family: Family) -> None:
    child, data = {"userId": family.child, "role": "STUDENT"}, family.platform.data
    await family.platform.upsert({**child, "birthDate": "2009-02-28", "timeZone": "Asia/Kathmandu"})
    for expires_at, until in (
        (None, "2027-02-27T18:15:00Z"),
        (datetime(2027, 2, 27, 18, 15, 1, tzinfo=UTC), "2027-02-27T18:15:00Z"),
        (datetime(2027, 2, 27, 18, 14, 59, tzinfo=UTC), "2027-02-27T18:14:59Z"),
    ):
        await family.platform.link(family.parent, family.child, expires_at) if expires_at else None
        guardian, admins = (await data(VISIBLE_TO, family.themself))["viewer"]["visibleTo"]
        assert guardian["person"] == {"userId": family.parent, "displayName": "Pat"}
        assert (guardian["role"], guardian["until"]) == ("PARENT", until)
        assert {"journey", "events", "consents"} <= {*guardian["sees"]}
        assert admins == {
            "person": None,
            "role": "ADMIN",
            "sees": [*guardian["sees"], "risk", "engagement.level", "events.deviceId"],
            "until": None,
        }
    await family.platform.upsert({**child, "birthDate": None})
    guardian, _ = (await data(VISIBLE_TO, family.themself))["viewer"]["visibleTo"]
    assert guardian["until"] == "2027-02-27T18:14:59Z"


async def test_what_a_watcher_sees_is_what_they_get(family: Family) -> None:
    """Each field that is told of, asked for by itself."""
    deeper = {"journey": "{ totalXp }", "engagement": "{ days }", "eventCounts": "{ count }", "risk": "{ score }"}
    deeper |= {"guardians": "{ userId }", "consents": "{ basis }"}
    deeper |= dict.fromkeys(("events", "sessions", "accessLog"), "{ nodes { id } }")
    guardian, admins = (await family.platform.data(VISIBLE_TO, family.themself))["viewer"]["visibleTo"]
    for watcher, asker in ((guardian, family.guardian), (admins, ADMIN)):
        fields = [f"{field} {deeper.get(field, '')}" for field in watcher["sees"] if "." not in field]
        query = f"query ($userId: ID!) {{ user(userId: $userId) {{ {' '.join(fields)} }} }}"
        assert (await family.platform.data(query, asker, userId=family.child))["user"]["userId"] == family.child
    assert set(admins["sees"]) - set(guardian["sees"]) == {"risk", "engagement.level", "events.deviceId"}


async def test_a_parent_s_view_ends_at_the_instant_at_which_the_child_is_18(family: Family) -> None:
    sees = "query ($userId: ID!) { user(userId: $userId) { userId } viewer { children { userId } } }"
    platform = family.platform
    until = "UPDATE users SET adult_at = now() + :rest WHERE user_id = :u"
    async with platform.superuser.begin() as connection:
        await connection.execute(text(until), {"rest": timedelta(hours=1), "u": family.child})
    assert (await platform.ask(sees, family.guardian, userId=family.child))["data"]["user"]
    async with platform.superuser.begin() as connection:
        await connection.execute(text(until), {"rest": timedelta(0), "u": family.child})
    answer = await platform.ask(sees, family.guardian, userId=family.child)
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]
    assert answer["data"]["viewer"]["children"] == []
    (admins,) = (await platform.data(VISIBLE_TO, family.themself))["viewer"]["visibleTo"]
    assert admins["role"] == "ADMIN"
    assert await family.do(REVOKE, family.guardian) == [(["userId"], "NOT_FOUND")]
    opened = event("parentDashboardOpened", {"childId": family.child})
    assert await family.sent(opened, asker=family.guardian) == ["FORBIDDEN"]
    payload = (await platform.data(LINK, SERVICE, guardianId=family.parent, childId=family.child))["linkGuardian"]
    assert [(error["field"], error["code"]) for error in payload["userErrors"]] == [(["childId"], "INVALID")]


@pytest.mark.parametrize(
    ("birth_date", "zone", "until"),
    [
        ("2008-02-29", "UTC", "2026-03-01T00:00:00+00:00"),
        ("2005-03-26", "Asia/Beirut", "2023-03-25T22:00:00+00:00"),
        ("2008-11-01", "America/New_York", "2026-11-01T04:00:00+00:00"),
        (None, "UTC", None),
    ],
)
async def test_when_somebody_is_18_follows_birth_date_and_zone(
    platform: Platform, birth_date: str | None, zone: str, until: str | None
) -> None:
    user_id = f"of {birth_date} {zone}"
    await platform.upsert({"userId": user_id, "role": "STUDENT", "birthDate": birth_date, "timeZone": "Asia/Tokyo"})
    await platform.upsert({"userId": user_id, "role": "STUDENT", "timeZone": zone})
    async with platform.superuser.connect() as connection:
        at = await connection.scalar(text("SELECT adult_at FROM users WHERE user_id = :u"), {"u": user_id})
    assert (at and at.isoformat()) == until
