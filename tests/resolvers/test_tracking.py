"""Events are judged one by one: what is good comes back as it was sent, what is not is refused by name."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import orjson
import pytest
from sqlalchemy import text

from models.horizon import horizon, midnight
from models.taxonomy import EVENT_TYPES
from models.viewer import Role, Viewer
from questlog.app import create_app
from resolvers.request import Request
from resolvers.tracking import EventDraft, RefusedEvent, track
from tests.platform import BROWSER, SERVICE, TRACK, Answer, Asker, Platform, browser

TAXONOMY: Answer = json.loads((Path(__file__).parents[1] / "taxonomy.json").read_text())
ADMIN: Asker = (Role.ADMIN, "root")
STUDENT: Asker = (Role.STUDENT, "sam")
PARENT: Asker = (Role.PARENT, "pat")
MILLISECOND = timedelta(milliseconds=1)
EVENTS = """
query ($userId: ID!) {
  user(userId: $userId) {
    role
    events(first: 100) { nodes { eventId type category occurredAt receivedAt deviceId pagePath data } }
  }
}
"""


@pytest.fixture(scope="module", autouse=True)
async def people(platform: Platform) -> None:
    await platform.upsert(
        {"userId": "sam", "role": "STUDENT"},
        {"userId": "kim", "role": "STUDENT"},
        {"userId": "pat", "role": "PARENT"},
        {"userId": "una", "role": "STUDENT"},
    )
    await platform.link("pat", "kim")


@pytest.fixture(scope="module")
async def trusting(platform: Platform) -> AsyncIterator[Platform]:
    """A second API of the same installation, which trusts its clients."""
    app = create_app(platform.settings.model_copy(update={"trust_clients": True}))
    async with app.router.lifespan_context(app), browser(app) as client:
        yield replace(platform, app=app, client=client)


def event(field: str = "questViewed", payload: Answer | None = None, **more: Any) -> Answer:
    """A good event, of now, with some of its fields as given."""
    return {
        "eventId": str(uuid4()),
        "occurredAt": ago(),
        "event": {field: {"questId": "q"} if payload is None else payload},
        **more,
    }


def custom(data: Any, **more: Any) -> Answer:
    return event("custom", {"name": "essay", "data": data}, **more)


def ago(**length: float) -> str:
    return (datetime.now(UTC) - timedelta(**length)).isoformat()


def nested(levels: int) -> Answer:
    data: Answer = {"x": 1}
    for _ in range(levels - 1):
        data = {"x": data}
    return data


def of_bytes(size: int) -> Answer:
    """Custom data of exactly so many bytes of JSON."""
    return {"x": "y" * (size - len(orjson.dumps({"x": ""})))}


async def kept(platform: Platform, user_id: str) -> dict[str, Answer]:
    """The user's events by id, as an admin reads them."""
    await platform.settle()
    user = (await platform.data(EVENTS, ADMIN, userId=user_id))["user"]
    return {node["eventId"]: node for node in user["events"]["nodes"]}


async def stored(platform: Platform, user_id: str) -> list[Answer]:
    """The user's rows in the table of events, as JSON."""
    await platform.settle()
    async with platform.superuser.connect() as connection:
        rows = await connection.scalars(
            text(
                "SELECT to_jsonb(e) FROM user_activity_events e JOIN users USING (subject_key)"
                " WHERE user_id = :user_id ORDER BY occurred_at"
            ),
            {"user_id": user_id},
        )
        return list(rows)


def one_of_each(user_id: str, child: str) -> dict[str, Answer]:
    """A full event of every type, by type."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.123000Z")
    good = {"ID": "x", "String": "word", "Int": 200, "BigInt": 2**40, "Float": 1.5, "SafetySeverity": "HIGH"}
    events = {}
    for kind in TAXONOMY["events"]:
        payload = {
            field["name"]: child if field.get("person") else good.get(field["type"].rstrip("!"))
            for field in TAXONOMY["inputs"][kind["input"]]
        }
        if kind["type"] == "custom":
            payload = {"name": "essay_2", "data": {"a": [1, 2.5, None, True, {"b": "ü🎉"}], "c": {}, "d": 2**53}}
        more = {"page": {"path": f"/{kind['type']}"}, "deviceId": str(uuid4()), "occurredAt": at, "userId": user_id}
        events[kind["type"]] = event(kind["field"], payload, **more)
    return events


async def test_an_event_of_every_type_comes_back_as_sent(platform: Platform) -> None:
    await platform.upsert({"userId": "all", "role": "PARENT"})
    await platform.link("all", "kim")
    events = one_of_each("all", "kim")
    answer = await platform.track(list(events.values()))
    assert (answer["accepted"], answer["rejected"], answer["userErrors"]) == (29, 0, [])
    expected = {
        sent["eventId"]: {
            "eventId": sent["eventId"],
            "type": "essay_2" if kind["type"] == "custom" else kind["type"],
            "category": kind["category"].upper(),
            "occurredAt": sent["occurredAt"],
            "receivedAt": answer["receivedAt"],
            "deviceId": sent["deviceId"],
            "pagePath": sent["page"]["path"],
            "data": sent["event"][kind["field"]].get("data") or sent["event"][kind["field"]],
        }
        for kind in TAXONOMY["events"]
        for sent in [events[kind["type"]]]
    }
    assert await kept(platform, "all") == expected


async def test_one_event_alone_is_taken_like_many(platform: Platform) -> None:
    one = event()
    mutation = """
    mutation ($input: TrackEventInput!) {
      trackEvent(input: $input) { accepted rejected userErrors { index field code } }
    }
    """
    answer = await platform.data(mutation, (Role.STUDENT, "one"), input=one)
    assert answer["trackEvent"] == {"accepted": 1, "rejected": 0, "userErrors": []}
    assert (await kept(platform, "one")).keys() == {one["eventId"]}
    answer = await platform.data(mutation, (Role.STUDENT, "one"), input=event(userId="sam"))
    refusal = {"index": 0, "field": ["userId"], "code": "FORBIDDEN"}
    assert answer["trackEvent"] == {"accepted": 0, "rejected": 1, "userErrors": [refusal]}


async def test_a_null_field_is_as_good_as_none(platform: Platform) -> None:
    sent = event("questStarted", {"questId": "q", "questTitle": None}, page=None, deviceId=None, userId=None)
    assert (await platform.track([sent], (Role.STUDENT, "nil")))["accepted"] == 1
    (found,) = (await kept(platform, "nil")).values()
    assert found["data"] == {"questId": "q"}
    assert found["pagePath"] is None


def at_event(*fields: str) -> list[str]:
    return ["event", *fields]


ALWAYS_REFUSED: dict[str, tuple[Answer, list[str], str]] = {
    f"{field}.{name}={str(value)[:12]}": (
        event(field, payload | {name: value}),
        at_event(field, name),
        "INVALID_PAYLOAD",
    )
    for field, payload, name, values in (
        ("pageExit", {}, "visibleSeconds", (-0.1, 86_400.1)),
        ("pageExit", {"visibleSeconds": 1}, "maxScrollPercent", (-1,)),
        ("questViewed", {}, "questId", ("", "x" * 201, "\x00")),
        ("questViewed", {"questId": "q"}, "questTitle", ("a\x00b",)),
        ("evidenceUploaded", {}, "fileSizeBytes", (-1,)),
        ("evidenceUploaded", {}, "fileType", ("\x00",)),
        ("tutorMessageSent", {}, "messageLength", (-1,)),
        ("tutorOpened", {}, "conversationId", ("", "\x00")),
        ("connectionRequestSent", {}, "recipientId", ("", "\x00")),
        ("loginSuccess", {}, "method", ("\x00",)),
        ("logout", {}, "reason", ("\x00",)),
        ("apiError", {"message": "m", "endpoint": "/"}, "statusCode", (-1, 1000)),
        ("javascriptError", {"message": "m"}, "stack", ("x" * 5000 + "\x00",)),
        ("javascriptError", {}, "message", ("\x00",)),
        ("custom", {}, "name", ("quest_started", "custom", "Essay", "a" * 64, "", "essay\n", "a-b", "ä", "a\x00")),
        ("custom", {"name": "essay"}, "data", ([], [1], "text", 1, True)),
    )
    for value in values
} | {
    "page missing": (event("pageView", {}), ["page"], "INVALID_PAYLOAD"),
    "load time": (
        event("pageView", {"loadTimeMs": 600_001}, page={"path": "/"}),
        at_event("pageView", "loadTimeMs"),
        "INVALID_PAYLOAD",
    ),
    "path with NUL": (event(page={"path": "/\x00"}), ["page", "path"], "INVALID_PAYLOAD"),
    "title with NUL": (event(page={"path": "/", "title": "\x00"}), ["page", "title"], "INVALID_PAYLOAD"),
    "referrer with NUL": (event(page={"path": "/", "referrer": "\x00"}), ["page", "referrer"], "INVALID_PAYLOAD"),
    "key with NUL": (custom({"\x00": 1}), at_event("custom", "data"), "INVALID_PAYLOAD"),
    "value with NUL": (custom({"a": ["\x00"]}), at_event("custom", "data", "a"), "INVALID_PAYLOAD"),
    "integer": (custom({"a": 2**53 + 1}), at_event("custom", "data", "a"), "INVALID_PAYLOAD"),
    "negative integer": (custom({"a": -(2**53) - 1}), at_event("custom", "data", "a"), "INVALID_PAYLOAD"),
    "integer past 64 bits": (custom({"a": 10**40}), at_event("custom", "data", "a"), "INVALID_PAYLOAD"),
    "float": (custom({"a": {"b": 1e300}}), at_event("custom", "data", "a", "b"), "INVALID_PAYLOAD"),
    "51 keys": (custom({str(key): 0 for key in range(51)}), at_event("custom", "data"), "INVALID_PAYLOAD"),
    "51 keys, nested": (
        custom({"a": [{str(key): 0} for key in range(50)]}),
        at_event("custom", "data"),
        "INVALID_PAYLOAD",
    ),
    "6 levels": (custom(nested(6)), at_event("custom", "data"), "INVALID_PAYLOAD"),
    "6 levels of lists": (custom({"a": [[[[[1]]]]]}), at_event("custom", "data"), "INVALID_PAYLOAD"),
    "900 levels": (custom(nested(900)), at_event("custom", "data"), "INVALID_PAYLOAD"),
    "4,097 bytes": (custom(of_bytes(4097)), at_event("custom", "data"), "TOO_LARGE"),
    "long title": (event(page={"path": "/", "title": "t" * 8200}), ["event"], "TOO_LARGE"),
    "long referrer": (event(page={"path": "/", "referrer": "r" * 8200}), ["event"], "TOO_LARGE"),
    "long quest title": (event(payload={"questId": "q", "questTitle": "t" * 8200}), ["event"], "TOO_LARGE"),
    "long in bytes": (
        event("javascriptError", {"message": "m", "stack": "🎉" * 4000}),
        ["event"],
        "TOO_LARGE",
    ),
    "in the future": (event(occurredAt=ago(hours=-1)), ["occurredAt"], "IN_FUTURE"),
    "far in the future": (event(occurredAt="9999-12-31T23:59:59Z"), ["occurredAt"], "IN_FUTURE"),
    "too old": (event(occurredAt=ago(days=100)), ["occurredAt"], "TOO_OLD"),
    "of the year 1": (event(occurredAt="0001-01-01T00:00:00Z"), ["occurredAt"], "TOO_OLD"),
}


@pytest.mark.parametrize("name", ALWAYS_REFUSED)
@pytest.mark.parametrize("asker", [SERVICE, STUDENT], ids=["service", "student"])
async def test_what_is_wrong_is_refused_by_index_field_and_code(platform: Platform, name: str, asker: Asker) -> None:
    bad, field, code = ALWAYS_REFUSED[name]
    of_whom = {"userId": "una"} if asker == SERVICE else {}
    batch = [each | of_whom for each in (event(), bad, event())]
    answer = await platform.track(batch, asker)
    assert (answer["accepted"], answer["rejected"]) == (2, 1)
    (refusal,) = answer["userErrors"]
    assert refusal.pop("message")
    assert refusal == {"index": 1, "eventId": bad["eventId"], "field": field, "code": code}


async def test_the_rest_of_a_batch_is_kept(platform: Platform) -> None:
    good = [event() for _ in ALWAYS_REFUSED]
    bad = [refused[0] for refused in ALWAYS_REFUSED.values()]
    batch = [each for pair in zip(good, bad, strict=True) for each in pair]
    answer = await platform.track(batch, (Role.STUDENT, "rest"))
    assert answer["accepted"] == answer["rejected"] == len(good)
    assert [error["index"] for error in answer["userErrors"]] == list(range(1, len(batch), 2))
    assert (await kept(platform, "rest")).keys() == {each["eventId"] for each in good}


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Tokyo"])
async def test_the_first_of_all_times_is_too_old_in_any_zone(platform: Platform, zone: str) -> None:
    await platform.upsert({"userId": f"in {zone}", "role": "STUDENT", "timeZone": zone})
    answer = await platform.track([event(occurredAt="0001-01-01T00:00:00Z", userId=f"in {zone}")])
    assert [error["code"] for error in answer["userErrors"]] == ["TOO_OLD"]


FOR_A_SERVICE: dict[str, tuple[Asker, Answer, list[str]]] = {
    "userId": (STUDENT, event(userId="una"), ["userId"]),
    "one's own userId": (STUDENT, event(userId="sam"), ["userId"]),
    "an admin's userId": (ADMIN, event(userId="sam"), ["userId"]),
    "client": (STUDENT, event(client={"userAgent": "x"}), ["client"]),
    "badge": (STUDENT, event("badgeEarned", {"badgeId": "b"}), at_event("badgeEarned")),
    "an admin's badge": (ADMIN, event("badgeEarned", {"badgeId": "b"}), at_event("badgeEarned")),
    "flag": (PARENT, event("tutorSafetyFlag", {"severity": "LOW", "reason": "r"}), at_event("tutorSafetyFlag")),
    "quest xp": (STUDENT, event("questCompleted", {"questId": "q", "xp": 5}), at_event("questCompleted", "xp")),
    "no xp": (STUDENT, event("questCompleted", {"questId": "q", "xp": 0}), at_event("questCompleted", "xp")),
    "task xp": (ADMIN, event("taskCompleted", {"taskId": "t", "xp": 5}), at_event("taskCompleted", "xp")),
}


@pytest.mark.parametrize("name", FOR_A_SERVICE)
async def test_what_is_for_a_service_is_forbidden_to_others(platform: Platform, name: str) -> None:
    asker, bad, field = FOR_A_SERVICE[name]
    answer = await platform.track([bad], asker)
    assert (answer["accepted"], answer["rejected"]) == (0, 1)
    assert [(error["field"], error["code"]) for error in answer["userErrors"]] == [(field, "FORBIDDEN")]


@pytest.mark.parametrize("name", FOR_A_SERVICE)
async def test_trusted_clients_may_send_xp_badges_and_flags_but_no_ids(trusting: Platform, name: str) -> None:
    asker, sent, field = FOR_A_SERVICE[name]
    answer = await trusting.track([sent | {"eventId": str(uuid4())}], asker)
    assert answer["accepted"] == (field[0] == "event")


@pytest.mark.parametrize(
    ("asker", "more", "field", "named", "taken"),
    [
        (PARENT, {}, "parentDashboardOpened", "kim", True),
        (PARENT, {}, "parentDashboardOpened", "sam", False),
        (PARENT, {}, "parentDashboardOpened", "nobody", False),
        (PARENT, {}, "parentEvidenceUploaded", "kim", True),
        (PARENT, {}, "parentEvidenceUploaded", "sam", False),
        (PARENT, {}, "evidenceUploaded", "sam", False),
        (STUDENT, {}, "evidenceUploaded", "sam", True),
        (STUDENT, {}, "evidenceUploaded", "kim", False),
        (SERVICE, {"userId": "pat"}, "parentDashboardOpened", "kim", True),
        (SERVICE, {"userId": "pat"}, "parentDashboardOpened", "sam", False),
        (SERVICE, {"userId": "kim"}, "parentDashboardOpened", "sam", False),
        (ADMIN, {}, "parentDashboardOpened", "kim", True),
    ],
)
async def test_a_parent_names_their_own_children_alone(
    platform: Platform, asker: Asker, more: Answer, field: str, named: str, taken: bool
) -> None:
    person = "childId" if field == "parentDashboardOpened" else "studentId"
    answer = await platform.track([event(field, {person: named}, **more)], asker)
    refusals = [(error["field"], error["code"]) for error in answer["userErrors"]]
    assert refusals == ([] if taken else [(at_event(field, person), "FORBIDDEN")])
    assert answer["accepted"] == taken


async def test_an_expired_guardian_names_their_child_no_more(platform: Platform) -> None:
    await platform.upsert({"userId": "former", "role": "PARENT"})
    await platform.link("former", "kim")
    async with platform.superuser.begin() as connection:
        await connection.execute(
            text(
                "UPDATE guardianships SET expires_at = now() - interval '1 s' FROM users"
                " WHERE users.subject_key = guardian_key AND user_id = 'former'"
            )
        )
    answer = await platform.track([event("parentDashboardOpened", {"childId": "kim"})], (Role.PARENT, "former"))
    assert [error["code"] for error in answer["userErrors"]] == ["FORBIDDEN"]


@pytest.mark.parametrize(
    ("more", "code"),
    [({}, "INVALID_PAYLOAD"), ({"userId": "nobody"}, "UNKNOWN_USER"), ({"userId": "a\x00b"}, "UNKNOWN_USER")],
)
async def test_a_service_must_say_of_whom_it_tells(platform: Platform, more: Answer, code: str) -> None:
    answer = await platform.track([event(**more)])
    assert [(error["field"], error["code"]) for error in answer["userErrors"]] == [(["userId"], code)]


async def test_what_is_just_within_its_bounds_is_taken(platform: Platform) -> None:
    edges = [
        event("pageView", {"loadTimeMs": 0}, page={"path": ""}),
        event("pageView", {"loadTimeMs": 600_000}, page={"path": "/" + "p" * 20_000}),
        event("pageExit", {"visibleSeconds": 0}),
        event("pageExit", {"visibleSeconds": 86_400}),
        event("questCompleted", {"questId": "x" * 200, "xp": 0}),
        event("questCompleted", {"questId": "x", "xp": 1_000_000}),
        event("evidenceUploaded", {"fileSizeBytes": 2**53}),
        event("tutorMessageSent", {"messageLength": 2**31 - 1}),
        custom(of_bytes(4096)),
        custom({str(key): 0 for key in range(50)}),
        custom(nested(5)),
        custom({"a": [[[[1]]]]}),
        custom({"a": 2**53, "b": -(2**53), "c": 1e15, "d": 1e-300}),
        custom({}),
        event("custom", {"name": "a" * 63}),
        event(occurredAt=ago(minutes=-5)),
        event(page={"path": "/", "title": "t" * 8000}),
    ]
    await platform.upsert({"userId": "edge", "role": "STUDENT"})
    answer = await platform.track([each | {"userId": "edge"} for each in edges])
    assert answer["userErrors"] == []
    found = await kept(platform, "edge")
    assert found.keys() == {each["eventId"] for each in edges}
    assert found[edges[1]["eventId"]]["pagePath"] == "/" + "p" * 511
    assert found[edges[12]["eventId"]]["data"] == {"a": 2**53, "b": -(2**53), "c": 1e15, "d": 1e-300}


async def test_long_texts_are_cut_before_the_event_is_measured(platform: Platform) -> None:
    long = event("javascriptError", {"message": "m" * 50_000, "stack": "s" * 50_000})
    assert (await platform.track([long], (Role.STUDENT, "cut")))["accepted"] == 1
    assert (await kept(platform, "cut"))[long["eventId"]]["data"] == {"message": "m" * 2000, "stack": "s" * 4000}


@pytest.mark.parametrize("over", [0, 1])
async def test_an_event_has_at_most_8_kib_as_it_is_kept(platform: Platform, over: int) -> None:
    around = len(orjson.dumps([{"questId": "q"}, "/", "", None, BROWSER]))
    sent = event(page={"path": "/", "title": "t" * (8192 - around + over)})
    answer = await platform.track([sent], (Role.STUDENT, "large"))
    assert [error["code"] for error in answer["userErrors"]] == ["TOO_LARGE"] * over


def at_this_moment(platform: Platform, viewer: Viewer) -> Request:
    """A request whose clock stands still."""
    api = platform.api
    return Request(
        viewer, api.databases, api.intake, api.rate_limits, api.costs, api._rules, api.standings, api.access_log
    )


def draft(occurred_at: datetime, user_id: str | None = None) -> EventDraft:
    return EventDraft(
        uuid4(), occurred_at, "questViewed", EVENT_TYPES["quest_viewed"], {"questId": "q"}, user_id=user_id
    )


def codes(refused: list[RefusedEvent]) -> dict[int, str]:
    return {each.index: each.error.code for each in refused}


async def test_times_are_refused_from_the_first_millisecond_beyond_their_bounds(platform: Platform) -> None:
    request = at_this_moment(platform, Viewer(Role.STUDENT, "clock"))
    now = request.now = request.now.replace(microsecond=123_000)
    latest, earliest = now + timedelta(minutes=5), now - timedelta(days=7)
    times = [latest + MILLISECOND, latest, earliest, earliest - MILLISECOND]
    taken = await track(request, [draft(at) for at in times])
    assert codes(taken.refused) == {0: "IN_FUTURE", 3: "TOO_OLD"}
    assert (taken.accepted, taken.received_at) == (2, now)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "UTC", "Pacific/Auckland"])
async def test_a_service_may_write_on_every_day_of_the_learner_that_is_not_sealed(
    platform: Platform, zone: str
) -> None:
    await platform.upsert({"userId": f"sealed {zone}", "role": "STUDENT", "timeZone": zone})
    request = at_this_moment(platform, Viewer(Role.SERVICE, "the platform"))
    sealed_before = horizon(request.now, platform.settings.anonymize_after_days)
    first_day = sealed_before.astimezone(ZoneInfo(zone)).date()
    if midnight(first_day, ZoneInfo(zone)) < sealed_before:
        first_day += timedelta(days=1)
    first = midnight(first_day, ZoneInfo(zone))
    taken = await track(request, [draft(at, f"sealed {zone}") for at in (first - MILLISECOND, first)])
    assert codes(taken.refused) == {0: "TOO_OLD"}
    assert len(await stored(platform, f"sealed {zone}")) == 1


ACCEPTED = "fragment a on TrackEventsPayload { accepted }"
IN_A_FRAGMENT = "fragment b on Mutation { trackEvents(input: {events: $x}) { ...a } }"


@pytest.mark.parametrize(("count", "taken"), [(0, False), (1, True), (500, True), (501, False)])
async def test_a_request_has_1_to_500_events(platform: Platform, count: int, taken: bool) -> None:
    answer = await platform.ask(TRACK, (Role.STUDENT, f"count {count}"), events=[event() for _ in range(count)])
    if taken:
        assert answer["data"]["trackEvents"]["accepted"] == count
    else:
        assert answer.get("data") is None
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    assert len(await stored(platform, f"count {count}")) == count * taken


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        (TRACK, {"events": [{}] * 501}),
        ("mutation ($x: TrackEventsInput!) { trackEvents(input: $x) { accepted } }", {"x": {"events": [{}] * 501}}),
        (
            "mutation ($x: TrackEventsInput!) { trackEvents(input: $x) { ...a } } " + ACCEPTED,
            {"x": {"events": [{}] * 501}},
        ),
        ("mutation ($x: [TrackEventInput!]!) { ...b } " + ACCEPTED + IN_A_FRAGMENT, {"x": [{}] * 501}),
    ],
)
async def test_more_than_500_events_are_not_even_read(
    platform: Platform, query: str, variables: dict[str, Any]
) -> None:
    (error,) = (await platform.ask(query, None, **variables))["errors"]
    assert error["message"] == "events has 501 entries, and must have 1 to 500"


@pytest.mark.parametrize(("more", "taken"), [(499, True), (500, False)])
async def test_an_operation_may_track_several_times_and_500_events_in_all(
    platform: Platform, more: int, taken: bool
) -> None:
    query = """
    mutation ($one: TrackEventInput!, $more: [TrackEventInput!]!) {
      a: trackEvent(input: $one) { accepted } b: trackEvents(input: {events: $more}) { accepted }
    }
    """
    user_id = f"one and {more}"
    answer = await platform.ask(query, (Role.STUDENT, user_id), one=event(), more=[event() for _ in range(more)])
    if taken:
        assert answer["data"] == {"a": {"accepted": 1}, "b": {"accepted": more}}
    else:
        (error,) = answer["errors"]
        assert error["message"] == "the fields that track have 501 events, and 500 is the most"
    assert len(await stored(platform, user_id)) == (1 + more) * taken


STRANGERS = """
SELECT subject_key, devices.device_id, event_type, user_id
FROM devices JOIN user_activity_events USING (subject_key) LEFT JOIN users USING (subject_key)
WHERE event_id = ANY (:ids) ORDER BY occurred_at
"""


async def of_strangers(platform: Platform, sent: list[Answer]) -> list[Any]:
    """Whose these events are, of those that nobody signed."""
    await platform.settle()
    async with platform.superuser.connect() as connection:
        ids = [UUID(each["eventId"]) for each in sent]
        return list(await connection.execute(text(STRANGERS), {"ids": ids}))


async def test_without_a_token_events_are_the_device_s_and_stay_so(platform: Platform) -> None:
    before = [event("loginFailed", {}), event("javascriptError", {"message": "m"})]
    answer = await platform.track(before, None)
    assert (answer["accepted"], answer["userErrors"]) == (2, [])
    device = UUID(before[0]["eventId"])
    assert platform.client.cookies["questlog_device"] == str(device)
    after, again = event(), event()
    assert (await platform.track([after], (Role.STUDENT, "from outside")))["accepted"] == 1
    assert (await platform.track([again], None))["accepted"] == 1
    rows = await of_strangers(platform, [*before, after, again])
    assert {row.device_id for row in rows} == {device}
    assert len({row.subject_key for row in rows}) == 1
    assert len(rows) == 3
    assert {row.user_id for row in rows} == {None}
    ((kept,),) = [[row["device_id"]] for row in await stored(platform, "from outside")]
    assert kept == str(device)
    platform.client.cookies.clear()


async def test_a_device_id_of_one_s_own_needs_no_cookie(platform: Platform) -> None:
    device = uuid4()
    sent = [event(deviceId=str(device)) for _ in range(2)]
    assert (await platform.track(sent, None))["accepted"] == 2
    assert not platform.client.cookies
    assert [row.device_id for row in await of_strangers(platform, sent)] == [device, device]


async def test_the_cookie_is_out_of_reach_for_scripts_and_authorises_nothing(platform: Platform) -> None:
    body = {"query": TRACK, "variables": {"events": [event()]}}
    answer = await platform.client.post("https://questlog/graphql", json=body)
    cookie = answer.headers["set-cookie"]
    platform.client.cookies.clear()
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly", "max-age=2592000", "path=/", "samesite=lax", "secure"
    }  # fmt: skip
    headers = {"cookie": cookie.split(";")[0]}
    query = {"query": "{ viewer { role } users { nodes { id } } }"}
    seen = (await platform.client.post("/graphql", json=query, headers=headers)).json()
    assert seen["data"] == {"viewer": {"role": "ANONYMOUS"}, "users": None}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (event(userId="ada"), "FORBIDDEN"),
        (event("badgeEarned", {"badgeId": "b"}), "FORBIDDEN"),
        (event(client={"userAgent": "x"}), "FORBIDDEN"),
    ],
)
async def test_without_a_token_nobody_speaks_for_others(platform: Platform, sent: Answer, code: str) -> None:
    answer = await platform.track([sent], None)
    assert [error["code"] for error in answer["userErrors"]] == [code]


async def test_the_same_event_again_changes_nothing(platform: Platform) -> None:
    asker: Asker = (Role.STUDENT, "again")
    first = event(payload={"questId": "first"})
    other = event(eventId=first["eventId"], occurredAt=first["occurredAt"], payload={"questId": "other"})
    error = event("javascriptError", {"message": "m"}, eventId=first["eventId"], occurredAt=first["occurredAt"])
    assert (await platform.track([first, first, other], asker))["accepted"] == 3
    assert [row["event_data"] for row in await stored(platform, "again")] == [{"questId": "first"}]
    assert (await platform.track([other, error, first], asker))["accepted"] == 3
    assert [row["event_data"] for row in await stored(platform, "again")] == [{"questId": "first"}]
    assert [count["count"] for count in await counts(platform, "again") if count["count"]] == [1]


async def counts(platform: Platform, user_id: str) -> list[Answer]:
    query = "query ($userId: ID!) { eventCounts(userId: $userId) { category count } }"
    found: list[Answer] = (await platform.data(query, ADMIN, userId=user_id))["eventCounts"]
    return found


async def test_of_two_errors_that_are_the_same_the_first_is_kept(platform: Platform) -> None:
    asker: Asker = (Role.STUDENT, "error")
    first = event("apiError", {"message": "first", "endpoint": "/e", "statusCode": 500})
    second = first | {"event": {"apiError": {"message": "second", "endpoint": "/e", "statusCode": 400}}}
    await platform.track([first, second], asker)
    await platform.track([second], asker)
    (row,) = await stored(platform, "error")
    async with platform.superuser.connect() as connection:
        errors = await connection.execute(
            text("SELECT error_type, message, status_code FROM error_events WHERE subject_key = :key"),
            {"key": UUID(row["subject_key"])},
        )
        assert list(errors) == [("API_ERROR", "first", 500)]


async def test_an_id_at_another_time_or_of_another_user_is_another_event(platform: Platform) -> None:
    first = event(occurredAt=ago(hours=1))
    later = first | {"occurredAt": ago(minutes=59)}
    await platform.track([first, later], (Role.STUDENT, "twice"))
    await platform.track([first], (Role.STUDENT, "twin"))
    assert len(await stored(platform, "twice")) == 2
    assert len(await stored(platform, "twin")) == 1


async def test_times_are_cut_to_the_millisecond(platform: Platform) -> None:
    at = datetime.now(UTC).replace(microsecond=123_999)
    same = at.replace(microsecond=123_000).astimezone(ZoneInfo("Asia/Tokyo"))
    event_id = str(uuid4())
    batch = [event(eventId=event_id, occurredAt=each.isoformat()) for each in (at, same)]
    assert (await platform.track(batch, (Role.STUDENT, "millisecond")))["accepted"] == 2
    (row,) = await stored(platform, "millisecond")
    assert datetime.fromisoformat(row["occurred_at"]) == same


GOOD = {"eventId": str(uuid4()), "occurredAt": "2026-11-20T09:00:00Z", "event": {"questViewed": {"questId": "q"}}}
UNREADABLE: dict[str, tuple[Answer, list[str]]] = {
    "no payload": (GOOD | {"event": {}}, ["event"]),
    "null payload": (GOOD | {"event": {"questViewed": None}}, ["event"]),
    "two payloads": (GOOD | {"event": {"questViewed": {"questId": "q"}, "logout": {}}}, ["event"]),
    "unknown type": (GOOD | {"event": {"questEaten": {}}}, ["event"]),
    "unknown field": (GOOD | {"event": {"logout": {"why": "x"}}}, ["event", "logout"]),
    "missing field": (GOOD | {"event": {"questViewed": {}}}, ["event", "questViewed"]),
    "text for a number": (GOOD | {"event": {"pageView": {"loadTimeMs": "5"}}}, ["event", "pageView", "loadTimeMs"]),
    "number past 2^31": (GOOD | {"event": {"pageView": {"loadTimeMs": 2**31}}}, ["event", "pageView", "loadTimeMs"]),
    "number past 2^53": (
        GOOD | {"event": {"evidenceUploaded": {"fileSizeBytes": 2**53 + 1}}},
        ["event", "evidenceUploaded", "fileSizeBytes"],
    ),
    "unknown severity": (
        GOOD | {"event": {"tutorSafetyFlag": {"severity": "DIRE", "reason": "r"}}},
        ["event", "tutorSafetyFlag", "severity"],
    ),
    "no id": ({"occurredAt": GOOD["occurredAt"], "event": GOOD["event"]}, []),
    "wrong id": (GOOD | {"eventId": "7"}, ["eventId"]),
    "time without offset": (GOOD | {"occurredAt": "2026-11-20T09:00:00"}, ["occurredAt"]),
    "no time": (GOOD | {"occurredAt": "yesterday"}, ["occurredAt"]),
    "time past all times": (GOOD | {"occurredAt": "0001-01-01T00:00:00+14:00"}, ["occurredAt"]),
    "page without path": (GOOD | {"page": {"title": "t"}}, ["page"]),
    "no event": ({}, []),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_graphql_cannot_read_fails_the_whole_request(platform: Platform, name: str) -> None:
    bad, field = UNREADABLE[name]
    answer = await platform.ask(TRACK, (Role.STUDENT, "unread"), events=[event(), bad, event()])
    assert answer.get("data") is None
    for error in answer["errors"]:
        assert error["path"][:2] == ["events", 1]
        assert error["path"][2 : 2 + len(field)] == field
        assert error["extensions"]["code"] == "BAD_USER_INPUT"


async def test_what_graphql_cannot_read_keeps_nothing(platform: Platform) -> None:
    await platform.upsert({"userId": "unread", "role": "STUDENT"})
    for bad, _ in UNREADABLE.values():
        await platform.ask(TRACK, (Role.STUDENT, "unread"), events=[event(), bad, event()])
    assert await stored(platform, "unread") == []


async def test_the_index_stands_in_the_path_however_the_input_is_written(platform: Platform) -> None:
    mutation = "mutation ($input: TrackEventsInput!) { trackEvents(input: $input) { accepted } }"
    answer = await platform.ask(mutation, STUDENT, input={"events": [event(), GOOD | {"event": {"logout": 5}}]})
    assert [error["path"][:5] for error in answer["errors"]] == [["input", "events", 1, "event", "logout"]]


@pytest.mark.parametrize(
    "title", [rb'"\ud83c"', rb'"\udf89\ud83c"', b'"\xff"', b"NaN", b"Infinity", b"1e999", b'"\x00"'], ids=repr
)
async def test_what_is_no_json_is_refused_as_a_whole(platform: Platform, title: bytes) -> None:
    sent = event("custom", {"name": "essay", "data": {"title": "TITLE"}})
    body = orjson.dumps({"query": TRACK, "variables": {"events": [event(), sent]}}).replace(b'"TITLE"', title)
    headers = {"Authorization": f"Bearer {platform.token(Role.STUDENT, 'half')}", "Content-Type": "application/json"}
    response = await platform.client.post("/graphql", content=body, headers=headers)
    assert response.status_code == 400
    assert await stored(platform, "half") == []


async def test_literals_are_judged_like_variables(platform: Platform) -> None:
    literals = ["{a: 1e999}", "{a: -1e999}", "{a: 99999999999999999999}", r'{a: "\u0000"}', "{a: 1, b: [null, true]}"]
    events = ", ".join(
        f'{{eventId: "{uuid4()}", occurredAt: "{ago()}", event: {{custom: {{name: "essay", data: {literal}}}}}}}'
        for literal in literals
    )
    mutation = f"mutation {{ trackEvents(input: {{events: [{events}]}}) {{ accepted userErrors {{ index code }} }} }}"
    answer = (await platform.data(mutation, (Role.STUDENT, "literal")))["trackEvents"]
    assert answer["accepted"] == 1
    assert answer["userErrors"] == [{"index": index, "code": "INVALID_PAYLOAD"} for index in range(4)]
    assert [row["event_data"] for row in await stored(platform, "literal")] == [{"a": 1, "b": [None, True]}]


async def test_email_addresses_are_masked_everywhere(platform: Platform) -> None:
    address = "pat@mail.example"
    page = {"path": f"/u/{address}", "title": f"Of {address}", "referrer": f"https://x.example/?m={address}"}
    batch = [
        event("javascriptError", {"message": f"no {address}", "stack": f"at {address}\nat y"}, page=page),
        event(payload={"questId": address, "questTitle": f"<{address}>"}),
        custom({f"of {address}": {"deep": [f"{address},", {"er": address}]}}),
        event("javascriptError", {"message": "m" * 1995 + f" {address}"}),
        event(page={"path": "/u/pat%40mail.example?x=1"}),
    ]
    assert (await platform.track(batch, (Role.STUDENT, "masked")))["accepted"] == len(batch)
    rows = await stored(platform, "masked")
    assert "mail.example" not in json.dumps(rows)
    error, quest, custom_row, long, encoded = (
        next(row for row in rows if row["event_id"] == sent["eventId"]) for sent in batch
    )
    assert (error["page_path"], error["page_title"]) == ("/u/[email]", "Of [email]")
    assert error["referrer"] == "https://x.example/?m=[email]"
    assert error["event_data"] == {"message": "no [email]", "stack": "at [email]\nat y"}
    assert quest["event_data"] == {"questId": "[email]", "questTitle": "<[email]>"}
    assert custom_row["event_data"] == {"of [email]": {"deep": ["[email],", {"er": "[email]"}]}}
    assert len(long["event_data"]["message"]) == 2000
    assert encoded["page_path"] == "/u/[email]"
    async with platform.superuser.connect() as connection:
        leaks = text("SELECT count(*) FROM error_events e WHERE e::text LIKE '%mail.example%'")
        assert await connection.scalar(leaks) == 0


ADDRESSES = {
    "203.0.113.77": "203.0.113.0/24",
    "::ffff:203.0.113.78": "203.0.113.0/24",
    "2001:db8:1:2:3:4:5:6": "2001:db8:1::/48",
    "fe80::1%eth0": "fe80::/48",
    "no address": None,
}


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_is_kept_only_cut(platform: Platform, address: str) -> None:
    user_id = f"at {address}"
    await platform.upsert({"userId": user_id, "role": "STUDENT"})
    client = {"ipAddress": address, "userAgent": "Their Browser/1.0"}
    await platform.track([event(client=client, userId=user_id)])
    transport = httpx.ASGITransport(app=platform.app, client=(address, 4711))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://questlog", headers={"User-Agent": "Own Browser/2.0"}
    ) as own:
        await replace(platform, client=own).track([event()], (Role.STUDENT, user_id))
    rows = await stored(platform, user_id)
    assert [(row["user_agent"], row["ip_address"]) for row in rows] == [
        ("Their Browser/1.0", ADDRESSES[address]),
        ("Own Browser/2.0", ADDRESSES[address]),
    ]
    assert address not in json.dumps([row | {"user_id": None} for row in rows])


async def test_a_service_that_names_no_client_is_none_itself(platform: Platform) -> None:
    await platform.upsert({"userId": "clientless", "role": "STUDENT"})
    await platform.track([event(userId="clientless")])
    (row,) = await stored(platform, "clientless")
    assert (row["user_agent"], row["ip_address"], row["from_service"]) == (None, None, True)


@pytest.mark.parametrize("role", [Role.STUDENT, Role.PARENT, Role.ADMIN])
async def test_ones_own_events_make_one_known(platform: Platform, role: Role) -> None:
    user_id = f"new {role.lower()}"
    assert (await platform.track([event()], (role, user_id)))["accepted"] == 1
    await platform.settle()
    user = (await platform.data(EVENTS, ADMIN, userId=user_id))["user"]
    assert (user["role"], len(user["events"]["nodes"])) == (role.value, 1)


async def test_a_known_user_keeps_the_role_that_a_service_gave_them(platform: Platform) -> None:
    await platform.track([event()], (Role.PARENT, "una"))
    await platform.settle()
    assert (await platform.data(EVENTS, ADMIN, userId="una"))["user"]["role"] == "STUDENT"


async def test_a_service_makes_nobody_known(platform: Platform) -> None:
    await platform.track([event(userId="una"), event(userId="unheard of")])
    await platform.settle()
    for user_id in ("unheard of", "the platform"):
        answer = await platform.ask(EVENTS, ADMIN, userId=user_id)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]
