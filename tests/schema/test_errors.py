"""Errors: each with its code and its place, and nothing told of what went wrong inside, whoever raises it."""

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
import pytest
from sqlalchemy import event, text

from models.viewer import Role
from questlog.log import JsonFormatter
from tests.platform import SECRET, SERVICE, Answer, Asker, Platform

ADMIN: Asker = (Role.ADMIN, "root")
TRACK = "mutation ($input: TrackEventsInput!) { trackEvents(input: $input) { accepted } }"
DAYS = 'query ($days: Int) { user(userId: "sam") { engagement(days: $days) { days } } }'
TELLTALE = "telltale"


@pytest.fixture(scope="module", autouse=True)
async def sam(platform: Platform) -> None:
    await platform.upsert({"userId": "sam", "role": "STUDENT"})
    assert (await platform.track([sent()]))["accepted"] == 1
    await platform.settle()


def sent(field: str = "questStarted", at: datetime | None = None, **payload: Any) -> Answer:
    return {
        "eventId": str(uuid4()),
        "occurredAt": (at or datetime.now(UTC)).isoformat(),
        "event": {field: payload or {"questId": "maps"}},
        "userId": "sam",
        "deviceId": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    }


def literal(value: Any) -> str:
    """A value as it is written in a document."""
    return re.sub(r'"(\w+)": ', r"\1: ", json.dumps(value))


async def kept(platform: Platform) -> int:
    """How many events were ever accepted."""
    accepted: int = (await platform.data("{ intake { accepted } }", ADMIN))["intake"]["accepted"]
    return accepted


# What is wrong with an event, and where below it.
FAULTS: dict[str, tuple[Answer, list[str]]] = {
    "no payload": ({"event": {"questStarted": {}}}, ["event", "questStarted"]),
    "null for a payload": ({"event": {"questStarted": None}}, ["event", "questStarted"]),
    "no type": ({"event": {}}, ["event"]),
    "two types": ({"event": {"tutorOpened": {}, "logout": {}}}, ["event"]),
    "an unknown type": ({"event": {"questForgotten": {}}}, ["event"]),
    "an unknown field": ({"colour": "red"}, []),
    "an unknown field of a payload": (
        {"event": {"questStarted": {"questId": "q", "colour": 1}}},
        ["event", "questStarted"],
    ),
    "no time": ({"occurredAt": "yesterday"}, ["occurredAt"]),
    "null for a time": ({"occurredAt": None}, ["occurredAt"]),
    "no id": ({"eventId": "7"}, ["eventId"]),
    "an object for a text": ({"page": {"path": {}}}, ["page", "path"]),
    "no path": ({"page": {"title": "Maps"}}, ["page"]),
    "too big a number": (
        {"event": {"evidenceUploaded": {"fileSizeBytes": 2**53 + 1}}},
        ["event", "evidenceUploaded", "fileSizeBytes"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_cannot_be_coerced_fails_the_whole_request_and_says_which_event_and_where(
    platform: Platform, fault: str
) -> None:
    wrong, below = FAULTS[fault]
    before = await kept(platform)
    events = {"events": [sent(), sent() | wrong, sent()]}
    by_variable = await platform.ask(TRACK, SERVICE, input=events)
    written = await platform.ask(f"mutation {{ trackEvents(input: {literal(events)}) {{ accepted }} }}", SERVICE)
    for answer, code in ((by_variable, "BAD_USER_INPUT"), (written, "GRAPHQL_VALIDATION_FAILED")):
        assert not answer.get("data")
        assert {tuple(error["path"]) for error in answer["errors"]} == {("input", "events", 1, *below)}
        assert {error["extensions"]["code"] for error in answer["errors"]} == {code}
    assert len(written["errors"]) == len(by_variable["errors"])
    assert await kept(platform) == before


async def test_each_event_that_cannot_be_coerced_has_its_errors(platform: Platform) -> None:
    events = {"events": [sent() | {"eventId": 1}, sent(), sent() | {"occurredAt": 1, "userId": {}}]}
    expected = {("input", "events", 0, "eventId"), *(("input", "events", 2, name) for name in ("occurredAt", "userId"))}
    for answer in (
        await platform.ask(TRACK, SERVICE, input=events),
        await platform.ask(f"mutation {{ trackEvents(input: {literal(events)}) {{ accepted }} }}", SERVICE),
    ):
        assert {tuple(error["path"]) for error in answer["errors"]} == expected
        assert all(error["locations"] for error in answer["errors"])


async def test_one_event_alone_needs_no_index(platform: Platform) -> None:
    written = literal(sent() | {"eventId": 1})
    answer = await platform.ask(f"mutation {{ trackEvent(input: {written}) {{ accepted }} }}", SERVICE)
    assert [error["path"] for error in answer["errors"]] == [["input", "eventId"]]


async def test_an_event_given_by_a_variable_that_is_null_is_found_by_its_index(platform: Platform) -> None:
    query = """
    mutation ($one: TrackEventInput!, $other: UUID! = "3f2504e0-4f89-41d3-9a0c-0305e82c3301", $at: DateTime!) {
      trackEvents(input: {events: [$one, {eventId: $other, occurredAt: $at, event: {logout: {}}}]}) { accepted }
    }
    """
    (error,) = (await platform.ask(query, SERVICE, one=sent(), other=None, at="2026-01-01T00:00:00Z"))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["path"] == ["other"]
    query = query.replace("$other: UUID! =", "$other: UUID =")
    (error,) = (await platform.ask(query, SERVICE, one=sent(), other=None, at="2026-01-01T00:00:00Z"))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["path"] == ["trackEvents", "input", "events", 1, "eventId"]


async def test_an_argument_that_is_null_by_a_variable_is_found_by_its_field(platform: Platform) -> None:
    answer = await platform.ask(DAYS, ADMIN, days=None)
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["path"] == ["user", "engagement"]
    assert answer["data"] == {"user": None}


async def test_a_default_of_a_variable_that_is_not_of_its_type_is_found_by_the_variable(platform: Platform) -> None:
    (error,) = (await platform.ask(DAYS.replace("$days: Int", '$days: Int = "many"'), ADMIN))["errors"]
    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert error["path"] == ["days"]


SIZES = 'query { activityEvents(types: ["evidence_uploaded"]) { nodes { data } } }'


@pytest.mark.parametrize("size", [0, 2**31, 2**53])
async def test_a_big_int_is_a_number_on_the_way_in_and_out(platform: Platform, size: int) -> None:
    upload = sent("evidenceUploaded", fileSizeBytes=size)
    written = literal(upload | {"eventId": str(uuid4())})
    assert (await platform.track([upload]))["accepted"] == 1
    query = f"mutation {{ trackEvent(input: {written}) {{ accepted }} }}"
    assert (await platform.data(query, SERVICE))["trackEvent"]["accepted"] == 1
    await platform.settle()
    nodes = (await platform.data(SIZES, ADMIN))["activityEvents"]["nodes"]
    assert [node["data"] for node in nodes].count({"fileSizeBytes": size}) == 2


async def test_a_day_with_more_xp_than_an_int_holds_says_so_and_the_rest_is_told(platform: Platform) -> None:
    await platform.upsert({"userId": "rich", "role": "STUDENT"})
    at = datetime.now(UTC) - timedelta(days=1)
    number = 2**31 // 1_000_000 + 1
    events = [sent("questCompleted", at, questId="q", xp=1_000_000) | {"userId": "rich"} for _ in range(number)]
    for first in range(0, number, 500):
        assert not (await platform.track(events[first : first + 500]))["rejected"]
    await platform.settle()
    journey = await platform.data('{ journey(userId: "rich") { totalXp xpByPillar { xp } } }', ADMIN)
    assert journey["journey"] == {"totalXp": number * 1_000_000, "xpByPillar": []}
    daily = 'engagement(userId: "rich", days: DAYS) { questsCompleted daily { WHAT } }'
    answer = await platform.ask(f"{{ {daily.replace('DAYS', '2').replace('WHAT', 'dates xp')} }}", ADMIN)
    (error,) = answer["errors"]
    assert (error["extensions"]["code"], error["path"]) == ("BAD_USER_INPUT", ["engagement", "daily", "xp"])
    assert str(at.date()) in error["message"]
    for days, what in (("1", "dates xp"), ("2", "dates questsCompleted")):
        assert await platform.data(f"{{ {daily.replace('DAYS', days).replace('WHAT', what)} }}", ADMIN)


@asynccontextmanager
async def altered(platform: Platform, do: str, undo: str) -> AsyncIterator[None]:
    """The database, other than we know it."""
    async with platform.superuser.begin() as connection:
        for statement in do.split(";"):
            await connection.execute(text(statement))
    try:
        yield
    finally:
        async with platform.superuser.begin() as connection:
            for statement in undo.split(";"):
                await connection.execute(text(statement))


Said = pytest.LogCaptureFixture


async def check_masked(error: Answer, said: Said) -> None:
    """Nothing of it is told, and the log has it under its id."""
    assert error["extensions"].keys() == {"code", "errorId", "requestId"}
    assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert error["message"] == "something went wrong here: the log has it under errorId"
    (record,) = (record for record in said.records if "errorId" in vars(record))
    line = json.loads(JsonFormatter("api").format(record))
    assert line["errorId"] == error["extensions"]["errorId"]
    assert line["level"] == "ERROR"
    assert line["error"]
    assert TELLTALE not in json.dumps(error)


SESSIONS = '{ user(userId: "sam") { sessions { nodes { id } } } }'
BREAKAGES = {
    "a resolver": (
        "REVOKE SELECT ON daily_activity FROM questlog_admin",
        "GRANT SELECT ON daily_activity TO questlog_admin",
        '{ user(userId: "sam") { engagement { activeDays } } }',
        ["user", "engagement"],
    ),
    "a scalar": (
        "UPDATE intake_counts SET accepted = accepted + 9007199254740993",
        "UPDATE intake_counts SET accepted = accepted - 9007199254740993",
        "{ intake { accepted } }",
        ["intake", "accepted"],
    ),
    "a null where there may be none": (
        "ALTER TABLE users ALTER time_zone DROP NOT NULL; UPDATE users SET time_zone = NULL WHERE user_id = 'sam'",
        "UPDATE users SET time_zone = 'UTC' WHERE user_id = 'sam'; ALTER TABLE users ALTER time_zone SET NOT NULL",
        '{ user(userId: "sam") { timeZone } }',
        ["user", "timeZone"],
    ),
    "an enum": (
        f"UPDATE user_sessions SET device_type = '{TELLTALE}'",
        "UPDATE user_sessions SET device_type = 'OTHER'",
        SESSIONS,
        ["user", "sessions"],
    ),
}


@pytest.mark.parametrize("what", BREAKAGES)
async def test_what_breaks_while_a_field_is_answered_is_masked(platform: Platform, what: str, caplog: Said) -> None:
    do, undo, query, path = BREAKAGES[what]
    caplog.set_level(logging.ERROR)
    async with altered(platform, do, undo):
        answer = await platform.ask(query, ADMIN)
    (error,) = answer["errors"]
    assert error["path"] == path
    await check_masked(error, caplog)


async def test_what_breaks_in_the_pool_is_masked(platform: Platform, caplog: Said) -> None:
    def break_it(*_: Any) -> None:
        raise RuntimeError(f"Argument {TELLTALE}")

    engine = platform.api.databases.admin.sync_engine
    event.listen(engine, "checkout", break_it)
    try:
        answer = await platform.ask(SESSIONS, ADMIN)
    finally:
        event.remove(engine, "checkout", break_it)
    (error,) = answer["errors"]
    assert error["path"] == ["user"]
    await check_masked(error, caplog)


async def test_what_breaks_before_anything_is_executed_is_masked(platform: Platform, caplog: Said) -> None:
    without_role = jwt.encode({"sub": TELLTALE, "exp": datetime.now(UTC) + timedelta(hours=1)}, SECRET)
    async with altered(
        platform, "REVOKE SELECT ON users FROM questlog_intake", "GRANT SELECT ON users TO questlog_intake"
    ):
        answer = await platform.client.post(
            "/graphql", json={"query": "{ viewer { role } }"}, headers={"authorization": f"Bearer {without_role}"}
        )
    assert answer.status_code == 500
    (error,) = answer.json()["errors"]
    await check_masked(error, caplog)
