"""What browsers and strangers send: bodies, origins, bots, and too much of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_DNS, uuid4, uuid5

import jwt
import pytest
from sqlalchemy import text

from models.viewer import Role
from questlog.body import MOST_BYTES
from questlog.embedded import EmbeddedServers
from questlog.settings import Settings
from tests.platform import SECRET, SERVICE, TRACK, Answer, Platform, listening, new_api
from workers.queue import open_queue

ORIGIN = "https://learn.example.org"
BOTS = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
]
BROWSERS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 13; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/120.0.0.0 Mobile",
]
ADA = (Role.STUDENT, "ada")
NEAR = ("127.0.0.1",)


def some(number: int = 1, **more: Any) -> list[Answer]:
    now = datetime.now(UTC).isoformat()
    return [{"eventId": str(uuid4()), "occurredAt": now, "event": {"tutorOpened": {}}, **more} for _ in range(number)]


@pytest.fixture
async def strict(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An installation that takes little of each, and answers one page of another host."""
    settings = Settings(
        cors_origins=(ORIGIN,), user_events_per_minute=10, device_events_per_minute=20, address_events_per_minute=30
    )
    async with new_api(servers, tmp_path, **settings.model_dump(exclude_unset=True)) as running:
        yield running


async def send(platform: Platform, body: bytes | AsyncIterator[bytes]) -> tuple[int, Answer]:
    answer = await platform.client.post("/graphql", content=body, headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000]


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_has_at_most_1_mib_however_it_comes(platform: Platform, over: int, whole: bool) -> None:
    query = b'{"query": "{ viewer { role } }"}'
    body = query + b" " * (MOST_BYTES + over - len(query))
    status, answer = await send(platform, body if whole else in_parts(body))
    if over:
        assert status == 413
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        assert str(MOST_BYTES) in answer["errors"][0]["message"]
    else:
        assert (status, answer["data"]) == (200, {"viewer": {"role": "ANONYMOUS"}})


async def test_a_body_that_takes_too_long_is_answered_and_the_connection_ended(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("questlog.body.SECONDS_TO_SEND", 0.5)

    async def for_ever() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    for length in ({}, {"content-length": str(2 * MOST_BYTES)}):
        headers = {"content-type": "application/json"} | length
        answer = await platform.client.post("/graphql", content=for_ever(), headers=headers)
        assert (answer.status_code, answer.headers["connection"]) == (408, "close")
        (error,) = answer.json()["errors"]
        assert (error["extensions"]["code"], error["extensions"]["retryAfterMs"]) == ("UNAVAILABLE", 1000)


async def test_who_asks_before_sending_too_much_need_not_send_it(platform: Platform) -> None:
    async with listening(platform.app) as url:
        host = urlsplit(url)
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: questlog\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (MOST_BYTES + 1)
        )
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(("method", "path"), [("POST", "/healthz"), ("PUT", "/graphql"), ("GET", "/nothing")])
async def test_a_body_that_nobody_reads_ends_the_connection(platform: Platform, method: str, path: str) -> None:
    for body in ({"content": b"x"}, {"content": in_parts(b"x")}):
        answer = await platform.client.request(method, path, **body)
        assert answer.headers["connection"] == "close"
    assert "connection" not in (await platform.client.request(method, path)).headers


async def test_a_page_of_another_host_can_read_whatever_goes_wrong(strict: Platform) -> None:
    body, unheard = {"query": "{ viewer { role } }"}, {"query": " " * MOST_BYTES}
    nobody = jwt.encode({"sub": "ada", "exp": time.time() + 3600}, SECRET)
    async with strict.superuser.begin() as connection:
        await connection.execute(text("REVOKE SELECT ON users FROM questlog_intake"))
    try:
        for content, token, status in ((body, "no token", 401), (unheard, nobody, 413), (body, nobody, 500)):
            headers = {"origin": ORIGIN, "authorization": f"Bearer {token}"}
            answer = await strict.client.post("/graphql", json=content, headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["access-control-expose-headers"] == "x-request-id"
            assert answer.json()["errors"][0]["extensions"]["requestId"] == answer.headers["x-request-id"]
    finally:
        async with strict.superuser.begin() as connection:
            await connection.execute(text("GRANT SELECT ON users TO questlog_intake"))


async def test_pages_of_other_hosts_may_ask_where_they_are_allowed(strict: Platform, platform: Platform) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    allowed = await strict.client.options("/graphql", headers={"origin": ORIGIN, **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert allowed.headers["access-control-allow-credentials"] == "true"
    other = await strict.client.options("/graphql", headers={"origin": "https://evil.example.org", **asked})
    assert "access-control-allow-origin" not in other.headers
    nobody = await platform.client.options("/graphql", headers={"origin": ORIGIN, **asked})
    assert "access-control-allow-origin" not in nobody.headers
    body = {"query": "{ viewer { role } }"}
    answer = await strict.client.post("/graphql", json=body, headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_a_bot_s_event_is_refused_and_a_browser_s_beside_it_kept(platform: Platform) -> None:
    await platform.upsert({"userId": "ada", "role": "STUDENT"})
    sent = [some(userId="ada", client={"userAgent": agent}, deviceId=str(uuid4()))[0] for agent in [*BOTS, *BROWSERS]]
    answer = await platform.track(sent, SERVICE)
    assert answer["accepted"] == len(BROWSERS)
    assert [(error["index"], error["code"], error["field"]) for error in answer["userErrors"]] == [
        (index, "BOT", ["client", "userAgent"]) for index in range(len(BOTS))
    ]


@pytest.mark.parametrize("asker", [None, ADA])
async def test_a_request_of_a_bot_is_refused(platform: Platform, asker: tuple[Role, str] | None) -> None:
    headers = {"user-agent": BOTS[0]} | ({"authorization": f"Bearer {platform.token(*asker)}"} if asker else {})
    body = {"query": TRACK, "variables": {"events": some()}}
    answer = (await platform.client.post("/graphql", json=body, headers=headers)).json()["data"]["trackEvents"]
    assert [(error["code"], error["field"]) for error in answer["userErrors"]] == [("BOT", ["userAgent"])]


async def test_each_may_send_so_many_events_a_minute(strict: Platform) -> None:
    assert (await strict.track(some(10), ADA))["accepted"] == 10
    await limited(strict, ADA)
    assert (await strict.track(some(10), (Role.STUDENT, "bob")))["accepted"] == 10
    assert (await strict.track(some(10, deviceId=str(uuid4())), None))["accepted"] == 10
    await limited(strict, (Role.STUDENT, "cleo"))
    await strict.upsert({"userId": "ada", "role": "STUDENT"})
    assert (await strict.track(some(100, userId="ada"), SERVICE))["accepted"] == 100


async def test_one_device_may_send_so_many_without_a_token(strict: Platform) -> None:
    device = str(uuid4())
    assert (await strict.track(some(20, deviceId=device), None))["accepted"] == 20
    await limited(strict, None, deviceId=device)


IN_GENERAL = """
mutation ($events: [TrackEventInput!]!) {
  trackEvents(input: {events: $events}) { ... on TrackEventsPayload { accepted } }
}
"""


async def test_what_is_not_compiled_is_counted_once_and_before_it_is_read(strict: Platform) -> None:
    await limited(strict, ADA, IN_GENERAL, number=11, event={"nothing": {}})
    assert (await strict.data(IN_GENERAL, ADA, events=some(10)))["trackEvents"] == {"accepted": 10}
    assert (await strict.data(IN_GENERAL, None, events=some(20, deviceId=str(uuid4()))))["trackEvents"]


TWICE = """
mutation ($events: [TrackEventInput!]!) {
  a: trackEvents(input: {events: $events}) { accepted } b: trackEvents(input: {events: $events}) { accepted }
}
"""


async def test_all_fields_of_an_operation_are_counted_before_any_is_answered(strict: Platform) -> None:
    await limited(strict, ADA, TWICE, number=6)
    assert (await strict.data(TWICE, ADA, events=some(5)))["b"] == {"accepted": 5}
    await limited(strict, ADA)


@pytest.mark.parametrize("at_once", [1, 8, 50])
async def test_a_limit_holds_to_the_hundredth_of_it(servers: EmbeddedServers, tmp_path: Path, at_once: int) -> None:
    async with new_api(servers, tmp_path, user_events_per_minute=200) as platform:
        for _ in range(200 // at_once):
            assert (await platform.track(some(at_once), ADA))["accepted"] == at_once
        await limited(platform, ADA, number=3)


@pytest.mark.parametrize("most", [40, 4000])
async def test_what_is_refused_by_one_limit_spends_nothing_of_another(
    servers: EmbeddedServers, tmp_path: Path, most: int
) -> None:
    """Below a hundredth of a limit, the process counts alone; beyond it, Valkey does. More at once than an address may
    send are refused at any time."""
    settings: Answer = {"user_events_per_minute": most, "device_events_per_minute": most}
    async with new_api(servers, tmp_path, address_events_per_minute=30, trusted_proxies=NEAR, **settings) as school:
        for _ in range(5):
            assert await taken_from(school, "198.51.100.77", 31) is None
        assert await taken_from(school, "203.0.113.77", 30) == 30
        assert (await counted(school, "user/ada") == []) is (most == 4000)


async def taken_from(school: Platform, address: str, number: int) -> int | None:
    """How many of the events that a child sends from one device are taken; None where they are too many."""
    body = {"query": TRACK, "variables": {"events": some(number, deviceId=str(uuid5(NAMESPACE_DNS, "ada")))}}
    headers = {"authorization": f"Bearer {school.token(*ADA)}", "x-forwarded-for": address}
    answer = (await school.client.post("/graphql", json=body, headers=headers)).json()
    if "errors" in answer:
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["RATE_LIMITED"]
        return None
    accepted: int = answer["data"]["trackEvents"]["accepted"]
    return accepted


async def limited(
    platform: Platform, asker: tuple[Role, str] | None, query: str = TRACK, number: int = 1, **more: Any
) -> None:
    (error,) = (await platform.ask(query, asker, events=some(number, **more)))["errors"]
    assert error["extensions"]["code"] == "RATE_LIMITED"
    assert 1 <= error["extensions"]["retryAfterMs"] <= 120_000


@pytest.mark.long
async def test_a_school_of_a_thousand_children_behind_one_address_is_not_locked_out(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path) as school:
        turns = asyncio.Semaphore(32)

        async def lesson(child: int) -> list[int]:
            """A page before sign-in; then the sign-in, and what the minutes offline before it have gathered."""
            device = str(uuid4())
            page = {"event": {"pageView": {}}, "page": {"path": "/"}}
            gathered = [*some(1, deviceId=device, event={"loginSuccess": {}}), *some(18, deviceId=device)]
            async with turns:
                return [
                    (await school.track(some(1, deviceId=device, **page), None))["accepted"],
                    (await school.track(gathered, (Role.STUDENT, f"pupil {child}")))["accepted"],
                ]

        assert await asyncio.gather(*map(lesson, range(1000))) == [[1, 19]] * 1000
        assert await counted_addresses(school) == {"127.0.0.0/24"}


async def counted(platform: Platform, of: str) -> list[str]:
    """The keys of Valkey under which events of so named senders were counted."""
    queue = await open_queue(platform.settings.redis_url or "")
    keys = [key.decode() for key in await queue.keys(f"*questlog:{of}*")]
    await queue.aclose(close_connection_pool=True)
    return keys


async def counted_addresses(platform: Platform) -> set[str]:
    """Of which addresses events were counted, as the keys of Valkey name them."""
    keys = await counted(platform, "address")
    return {"/".join(key.partition("questlog:address/")[2].split("/")[:2]) for key in keys}


async def test_no_whole_address_stands_in_valkey(strict: Platform) -> None:
    await strict.track(some(1), ADA)
    queue = await open_queue(strict.settings.redis_url or "")
    keys = b" ".join(await queue.keys("*"))
    await queue.aclose(close_connection_pool=True)
    assert b"127.0.0.0/24" in keys
    assert b"127.0.0.1" not in keys


@pytest.mark.parametrize("origin", ["*", "learn.example.org", "https://a.example/", "https://*.example.org"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        Settings(cors_origins=(origin,))


@pytest.mark.parametrize(
    ("proxies", "forwarded_for", "address"),
    [
        ((), "203.0.113.77", "127.0.0.0/24"),
        (("10.0.0.1",), "203.0.113.77", "127.0.0.0/24"),
        (NEAR, None, "127.0.0.0/24"),
        (NEAR, "203.0.113.77", "203.0.113.0/24"),
        (NEAR, "198.51.100.1, 203.0.113.77", "203.0.113.0/24"),
        (("127.0.0.0/8", "10.0.0.0/8"), "198.51.100.1, 203.0.113.77, 10.1.2.3", "203.0.113.0/24"),
        (NEAR, "203.0.113.77:4711", "203.0.113.0/24"),
        (NEAR, "2001:db8:1:2::7", "2001:db8:1::/48"),
        (NEAR, "[2001:db8:1:2::7]:4711", "2001:db8:1::/48"),
    ],
)
async def test_a_proxy_tells_who_asks_where_it_is_trusted(
    servers: EmbeddedServers, tmp_path: Path, proxies: tuple[str, ...], forwarded_for: str | None, address: str
) -> None:
    async with new_api(servers, tmp_path, trusted_proxies=proxies, address_events_per_minute=9) as behind:
        headers = {"x-forwarded-proto": "https"} | ({"x-forwarded-for": forwarded_for} if forwarded_for else {})
        body = {"query": TRACK, "variables": {"events": some()}}
        answer = await behind.client.post("/graphql", json=body, headers=headers)
        assert ("Secure" in answer.headers["set-cookie"]) is (proxies not in {(), ("10.0.0.1",)})
        assert await counted_addresses(behind) == {address}


async def test_a_cookie_sent_from_a_page_of_another_host_lets_nobody_read(strict: Platform) -> None:
    await strict.client.post("/graphql", json={"query": TRACK, "variables": {"events": some()}})
    assert strict.client.cookies["questlog_device"]
    body = {"query": "{ viewer { role user { id } } intake { accepted } }"}
    answer = (await strict.client.post("/graphql", json=body, headers={"origin": ORIGIN})).json()
    assert answer["data"] == {"viewer": {"role": "ANONYMOUS", "user": None}, "intake": None}
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("proxy", ["*", "proxy.example.org", "10.0.0.1/8", "10.0.0.0/40"])
def test_what_is_no_proxy_s_address_is_refused(proxy: str) -> None:
    with pytest.raises(ValueError, match="neither an address nor a network"):
        Settings(trusted_proxies=(proxy,))
