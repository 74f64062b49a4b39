"""Pages of a list: put together they are the whole list, forward and backward, whatever is inserted meanwhile."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from models.error import error_group
from models.viewer import Role
from tests.platform import Answer, Asker, Platform

ADMIN: Asker = (Role.ADMIN, "root")
START = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0) - timedelta(days=4)
ID = str(UUID(int=7))
AT = "2026-11-20T09:00:00+00:00"

# A list by name: where it stands in the query and in the answer, and what tells its nodes apart.
OF_ONE = 'user(userId: "sam") {{ list: {}(first: $first, after: $after, last: $last, before: $before) {} }}'
OF_ALL = "list: {}(first: $first, after: $after, last: $last, before: $before) {}"
LISTS = {
    "events": (OF_ONE, "eventId"),
    "sessions": (OF_ONE, "startedAt"),
    "milestones": (OF_ONE.replace("list:", "journey {{ list:") + " }}", "questId"),
    "users": (OF_ALL, "userId"),
    "activityEvents": (OF_ALL, "eventId"),
    "pageViews": (OF_ALL, "path"),
    "groups": (f"errors {{{{ {OF_ALL} }}}}", "message"),
}
PAGE = """{
  edges { cursor node { key: KEY } } nodes { key: KEY }
  pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
}"""


def query_of(name: str) -> str:
    template, key = LISTS[name]
    arguments = "query ($first: Int, $after: String, $last: Int, $before: String)"
    return f"{arguments} {{ {template.format(name, PAGE.replace('KEY', key))} }}"


def found_in(data: Answer) -> Answer:
    while "list" not in data:
        (data,) = data.values()
    found: Answer = data["list"]
    return found


async def page_of(platform: Platform, name: str, **arguments: Any) -> Answer:
    return found_in(await platform.data(query_of(name), ADMIN, **arguments))


def keys(page: Answer) -> list[str]:
    assert [edge["node"] for edge in page["edges"]] == page["nodes"]
    cursors = [edge["cursor"] for edge in page["edges"]] or [None]
    assert (page["pageInfo"]["startCursor"], page["pageInfo"]["endCursor"]) == (cursors[0], cursors[-1])
    return [node["key"] for node in page["nodes"]]


async def errors_of(platform: Platform, query: str, **variables: Any) -> list[str]:
    answer = await platform.ask(query, ADMIN, **variables)
    return [error["extensions"]["code"] for error in answer.get("errors", [])]


def event(user_id: str, at: datetime, field: str, **payload: Any) -> Answer:
    return {
        "eventId": str(uuid4()),
        "occurredAt": at.isoformat(),
        "event": {field: payload},
        "userId": user_id,
        "deviceId": ID,
    }


def newest_first(events: list[Answer]) -> list[Answer]:
    return sorted(events, key=lambda sent: (sent["occurredAt"], sent["eventId"]), reverse=True)


@pytest.fixture(scope="module")
async def whole(platform: Platform) -> dict[str, list[str]]:
    """What each list holds in all, in its order: with events of the same time, and sessions that end at once."""
    others = [f"other-{number:02}" for number in range(23)]
    await platform.upsert(*({"userId": user_id, "role": "STUDENT"} for user_id in ["sam", "kim", "lee", *others]))
    sams = []
    for number in range(9):
        at = START + number * timedelta(hours=1)
        sams += [event("sam", at, "questStarted", questId=f"s{number}-{twin}") for twin in range(2)]
        sams += [event("sam", at + timedelta(minutes=5), "pageExit", visibleSeconds=1) for _ in range(2)]
    kims = [event("kim", START + number * timedelta(minutes=20), "loginSuccess", method="m") for number in range(9)]
    views = [view(number, twin) for number in range(21) for twin in range(1 + number % 2)]
    errors = [
        event("lee", START + number // 2 * timedelta(minutes=1), "networkError", message=word, fingerprint=word)
        for number, word in enumerate(chr(ord("a") + number) for number in range(21))
    ]
    await platform.track(sams + kims + views + errors)
    await platform.settle()
    await platform.data("{ users { nodes { userId } } }", ADMIN)  # Whoever asks becomes known.
    milestones = [sent for sent in newest_first(sams) if "questStarted" in sent["event"]]
    starts = {sent["occurredAt"].replace("+00:00", "Z") for sent in milestones}
    return {
        "events": [sent["eventId"] for sent in newest_first(sams)],
        "sessions": sorted(starts, reverse=True),
        "milestones": [sent["event"]["questStarted"]["questId"] for sent in milestones],
        "users": sorted([*others, "kim", "lee", "root", "sam"]),
        "activityEvents": [sent["eventId"] for sent in newest_first(sams + kims + views + errors)],
        # Those with two views before those with one, each by path.
        "pageViews": [f"/{number:02}" for odd in (1, 0) for number in range(21) if number % 2 == odd],
        "groups": [sent["event"]["networkError"]["message"] for sent in sorted(errors, key=recency, reverse=True)],
    }


def view(number: int, twin: int) -> Answer:
    at = START + timedelta(hours=1, minutes=number, seconds=twin)
    return {**event("lee", at, "pageView"), "page": {"path": f"/{number:02}"}}


def recency(sent: Answer) -> tuple[str, UUID]:
    """By which groups of one error each are ordered."""
    return sent["occurredAt"], error_group("network_error", sent["event"]["networkError"])


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", [1, 4, 9, 100])
async def test_pages_put_together_are_the_whole_list(
    platform: Platform, whole: dict[str, list[str]], name: str, size: int
) -> None:
    expected = whole[name]
    forward: list[str] = []
    after = None
    while len(forward) < len(expected):
        page = await page_of(platform, name, first=size, after=after)
        assert page["pageInfo"]["hasPreviousPage"] is bool(forward)
        forward += keys(page)
        assert page["pageInfo"]["hasNextPage"] is (len(forward) < len(expected))
        after = page["pageInfo"]["endCursor"]
    assert forward == expected
    backward: list[str] = []
    before = None
    while len(backward) < len(expected):
        page = await page_of(platform, name, last=size, before=before)
        assert page["pageInfo"]["hasNextPage"] is bool(backward)
        backward = keys(page) + backward
        assert page["pageInfo"]["hasPreviousPage"] is (len(backward) < len(expected))
        before = page["pageInfo"]["startCursor"]
    assert backward == expected


@pytest.mark.parametrize("name", LISTS)
async def test_a_page_may_lie_between_two_cursors(platform: Platform, whole: dict[str, list[str]], name: str) -> None:
    edges = (await page_of(platform, name, first=100))["edges"]
    after, before = edges[1]["cursor"], edges[7]["cursor"]
    between = whole[name][2:7]
    assert keys(await page_of(platform, name, after=after, before=before)) == between
    assert keys(await page_of(platform, name, first=3, after=after, before=before)) == between[:3]
    assert keys(await page_of(platform, name, last=3, after=after, before=before)) == between[-3:]
    nothing = await page_of(platform, name, first=3, after=before, before=after)
    assert keys(nothing) == []
    assert nothing["pageInfo"]["hasNextPage"] is False


@pytest.mark.parametrize("name", LISTS)
async def test_twenty_are_shown_where_neither_first_nor_last_is_given(
    platform: Platform, whole: dict[str, list[str]], name: str
) -> None:
    assert keys(await page_of(platform, name)) == whole[name][:20]
    assert keys(await page_of(platform, name, first=None, after=None)) == whole[name][:20]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "arguments", [{"first": 0}, {"first": -1}, {"first": 101}, {"last": 0}, {"last": 101}, {"first": 1, "last": 1}]
)
@pytest.mark.usefixtures("whole")
async def test_exactly_one_of_first_and_last_is_given_and_1_to_100(
    platform: Platform, name: str, arguments: dict[str, int]
) -> None:
    assert await errors_of(platform, query_of(name), **arguments) == ["BAD_USER_INPUT"]


def cursor(*place: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


NO_CURSORS = {
    "empty": b"",
    "text": b"garbage",
    "no UTF-8": b'["NAME", "\xff"]',
    "no list": b"5",
    "an object": b'{"NAME": 1}',
    "no name": b"[]",
    "no place": b'["NAME"]',
    "too many places": f'["NAME", "{AT}", "{ID}", "{ID}", "{ID}"]'.encode(),
    "no time": f'["NAME", "yesterday", "{ID}"]'.encode(),
    "time without offset": f'["NAME", "2026-11-20T09:00:00", "{ID}"]'.encode(),
    "time before all times": f'["NAME", "0001-01-01T00:00:00+14:00", "{ID}"]'.encode(),
    "time after all times": f'["NAME", "9999-12-31T23:59:59-14:00", "{ID}"]'.encode(),
    "numbers": b'["NAME", 5, 6]',
    "a number": b'["NAME", 5]',
    "lists": f'["NAME", ["{AT}"], ["{ID}"]]'.encode(),
    "no id": f'["NAME", "{AT}", "x"]'.encode(),
    "NUL": b'["NAME", "\\u0000"]',
    "half a pair": b'["NAME", "\\ud800"]',
    "null": b'["NAME", null]',
    "deep": b"[" * 900 + b"]" * 900,
    "too deep": b"[" * 5000 + b"]" * 5000,
}


def named(raw: bytes, name: str) -> str:
    """What would be a cursor of this list, or an id of this kind."""
    return base64.urlsafe_b64encode(raw.replace(b"NAME", name.encode())).decode().rstrip("=")


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("argument", ["after", "before"])
@pytest.mark.usefixtures("whole")
async def test_what_is_no_cursor_of_the_list_is_refused(platform: Platform, name: str, argument: str) -> None:
    wrong = {what: named(raw, name) for what, raw in NO_CURSORS.items()}
    if name == "activityEvents":
        wrong |= {what: named(raw.replace(b"]", f', "{ID}"]'.encode()), name) for what, raw in NO_CURSORS.items()}
    wrong |= {"bare": "garbage!", "letters beyond": "ünï", "bare NUL": "a\x00b", "huge": "A" * 100_000, "one": "A"}
    for other in LISTS.keys() - {name}:
        wrong[f"of {other}"] = (await page_of(platform, other, first=1))["pageInfo"]["endCursor"]
    answers = {what: await errors_of(platform, query_of(name), **{argument: each}) for what, each in wrong.items()}
    assert answers == {what: ["BAD_USER_INPUT"] for what in wrong}


@pytest.mark.usefixtures("whole")
async def test_a_cursor_is_a_place_and_not_a_row(platform: Platform) -> None:
    assert keys(await page_of(platform, "users", first=1, after=cursor("users", "lef"))) == ["other-00"]
    assert keys(await page_of(platform, "events", after=cursor("events", AT.replace("2026", "2000"), ID))) == []


async def test_what_is_inserted_meanwhile_neither_repeats_nor_hides_anything(platform: Platform) -> None:
    await platform.upsert({"userId": "moving", "role": "STUDENT"})
    there = [event("moving", START + timedelta(minutes=number), "logout") for number in range(0, 60, 6)]
    await platform.track(there)
    await platform.settle()
    query = query_of("events").replace('"sam"', '"moving"')
    seen: list[str] = []
    arguments: Answer = {"first": 3}
    inserted = []
    for minute in (59, 1, 3, 35):
        page = found_in(await platform.data(query, ADMIN, **arguments))
        seen += keys(page)
        arguments["after"] = page["pageInfo"]["endCursor"]
        late = event("moving", START + timedelta(minutes=minute), "logout")
        inserted.append(late)
        await platform.track([late])
        await platform.settle()
    while page["pageInfo"]["hasNextPage"]:
        page = found_in(await platform.data(query, ADMIN, **arguments))
        seen += keys(page)
        arguments["after"] = page["pageInfo"]["endCursor"]
    assert len(set(seen)) == len(seen)
    before = {sent["eventId"] for sent in there}
    assert [key for key in seen if key in before] == [sent["eventId"] for sent in newest_first(there)]
    assert [key for key in seen if key not in before] == [inserted[2]["eventId"], inserted[1]["eventId"]]


@pytest.mark.usefixtures("whole")
async def test_users_who_come_while_paging_backward_hide_nobody(platform: Platform) -> None:
    query = query_of("users").replace("last: $last,", "last: $last, role: PARENT,")
    await platform.upsert(*({"userId": f"q{number}", "role": "PARENT"} for number in (2, 4, 6)))
    page = found_in(await platform.data(query, ADMIN, last=2))
    await platform.upsert(*({"userId": f"q{number}", "role": "PARENT"} for number in (1, 3, 5)))
    rest = found_in(await platform.data(query, ADMIN, last=3, before=page["pageInfo"]["startCursor"]))
    async with platform.superuser.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM users WHERE role = 'PARENT'")
    assert keys(rest) + keys(page) == ["q1", "q2", "q3", "q4", "q6"]


@pytest.mark.usefixtures("whole")
async def test_users_who_come_while_paging_hide_nobody(platform: Platform) -> None:
    query = query_of("users").replace("last: $last,", "last: $last, role: PARENT,")
    await platform.upsert(*({"userId": f"p{number}", "role": "PARENT"} for number in (2, 4, 6)))
    page = found_in(await platform.data(query, ADMIN, first=2))
    await platform.upsert(*({"userId": f"p{number}", "role": "PARENT"} for number in (1, 3, 5)))
    rest = found_in(await platform.data(query, ADMIN, first=2, after=page["pageInfo"]["endCursor"]))
    # They stay: by name they come after everybody whom the other tests know.
    async with platform.superuser.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM users WHERE role = 'PARENT'")
    assert keys(page) + keys(rest) == ["p2", "p4", "p5", "p6"]


FILTERED = """
query ($categories: [EventCategory!], $types: [String!], $from: DateTime, $to: DateTime) {
  user(userId: "picky") {
    events(categories: $categories, types: $types, from: $from, to: $to) { nodes { type occurredAt } }
  }
}
"""
EVERYBODYS = """
query ($containing: JSON, $types: [String!], $from: DateTime, $to: DateTime) {
  activityEvents(containing: $containing, types: $types, from: $from, to: $to, first: 100) { nodes { type eventId } }
}
"""
PICKY = START + timedelta(days=1)


@pytest.fixture(scope="module")
async def picky(platform: Platform) -> list[Answer]:
    """Six events, a minute apart."""
    await platform.upsert({"userId": "picky", "role": "STUDENT"})
    data = {"Answer": {"grade": 2, "words": ["a", "b"]}, "n": 1.5}
    sent = [
        event("picky", PICKY, "loginSuccess"),
        event("picky", PICKY + timedelta(minutes=1), "questStarted", questId="rare"),
        event("picky", PICKY + timedelta(minutes=2), "taskViewed", taskId="t", questId="rare"),
        event("picky", PICKY + timedelta(minutes=3), "badgeViewed", badgeId="b"),
        event("picky", PICKY + timedelta(minutes=4), "custom", name="essay", data=data),
        event("picky", PICKY + timedelta(minutes=5), "logout"),
    ]
    await platform.track(sent)
    await platform.settle()
    return sent


ALL = ["logout", "essay", "badge_viewed", "task_viewed", "quest_started", "login_success"]


@pytest.mark.parametrize(
    ("wanted", "types"),
    [
        ({}, ALL),
        ({"categories": None, "types": None, "from": None, "to": None}, ALL),
        ({"categories": ["QUEST"]}, ["task_viewed", "quest_started"]),
        ({"categories": ["AUTH", "CUSTOM"]}, ["logout", "essay", "login_success"]),
        ({"categories": ["TUTOR"]}, []),
        ({"categories": []}, []),
        ({"types": ["quest_started", "essay"]}, ["essay", "quest_started"]),
        ({"types": ["custom"]}, []),
        ({"types": ["no such type", "a\x00b", ""]}, []),
        ({"types": []}, []),
        ({"categories": ["QUEST"], "types": ["quest_started", "logout"]}, ["quest_started"]),
        ({"from": PICKY + timedelta(minutes=4)}, ["logout", "essay"]),
        ({"from": PICKY + timedelta(minutes=4, milliseconds=1)}, ["logout"]),
        ({"to": PICKY + timedelta(minutes=1)}, ["login_success"]),
        ({"to": PICKY + timedelta(minutes=1, milliseconds=1)}, ["quest_started", "login_success"]),
        ({"from": PICKY, "to": PICKY}, []),
        ({"from": PICKY + timedelta(minutes=1), "to": PICKY}, []),
        ({"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}, ALL),
    ],
    ids=str,
)
@pytest.mark.usefixtures("picky")
async def test_events_are_narrowed_by_category_type_and_time(
    platform: Platform, wanted: Answer, types: list[str]
) -> None:
    variables = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in wanted.items()}
    found = (await platform.data(FILTERED, ADMIN, **variables))["user"]["events"]["nodes"]
    assert [node["type"] for node in found] == types


@pytest.mark.parametrize(
    ("wanted", "types"),
    [
        ({"containing": {"questId": "rare"}}, ["task_viewed", "quest_started"]),
        ({"containing": {"questId": "rare", "taskId": "t"}}, ["task_viewed"]),
        ({"containing": {"questId": "rare"}, "types": ["quest_started"]}, ["quest_started"]),
        ({"containing": {"questId": "rar"}}, []),
        ({"containing": {"Answer": {"grade": 2}}}, ["essay"]),
        ({"containing": {"Answer": {"words": ["b"]}, "n": 1.5}}, ["essay"]),
        ({"containing": {"answer": {"grade": 2}}}, []),
        ({"containing": {"n": "\\u0000"}}, []),
        ({"containing": None, "types": ["essay"]}, ["essay"]),
        ({"types": ["essay", "quest_started"], "from": PICKY.isoformat()}, ["essay", "quest_started"]),
        ({"types": ["essay"], "to": PICKY.isoformat()}, []),
        ({"types": ["a\x00b"]}, []),
    ],
    ids=str,
)
@pytest.mark.usefixtures("picky")
async def test_everybodys_events_are_narrowed_by_payload_type_and_time(
    platform: Platform, wanted: Answer, types: list[str]
) -> None:
    found = (await platform.data(EVERYBODYS, ADMIN, **wanted))["activityEvents"]["nodes"]
    assert [node["type"] for node in found] == types


async def test_every_payload_holds_the_empty_object(platform: Platform, picky: list[Answer]) -> None:
    found = (await platform.data(EVERYBODYS, ADMIN, containing={}))["activityEvents"]["nodes"]
    everything = (await platform.data(EVERYBODYS, ADMIN))["activityEvents"]["nodes"]
    assert found == everything
    assert {sent["eventId"] for sent in picky} < {node["eventId"] for node in found}


@pytest.mark.parametrize(
    "containing",
    [[], "text", 5, True, {"a\x00b": 1}, {"a": ["\x00"]}, {"a": "\\\x00"}, {"n": 10**30}, {"n": 2**53 + 1}],
    ids=repr,
)
@pytest.mark.usefixtures("picky")
async def test_what_no_payload_can_hold_is_refused(platform: Platform, containing: Any) -> None:
    answer = await platform.ask(EVERYBODYS, ADMIN, containing=containing)
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]


@pytest.mark.usefixtures("picky")
async def test_a_deep_object_to_look_for_is_refused(platform: Platform) -> None:
    deep: Answer = {}
    for _ in range(900):
        deep = {"a": deep}
    assert await errors_of(platform, EVERYBODYS, containing=deep) == ["BAD_USER_INPUT"]


@pytest.mark.parametrize("kind", ["User", "ActivityEvent", "Session", "Milestone", "Query", "users", ""])
@pytest.mark.usefixtures("whole")
async def test_what_is_no_id_is_nothing(platform: Platform, kind: str) -> None:
    wrong = [cursor(kind, ID, ID, AT), cursor(kind, ID, AT, ID), cursor(kind, "nobody"), "A" * 10_000]
    wrong += [named(raw, kind) for raw in NO_CURSORS.values()]
    wrong += [
        cursor(kind, ID, *place) for place in ((ID, "0001-01-01T00:00:00+14:00"), ("x", ID), (ID, "x"), (AT, "x"))
    ]
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert (await platform.data(query, ADMIN, ids=wrong))["nodes"] == [None] * len(wrong)
