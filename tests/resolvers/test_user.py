"""A SERVICE tells who the users are and who their guardians; what it sends is judged entry by entry."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from models.viewer import Role
from tests.platform import LINK, SERVICE, UPSERT, Answer, Asker, Platform

ADMIN: Asker = (Role.ADMIN, "root")
UNLINK = """
mutation ($guardianId: ID!, $childId: ID!) {
  unlinkGuardian(input: {guardianId: $guardianId, childId: $childId}) {
    guardian { userId } child { userId } userErrors { field code message }
  }
}
"""
SEES = "query ($userId: ID!) { user(userId: $userId) { userId guardians { userId role displayName } } }"
FIGURES = """
query ($userId: ID!) {
  user(userId: $userId) {
    timeZone
    engagement(days: 90) { activeDays visitDays sessions daily { dates events activeMinutes questsCompleted } }
    journey { firstQuestDate }
    eventCounts(days: 90) { count }
  }
}
"""


async def upsert(platform: Platform, users: list[Answer], asker: Asker = SERVICE) -> Answer:
    answer: Answer = (await platform.data(UPSERT, asker, users=users))["upsertUsers"]
    return answer


async def row(platform: Platform, user_id: str) -> Answer:
    """The user as they are kept, without their key."""
    async with platform.superuser.connect() as connection:
        found = await connection.execute(text("SELECT * FROM users WHERE user_id = :user_id"), {"user_id": user_id})
        return {name: value for name, value in found.one()._mapping.items() if name != "subject_key"}


def codes(answer: Answer) -> list[str]:
    return [error["extensions"]["code"] for error in answer.get("errors", [])]


def event(at: datetime, field: str = "questStarted", **more: Any) -> Answer:
    payload: Answer = {"logout": {}, "loginSuccess": {}}.get(field, {"questId": "q"})
    return {"eventId": str(uuid4()), "occurredAt": at.isoformat(), "event": {field: payload}, **more}


async def test_an_absent_field_keeps_and_null_clears(platform: Platform) -> None:
    full = {"displayName": "Sam", "timeZone": "Europe/London", "birthDate": "2012-02-29"}
    kept = {"display_name": "Sam", "time_zone": "Europe/London", "birth_date": date(2012, 2, 29)}
    steps: list[tuple[Answer, Answer]] = [
        ({"role": "STUDENT"}, {"role": "STUDENT", "display_name": None, "time_zone": "UTC", "birth_date": None}),
        ({"role": "STUDENT", **full}, kept),
        ({"role": "PARENT"}, {"role": "PARENT", **kept}),
        ({"role": "STUDENT", "displayName": None}, {**kept, "display_name": None}),
        ({"role": "STUDENT", "displayName": ""}, {**kept, "display_name": ""}),
        ({"role": "STUDENT", "timeZone": None, "birthDate": None}, {"time_zone": "UTC", "birth_date": None}),
    ]
    for sent, expected in steps:
        assert (await upsert(platform, [{"userId": "step", **sent}]))["userErrors"] == []
        assert expected.items() <= (await row(platform, "step")).items()


async def test_users_are_answered_as_they_are_kept(platform: Platform) -> None:
    sent = [
        {"userId": "answer-2", "role": "PARENT", "displayName": "Pat 🎉"},
        {"userId": "answer-1", "role": "ADMIN"},
    ]
    expected = [sent[1] | {"displayName": None}, sent[0]]
    for _ in range(2):
        answer = await upsert(platform, sent)
        assert sorted(answer["users"], key=lambda user: user["userId"]) == expected


REFUSED = {
    "empty id": ({"userId": ""}, "userId"),
    "long id": ({"userId": "x" * 201}, "userId"),
    "id with NUL": ({"userId": "a\x00"}, "userId"),
    "long name": ({"displayName": "x" * 201}, "displayName"),
    "name with NUL": ({"displayName": "\x00"}, "displayName"),
    "no zone": ({"timeZone": "Middle/Earth"}, "timeZone"),
    "empty zone": ({"timeZone": ""}, "timeZone"),
    "zone by offset": ({"timeZone": "+02:00"}, "timeZone"),
    "zone with a path": ({"timeZone": "../UTC"}, "timeZone"),
    "zone with NUL": ({"timeZone": "UTC\x00"}, "timeZone"),
    "zone of the wrong case": ({"timeZone": "europe/london"}, "timeZone"),
    "born tomorrow": ({"birthDate": (datetime.now(UTC) + timedelta(days=2)).date().isoformat()}, "birthDate"),
    "born long ago": ({"birthDate": "1899-12-31"}, "birthDate"),
}


async def test_what_is_wrong_is_refused_by_index_and_the_others_are_kept(platform: Platform) -> None:
    sent = []
    for number, (wrong, _) in enumerate(REFUSED.values()):
        sent.append({"userId": f"good-{number}", "role": "STUDENT"})
        sent.append({"userId": f"bad-{number}", "role": "STUDENT"} | wrong)
    answer = await upsert(platform, sent)
    assert [(error["field"], error["code"]) for error in answer["userErrors"]] == [
        (["users", str(2 * number + 1), field], "INVALID") for number, (_, field) in enumerate(REFUSED.values())
    ]
    assert all(error["message"] for error in answer["userErrors"])
    assert {user["userId"] for user in answer["users"]} == {f"good-{number}" for number in range(len(REFUSED))}
    async with platform.superuser.connect() as connection:
        kept = await connection.scalars(text("SELECT user_id FROM users WHERE user_id ~ '^(good|bad)-'"))
        assert set(kept) == {user["userId"] for user in answer["users"]}


async def test_each_wrong_field_of_a_user_is_named(platform: Platform) -> None:
    wrong = {"userId": "", "role": "STUDENT", "displayName": "\x00", "timeZone": "x", "birthDate": "1000-01-01"}
    answer = await upsert(platform, [wrong])
    assert answer["users"] == []
    fields = ["userId", "displayName", "timeZone", "birthDate"]
    assert [error["field"] for error in answer["userErrors"]] == [["users", "0", field] for field in fields]


async def test_a_refused_change_changes_nothing(platform: Platform) -> None:
    await upsert(platform, [{"userId": "stay", "role": "STUDENT", "displayName": "Before"}])
    before = await row(platform, "stay")
    await upsert(platform, [{"userId": "stay", "role": "PARENT", "displayName": "After", "timeZone": "x"}])
    assert await row(platform, "stay") == before


@pytest.mark.parametrize(("count", "taken"), [(0, False), (1, True), (1000, True), (1001, False)])
async def test_a_request_has_1_to_1000_users(platform: Platform, count: int, taken: bool) -> None:
    users = [{"userId": f"many-{count}-{number}", "role": "STUDENT"} for number in range(count)]
    answer = await platform.ask(UPSERT, SERVICE, users=users)
    assert codes(answer) == ([] if taken else ["BAD_USER_INPUT"])
    if taken:
        assert len(answer["data"]["upsertUsers"]["users"]) == count
    async with platform.superuser.connect() as connection:
        kept = text("SELECT count(*) FROM users WHERE user_id LIKE :name")
        assert await connection.scalar(kept, {"name": f"many-{count}-%"}) == count * taken


async def test_of_a_user_sent_twice_the_last_counts(platform: Platform) -> None:
    sent = [{"userId": "twice", "role": role, "displayName": name} for role, name in (("PARENT", "A"), ("ADMIN", "B"))]
    answer = await upsert(platform, sent)
    assert answer["users"] == [sent[1]]
    assert {"role": "ADMIN", "display_name": "B"}.items() <= (await row(platform, "twice")).items()


@pytest.mark.parametrize(
    ("asker", "code"),
    [
        (None, "UNAUTHENTICATED"),
        ((Role.STUDENT, "sly"), "FORBIDDEN"),
        ((Role.PARENT, "sly"), "FORBIDDEN"),
        (SERVICE, None),
        (ADMIN, None),
    ],
)
async def test_users_and_links_are_for_a_service_and_admins(platform: Platform, asker: Asker, code: str | None) -> None:
    name = f"for {asker and asker[0]}"
    await upsert(platform, [{"userId": f"{name} pat", "role": "PARENT"}, {"userId": f"{name} kid", "role": "STUDENT"}])
    pair = {"guardianId": f"{name} pat", "childId": f"{name} kid"}
    expected = [code] if code else []
    assert codes(await platform.ask(UPSERT, asker, users=[{"userId": name, "role": "ADMIN"}])) == expected
    assert codes(await platform.ask(LINK, asker, **pair)) == expected
    assert codes(await platform.ask(UNLINK, asker, **pair)) == expected
    async with platform.superuser.connect() as connection:
        kept = await connection.scalar(text("SELECT count(*) FROM users WHERE user_id = :name"), {"name": name})
    assert kept == (not code)


async def test_a_change_of_time_zone_moves_figures_to_the_right_local_days(platform: Platform) -> None:
    await upsert(platform, [{"userId": "mover", "role": "STUDENT"}])
    today = datetime.now(UTC).date()
    device = str(uuid4())
    # Half past eleven at night in UTC, of today's date or the next elsewhere.
    times = [
        datetime(day.year, day.month, day.day, 23, 30, tzinfo=UTC) + timedelta(minutes=minute)
        for day in (today - timedelta(days=ago) for ago in (40, 39, 5))
        for minute in (0, 10)
    ]
    await platform.track([event(at, userId="mover", deviceId=device) for at in times])
    for zone in ("UTC", "Europe/Berlin", "Asia/Tokyo", "America/Los_Angeles", "Pacific/Kiritimati", "UTC"):
        await upsert(platform, [{"userId": "mover", "role": "STUDENT", "timeZone": zone}])
        await platform.settle()
        user = (await platform.data(FIGURES, ADMIN, userId="mover"))["user"]
        days = [at.astimezone(ZoneInfo(zone)).date().isoformat() for at in times]
        daily = user["engagement"]["daily"]
        figures = {
            day: (events, minutes)
            for day, events, minutes in zip(daily["dates"], daily["events"], daily["activeMinutes"], strict=True)
            if events
        }
        assert user["timeZone"] == zone
        assert figures == dict.fromkeys(days, (2, 10.0))
        assert user["journey"]["firstQuestDate"] == days[0]
        assert user["engagement"]["activeDays"] == user["engagement"]["visitDays"] == 3
        assert user["engagement"]["sessions"] == 3
        assert sum(count["count"] for count in user["eventCounts"]) == 6


async def test_only_another_time_zone_derives_days_again_and_another_role_the_risk(platform: Platform) -> None:
    user = {"userId": "settled", "role": "STUDENT", "timeZone": "Asia/Tokyo"}
    await upsert(platform, [user])
    await platform.settle()
    async with platform.superuser.begin() as connection:
        # As long as somebody holds the subject's lock, roll-ups leave alone what is marked.
        lock = (
            "SELECT pg_advisory_xact_lock(hashtextextended(subject_key::text, 0)) FROM users WHERE user_id = 'settled'"
        )
        await connection.execute(text(lock))
        await upsert(platform, [user | {"displayName": "S"}])
        assert await platform.dirty() == 0
        await upsert(platform, [{"userId": "settled", "role": "PARENT"}])
        await upsert(platform, [{"userId": "settled", "role": "PARENT", "timeZone": "Asia/Seoul"}])
        spans = await connection.execute(text("SELECT last_at - first_at FROM dirty_spans ORDER BY marked_at"))
        of_role, of_zone = spans.scalars()
        assert of_role == timedelta(0)
        assert of_zone > timedelta(days=80)


async def test_first_and_last_seen_and_known_since_follow_the_events(platform: Platform) -> None:
    start = datetime.now(UTC).replace(microsecond=0)
    await upsert(platform, [{"userId": "seen", "role": "STUDENT"}])
    known_since = (await row(platform, "seen"))["known_since"]
    assert start <= known_since <= datetime.now(UTC)
    expected: tuple[datetime | None, datetime | None, datetime]
    for ago, expected in (
        (5, (start - timedelta(days=5), start - timedelta(days=5), start - timedelta(days=5))),
        (2, (start - timedelta(days=5), start - timedelta(days=2), start - timedelta(days=5))),
        (9, (start - timedelta(days=9), start - timedelta(days=2), start - timedelta(days=9))),
        (3, (start - timedelta(days=9), start - timedelta(days=2), start - timedelta(days=9))),
    ):
        await platform.track([event(start - timedelta(days=ago), "loginSuccess", userId="seen")])
        await platform.settle()
        kept = await row(platform, "seen")
        assert (kept["first_seen_at"], kept["last_seen_at"], kept["known_since"]) == expected
    await upsert(platform, [{"userId": "seen", "role": "STUDENT", "timeZone": "Asia/Tokyo"}])
    await platform.settle()
    kept = await row(platform, "seen")
    assert (kept["first_seen_at"], kept["last_seen_at"], kept["known_since"]) == expected
    seen = (await platform.data('{ user(userId: "seen") { firstSeenAt lastSeenAt } }', ADMIN))["user"]
    assert datetime.fromisoformat(seen["firstSeenAt"]) == expected[0]
    assert datetime.fromisoformat(seen["lastSeenAt"]) == expected[1]


async def test_ones_own_first_question_makes_one_known(platform: Platform) -> None:
    start = datetime.now(UTC)
    viewer = (await platform.data("{ viewer { user { userId role firstSeenAt } } }", (Role.PARENT, "curious")))[
        "viewer"
    ]
    assert viewer["user"] == {"userId": "curious", "role": "PARENT", "firstSeenAt": None}
    assert start <= (await row(platform, "curious"))["known_since"] <= datetime.now(UTC)


@pytest.fixture(scope="module")
async def family(platform: Platform) -> None:
    await platform.upsert(
        {"userId": "pat", "role": "PARENT", "displayName": "Pat"},
        {"userId": "kid", "role": "STUDENT"},
        {"userId": "tess", "role": "ADMIN"},
    )


def ago(**length: float) -> str:
    return (datetime.now(UTC) - timedelta(**length)).isoformat()


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        ({"guardianId": "nobody"}, [("guardianId", "NOT_FOUND")]),
        ({"childId": "nobody"}, [("childId", "NOT_FOUND")]),
        ({"guardianId": "no\x00", "childId": ""}, [("guardianId", "NOT_FOUND"), ("childId", "NOT_FOUND")]),
        ({"guardianId": "tess"}, [("guardianId", "INVALID")]),
        ({"childId": "pat"}, [("childId", "INVALID")]),
        ({"guardianId": "kid", "childId": "pat"}, [("guardianId", "INVALID"), ("childId", "INVALID")]),
        ({"expiresAt": ago(seconds=1)}, [("expiresAt", "INVALID")]),
        ({"guardianId": "nobody", "expiresAt": ago(days=1)}, [("guardianId", "NOT_FOUND"), ("expiresAt", "INVALID")]),
    ],
)
async def test_a_link_that_cannot_be_is_refused(
    platform: Platform, sent: Answer, errors: list[tuple[str, str]]
) -> None:
    answer = (await platform.data(LINK, SERVICE, **{"guardianId": "pat", "childId": "kid"} | sent))["linkGuardian"]
    assert [(*error["field"], error["code"]) for error in answer["userErrors"]] == errors
    async with platform.superuser.connect() as connection:
        links = text("SELECT count(*) FROM guardianships JOIN users USING (subject_key) WHERE user_id = 'kid'")
        assert await connection.scalar(links) == 0


async def test_a_link_is_made_changed_and_ended(platform: Platform) -> None:
    await platform.upsert(
        {"userId": "pia", "role": "PARENT", "displayName": "Pia"}, {"userId": "kai", "role": "STUDENT"}
    )
    pair = {"guardianId": "pia", "childId": "kai"}
    both = {"guardian": {"userId": "pia"}, "child": {"userId": "kai"}}
    pia: Asker = (Role.PARENT, "pia")
    later, sooner = ago(days=-2), ago(days=-1)

    async def change(mutation: str, name: str, **more: Any) -> list[str]:
        answer = (await platform.data(mutation, SERVICE, **pair, **more))[name]
        assert both.items() <= answer.items()
        return [error["code"] for error in answer["userErrors"]]

    async def sees() -> bool:
        answer = await platform.ask(SEES, pia, userId="kai")
        guardians = (await platform.data(SEES, ADMIN, userId="kai"))["user"]["guardians"]
        assert guardians == ([] if codes(answer) else [{"userId": "pia", "role": "PARENT", "displayName": "Pia"}])
        assert codes(answer) in ([], ["NOT_FOUND"])
        return not codes(answer)

    assert not await sees()
    assert await change(UNLINK, "unlinkGuardian") == ["ALREADY_DONE"]
    assert await change(LINK, "linkGuardian") == []
    assert await sees()
    assert await change(LINK, "linkGuardian") == ["ALREADY_DONE"]
    assert await change(LINK, "linkGuardian", expiresAt=later) == []
    assert await change(LINK, "linkGuardian", expiresAt=later) == ["ALREADY_DONE"]
    assert await change(LINK, "linkGuardian", expiresAt=sooner) == []
    assert await sees()
    assert await change(LINK, "linkGuardian") == []
    assert await change(UNLINK, "unlinkGuardian") == []
    assert not await sees()
    assert await change(UNLINK, "unlinkGuardian") == ["ALREADY_DONE"]
    assert await change(LINK, "linkGuardian") == []
    assert await sees()


async def test_a_link_ends_by_itself_and_may_be_made_again(platform: Platform) -> None:
    await platform.upsert({"userId": "eve", "role": "PARENT"}, {"userId": "ed", "role": "STUDENT"})
    await platform.link("eve", "ed", datetime.now(UTC) + timedelta(seconds=1.2))
    eve: Asker = (Role.PARENT, "eve")
    assert codes(await platform.ask(SEES, eve, userId="ed")) == []
    async with platform.superuser.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(1.3)"))
    assert codes(await platform.ask(SEES, eve, userId="ed")) == ["NOT_FOUND"]
    assert (await platform.data(SEES, ADMIN, userId="ed"))["user"]["guardians"] == []
    assert (await platform.data("{ viewer { children { userId } } }", eve))["viewer"]["children"] == []
    await platform.link("eve", "ed")
    assert codes(await platform.ask(SEES, eve, userId="ed")) == []


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize("field", ["guardianId", "childId"])
async def test_ending_a_link_of_somebody_unknown_is_refused(platform: Platform, field: str) -> None:
    sent = {"guardianId": "pat", "childId": "kid"} | {field: "nobody"}
    answer = (await platform.data(UNLINK, SERVICE, **sent))["unlinkGuardian"]
    assert [(error["field"], error["code"]) for error in answer["userErrors"]] == [([field], "NOT_FOUND")]


async def test_a_new_user_upserted_from_many_sides_at_once_keeps_what_each_sent(platform: Platform) -> None:
    sent = [{"displayName": "Nina"}, {"timeZone": "Asia/Tokyo"}, {"birthDate": "2012-03-04"}] * 6
    await asyncio.gather(*(platform.upsert({"userId": "nina", "role": "STUDENT", **fields}) for fields in sent))
    async with platform.superuser.connect() as connection:
        kept = await connection.execute(
            text("SELECT display_name, time_zone, birth_date::text FROM users WHERE user_id = 'nina'")
        )
        assert tuple(kept.one()) == ("Nina", "Asia/Tokyo", "2012-03-04")


@pytest.mark.parametrize("zone", ["localtime", "Factory", "posixrules", "Mars/Olympus", "../etc/passwd"])
async def test_a_zone_that_is_none_everywhere_is_refused(platform: Platform, zone: str) -> None:
    answer = await platform.data(UPSERT, SERVICE, users=[{"userId": "zoe", "role": "STUDENT", "timeZone": zone}])
    assert [error["field"] for error in answer["upsertUsers"]["userErrors"]] == [["users", "0", "timeZone"]]


async def test_a_token_makes_known_even_where_its_events_are_refused(platform: Platform) -> None:
    old = {"eventId": str(uuid4()), "occurredAt": "2020-01-01T00:00:00Z", "event": {"logout": {}}}
    assert (await platform.track([old], (Role.STUDENT, "olga")))["accepted"] == 0
    olga = await platform.data('{ user(userId: "olga") { role } }', (Role.ADMIN, "root"))
    assert olga == {"user": {"role": "STUDENT"}}
