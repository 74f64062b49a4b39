"""A compiled mutation answers, and keeps, exactly what the general execution does."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import resolvers.tracking
from models.event import TrackedEvent
from models.viewer import Role
from questlog.documents import documents_of
from questlog.embedded import EmbeddedServers
from questlog.settings import Settings
from schema.compiled import KINDS, Compiled
from schema.document import RefusedError
from tests.histories import PAYLOADS
from tests.platform import BROWSER, SERVICE, SET_TRACKING, TRACK, Answer, Asker, Platform, new_api

RESULT = "{ accepted rejected receivedAt userErrors { index eventId field code message } }"
ONE = f"mutation ($input: TrackEventInput!) {{ trackEvent(input: $input) {RESULT} }}"
BATCH = f"mutation ($input: TrackEventsInput!) {{ trackEvents(input: $input) {RESULT} }}"
COMPILED = [
    ONE,
    BATCH,
    TRACK,
    "mutation M($events: [TrackEventInput!]!) { t: trackEvents(input: {events: $events}) { n: accepted } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { __typename userErrors { code __typename } } }",
    "mutation($input:TrackEventsInput!){trackEvents(input:$input){userErrors{f:field i:index} rejected}} # all",
    f"{ONE} # {'x' * 2000}",
]
GENERAL = [
    "fragment F on TrackEventsPayload { accepted } mutation ($e: TrackEventInput!) { trackEvent(input: $e) { ...F } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { ... on TrackEventsPayload { accepted } } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { accepted @skip(if: true) rejected } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) @include(if: false) { accepted } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { accepted accepted } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { a: accepted accepted } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { accepted } __typename }",
    "mutation ($e: TrackEventInput!) { a: trackEvent(input: $e) { accepted } b: trackEvent(input: $e) { rejected } }",
    "mutation ($input: TrackEventInput) { trackEvent(input: $input) { accepted } }",
    "mutation ($input: TrackEventInput! = null) { trackEvent(input: $input) { accepted } }",
    "mutation ($input: TrackEventInput!, $more: Int) { trackEvent(input: $input) { accepted } }",
    "mutation ($events: [TrackEventInput!]) { trackEvents(input: {events: $events}) { accepted } }",
    "mutation ($events: TrackEventInput!) { trackEvents(input: {events: [$events]}) { accepted } }",
    "mutation ($events: TrackEventInput!) { trackEvents(input: {events: $events}) { accepted } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { nothing } }",
    "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { accepted",
    "mutation A($input: TrackEventInput!) { trackEvent(input: $input) { accepted } } query B { viewer { role } }",
    "query ($input: TrackEventInput!) { trackEvent(input: $input) { accepted } }",
    "query { viewer { role } }",
    "subscription { trackEvent }",
    "",
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 7, 7.0, 0.5, 2**31, 2**53 + 1, 10**30, 1e300),
    *("", " ", "7", "é✓", "a\0b", "\ud800", "A" * 9000, "somebody@example.org", "/a?b#c", "LOW", "low", "admin"),
    *([], [[]], {}, {"x": None}, [None], "2026-01-31T09:30:00", "2026-02-30T09:30:00Z", "0001-01-01T00:00:00+14:00"),
    *("{12345678-1234-5678-1234-567812345678}", "12345678123456781234567812345678", "203.0.113.77", "curl/8.0"),
]
USERS: list[Asker] = [
    None,
    *((Role.STUDENT, who) for who in ("sam", "una", "ned")),
    (Role.PARENT, "pat"),
    (Role.ADMIN, "root"),
    SERVICE,
]


def now() -> str:
    return datetime.now(UTC).isoformat()


@st.composite
def sent_events(draw: DrawFn) -> Answer:
    """Good events, in every type and form."""
    field = draw(st.sampled_from(sorted(KINDS)))
    event: Answer = {
        "eventId": str(UUID(int=draw(st.integers(0, 2**128 - 1)))),
        "occurredAt": now(),
        "event": {field: draw(PAYLOADS[f"{KINDS[field].payload_name()}Input"])},
    }
    optional = ["deviceId", "page", "userId", "client"]
    return event | {key: WHOLE[key] for key in draw(st.sets(st.sampled_from(optional)))}


def with_one_oddity(value: Any) -> Iterator[Any]:
    """The value with each odd value in each place, with each place left out, and with one more in each object."""
    yield from ODD
    if isinstance(value, dict):
        yield value | {"unknown": None}
        yield value | {"unknown": 1}
        for key in value:
            yield {other: each for other, each in value.items() if other != key}
            yield from (value | {key: odd} for odd in with_one_oddity(value[key]))
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in with_one_oddity(each))


@st.composite
def requests(draw: DrawFn) -> Answer:
    """Bodies of requests: most of them good, or with one or two odd places."""
    events = draw(st.lists(sent_events(), min_size=1, max_size=3))
    query = draw(st.sampled_from(COMPILED * 3 + GENERAL))
    variables: Any = {"events": events}
    if "$input" in query:
        variables = {"input": variables if "TrackEventsInput!" in query else events[0]}
    if "$e:" in query:
        variables = {"e": events[0]}
    body: Answer = {"query": query, "variables": variables}
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        body["variables"] = draw(st.sampled_from(list(with_one_oddity(body["variables"]))))
    if draw(st.integers(0, 9)) == 0:
        body["operationName"] = draw(st.sampled_from([None, "", "M", "A", "Nobody", 1]))
    return body


documents = documents_of(Settings())
WHOLE: Answer = {
    "eventId": "12345678-1234-5678-1234-567812345678",
    "occurredAt": "2026-01-31T09:30:00Z",
    "event": {"questViewed": {"questId": "q"}},
    "deviceId": "12345678-1234-5678-1234-567812345679",
    "page": {"path": "/quests/7?x=1", "title": "Maps", "referrer": "/"},
    "userId": "sam",
    "client": {"userAgent": BROWSER, "ipAddress": "203.0.113.9"},
}
PAYLOADS_OF_EACH_SORT: list[Answer] = [
    {"pageExit": {"visibleSeconds": 5, "maxScrollPercent": 7}},
    {"questCompleted": {"questId": "q", "questTitle": "Maps", "xp": 5, "pillar": "art"}},
    {"tutorSafetyFlag": {"severity": "LOW", "reason": "self_harm"}},
    {"custom": {"name": "map_drawn", "data": {"colours": 3}}},
]


def compiled(query: str) -> Compiled | None:
    try:
        return documents.get(query, is_open=True).compiled
    except RefusedError:
        return None


class Kept:
    """What reached the intake."""

    def __init__(self, platform: Platform) -> None:
        self._platform, self._keep = platform, platform.api.intake.keep
        self.events: list[TrackedEvent] = []

    async def keep(self, events: Sequence[TrackedEvent]) -> None:
        self.events += events
        await self._keep(events)


@pytest.fixture(scope="module")
async def api(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with new_api(servers, tmp_path_factory.mktemp("api")) as platform:
        await platform.upsert({"userId": "sam", "role": "STUDENT"}, {"userId": "kim", "role": "STUDENT"})
        await platform.upsert({"userId": "pat", "role": "PARENT"})
        await platform.link("pat", "kim")
        await platform.upsert({"userId": "una", "role": "STUDENT", "birthDate": now()[:10]})
        await platform.upsert({"userId": "ned", "role": "STUDENT"})
        ned: Asker = (Role.STUDENT, "ned")
        await platform.data(SET_TRACKING, ned, userId="ned", objected=True)
        yield platform


async def outcome(api: Platform, body: bytes, asker: Asker, signal: str = "0") -> tuple[Any, ...]:
    """Everything that a request brings about, but for the moment it came in."""
    kept = Kept(api)
    headers = {"content-type": "application/json", "x-request-id": "the-same-for-both-ways", "sec-gpc": signal}
    if asker:
        headers["authorization"] = f"Bearer {api.token(*asker)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.api.intake, "keep", kept.keep)
        api.client.cookies.clear()
        response = await api.client.post("/graphql", content=body, headers=headers)
    body_without_moment = re.sub(r'"receivedAt":"[^"]+"', "", response.text)
    text = re.sub(r'"errorId":"[^"]+"|\d+:\d+:\d+\.\d+', "", body_without_moment)
    shown = {name: value for name, value in response.headers.items() if name not in {"content-length", "set-cookie"}}
    # As text, in which 5 is not 5.0.
    events = [
        repr([getattr(event, name) for name in event.__struct_fields__ if name != "received_at"])
        for event in kept.events
    ]
    return response.status_code, shown, "set-cookie" in response.headers, text, events


async def both(api: Platform, request: Answer, asker: Asker, signal: str = "0") -> None:
    body = json.dumps(request).encode()
    compiled = await outcome(api, body, asker, signal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compiled, "drafts", lambda *_: None)
        general = await outcome(api, body, asker, signal)
    assert compiled == general


@given(body=requests(), asker=st.sampled_from(USERS), signal=st.sampled_from("001"))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_request_is_answered_as_the_general_execution_answers_it(
    api: Platform, body: Answer, asker: Asker, signal: str
) -> None:
    await both(api, body, asker, signal)


async def test_an_event_that_is_odd_in_one_place_is_answered_alike(api: Platform) -> None:
    for event in with_one_oddity(WHOLE | {"occurredAt": now()}):
        await both(api, {"query": ONE, "variables": {"input": event}}, SERVICE)


@pytest.mark.parametrize("payload", PAYLOADS_OF_EACH_SORT, ids=lambda payload: next(iter(payload)))
async def test_a_payload_that_is_odd_in_one_place_is_answered_alike(api: Platform, payload: Answer) -> None:
    for odd in [payload, *with_one_oddity(payload)]:
        event = WHOLE | {"occurredAt": now(), "event": odd}
        await both(api, {"query": ONE, "variables": {"input": event}}, SERVICE)


@pytest.mark.parametrize("query", COMPILED)
async def test_each_plain_form_is_compiled(api: Platform, query: str) -> None:
    assert compiled(query)
    for body in ({"query": query}, {"query": query, "variables": {"input": None, "events": None}}):
        await both(api, body, SERVICE)


@pytest.mark.parametrize("query", GENERAL)
def test_any_other_form_is_left_to_the_general_execution(query: str) -> None:
    assert compiled(query) is None


@given(event=sent_events())
def test_good_events_of_every_type_are_compiled(event: Answer) -> None:
    document = compiled(ONE)
    assert document
    assert document.drafts({"input": event})


@pytest.mark.parametrize("query", [BATCH, TRACK])
async def test_what_is_no_list_of_events_is_answered_alike(api: Platform, query: str) -> None:
    for variables in with_one_oddity({"input": {"events": []}} if query is BATCH else {"events": []}):
        await both(api, {"query": query, "variables": variables}, SERVICE)


async def test_errors_of_the_request_have_the_same_place(api: Platform) -> None:
    query = "mutation ($events: [TrackEventInput!]!) {\n  mine: trackEvents(input: {events: $events}) { accepted } }"
    await both(api, {"query": query, "variables": {"events": []}}, SERVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolvers.tracking, "_judge", lambda *_: 1 / 0)
        await both(api, {"query": ONE, "variables": {"input": WHOLE}}, SERVICE)
