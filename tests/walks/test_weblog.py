"""A public site's log replayed: no bot is kept, no whole address anywhere, and sessions are as defined."""

import asyncio
import re
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import pytest

from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.settings import Settings, with_secret
from questlog.signin import sign_token
from resolvers.bot import is_bot
from tests import recomputation
from tests.leaks import DOMAIN, EMAILS, INTERFACE, dump, files_of, leaks, planted_events
from tests.platform import BROWSER, TRACK, UPSERT, Answer, until
from tests.questlog.test_serve import Installation, questlog, serving
from tests.recomputation import differences
from tests.weblog import Line, histories, read, unique_users, until_yesterday, user_agents

ONE = "mutation ($input: TrackEventInput!) { trackEvent(input: $input) { accepted userErrors { field code } } }"
WAITING = "{ intake { waiting setAside } }"
SESSIONS = """
query ($after: String) {
  users(first: 100, after: $after) {
    nodes {
      userId
      sessions(first: 100) {
        nodes { startedAt endedAt isOpen durationMinutes pageViews events isBounce entryPath exitPath }
        pageInfo { hasNextPage }
      }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""
PAGES = """
query ($after: String) {
  pageViews(days: 7, first: 100, after: $after) {
    nodes {
      path views uniqueUsers sessions bounceRate medianLoadTimeMs p95LoadTimeMs medianTimeOnPageSeconds
      daily { dates views uniqueUsers }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""
NOTHING_WAITS = "SELECT NOT EXISTS (SELECT FROM dirty_spans) AND NOT EXISTS (SELECT FROM dirty_days)"
OF_DEVICES = """
SELECT devices.device_id, started_at, ended_at, page_views, events, is_bounce, entry_path, exit_path
FROM user_sessions JOIN devices USING (subject_key) ORDER BY started_at DESC
"""
AS_STORED = """
SELECT user_id, device_id, user_agent, ip_address FROM user_activity_events LEFT JOIN users USING (subject_key)
WHERE device_id = ANY ($1)
"""
MOST_AT_ONCE = 16
SIGNED = (Role.STUDENT, Role.ADMIN, Role.SERVICE)
BOTS = [re.compile(each["pattern"]) for each in user_agents("crawler_user_agents")]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def address_of(line: Line) -> str:
    """The log's own address; for one device in ten a made-up one of IPv6, which the log has none of."""
    if line.device_id.int % 10:
        return line.address
    digits = line.device_id.hex
    address = ip_address(f"2001:db8:{digits[:4]}:{digits[4:8]}:{INTERFACE}:{digits[8:12]}")
    return [str(address), address.exploded, str(address).upper()][line.device_id.int // 10 % 3]


def cut(address: str) -> str:
    """The address without its last byte, or of IPv6 its last ten."""
    if ":" not in address:
        return f"{address.rpartition('.')[0]}.0/24"
    site = ":".join(ip_address(address).exploded.split(":")[:3])
    return f"{ip_address(site + '::')}/48"


@dataclass
class Replay:
    """The log, sent twice: by each visitor themself without a token, and by a SERVICE for a user a device."""

    installation: Installation
    lines: Sequence[Line]
    later: timedelta
    by_visitors: list[Answer]
    by_service: list[Answer]
    stored: list[Any]
    of_devices: list[Any]
    of_users: dict[UUID, list[Answer]]
    pages: list[Answer]
    asked_at: datetime
    dump: dict[str, bytes]

    @property
    def people(self) -> list[Line]:
        """The lines of which no user agent was refused."""
        return [line for line, answer in zip(self.lines, self.by_visitors, strict=True) if answer["accepted"]]


@pytest.fixture(scope="module")
async def replay(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replay]:
    """An installation of its own behind a proxy that says who asks; it has ended, and its files are there."""
    home = tmp_path_factory.mktemp("weblog") / "home"
    lines = [line for line in read() if line.is_page]
    later = until_yesterday(lines, datetime.now(UTC).date())
    wide = {"QUESTLOG_QUESTION_COST": "20000", "QUESTLOG_COST_RESTORE_RATE": "0"}
    with serving(home, QUESTLOG_TRUSTED_PROXIES="127.0.0.1", **wide) as installation:
        # Else the worker's would write Valkey's file anew at any time.
        assert questlog(home, "retention").returncode == 0
        settings = with_secret(Settings(home=home))
        tokens = {role: sign_token(settings, user_id=f"the {role}", role=role) for role in SIGNED}
        api = Caller(installation.url, tokens)
        async with api.http:
            by_visitors = await sent_by_visitors(api, lines, later)
            by_service = await sent_by_service(api, lines, later)
            await plant(api)
            await settled(api, home)
            of_users = await sessions_of_users(api)
            asked_at = datetime.now(UTC)
            pages = await pages_of_the_log(api)
        superuser_url = EmbeddedServers.running(home).superuser_url
        connection = await asyncpg.connect(superuser_url)
        devices = list({line.device_id for line in lines})
        stored = await connection.fetch(AS_STORED, devices)
        of_devices = await connection.fetch(OF_DEVICES)
        await connection.close()
        dumped = await dump(superuser_url)
        installation.end()
        yield Replay(
            installation,
            lines,
            later,
            by_visitors,
            by_service,
            stored,
            of_devices,
            of_users,
            pages,
            asked_at,
            dumped,
        )
    shutil.rmtree((home / "servers").resolve())


class Caller:
    """Whoever asks the API over HTTP, through the proxy."""

    def __init__(self, url: str, tokens: Mapping[Role, str]) -> None:
        self.url, self.tokens = url, tokens
        self.http = httpx.AsyncClient(trust_env=False, timeout=60)
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(self, query: str, role: Role | None = None, headers: Answer | None = None, **variables: Any) -> Any:
        """The data of an answer that has no errors."""
        signed = {"authorization": f"Bearer {self.tokens[role]}"} if role else {}
        async with self._turns:
            body = {"query": query, "variables": variables}
            answer = (await self.http.post(self.url, json=body, headers=signed | (headers or {}))).json()
        assert "errors" not in answer, answer
        return answer["data"]


async def sent_by_visitors(api: Caller, lines: Iterable[Line], later: timedelta) -> list[Answer]:
    """Each page view in a request of its own, from the visitor's address and by their browser."""
    asked = (
        api.ask(
            ONE,
            headers={"user-agent": line.user_agent, "x-forwarded-for": address_of(line)},
            input=line.as_input(later),
        )
        for line in lines
    )
    return [answer["trackEvent"] for answer in await asyncio.gather(*asked)]


async def sent_by_service(api: Caller, lines: Sequence[Line], later: timedelta) -> list[Answer]:
    """The refusals of all page views, sent by the platform's server for a user a device."""
    users = sorted({str(line.device_id) for line in lines})
    for start in range(0, len(users), 100):
        some = [{"userId": user, "role": "STUDENT"} for user in users[start : start + 100]]
        assert not (await api.ask(UPSERT, Role.SERVICE, users=some))["upsertUsers"]["userErrors"]
    refused: list[Answer] = []
    for start in range(0, len(lines), 500):
        events = [
            line.as_input(later)
            | {
                "userId": str(line.device_id),
                "client": {"userAgent": line.user_agent, "ipAddress": address_of(line)},
            }
            for line in lines[start : start + 500]
        ]
        sent = (await api.ask(TRACK, Role.SERVICE, events=events))["trackEvents"]
        refused += [error | {"index": start + error["index"]} for error in sent["userErrors"]]
    return refused


async def plant(api: Caller) -> None:
    """Send e-mail addresses, and whole IP addresses of visitors, wherever anything can be sent: what is good is taken,
    and what is bad must be told to nobody but to whoever sent it."""
    visitor = {"user-agent": f"{BROWSER} {EMAILS[0]}", "x-forwarded-for": "83.149.9.216"}
    events = list(planted_events())
    sent = (await api.ask(TRACK, headers=visitor, events=events))["trackEvents"]
    assert (sent["accepted"], sent["userErrors"]) == (len(events), [])
    sent = (await api.ask(TRACK, Role.STUDENT, visitor, events=list(planted_events())))["trackEvents"]
    assert sent["accepted"] == len(events)

    first, *_ = planted_events()
    for wrong in (
        first | {"occurredAt": "2001-01-01T00:00:00Z"},
        first | {"occurredAt": EMAILS[0]},
        first | {"deviceId": "83.149.9.216"},
        first | {"userId": EMAILS[0], "client": {"ipAddress": "83.149.9.216"}},
        first | {"event": {"custom": {"name": EMAILS[0]}}},
        first | {"event": {"questStarted": {"questId": f"{EMAILS[0]}\0"}}},
        first | {"event": {EMAILS[0]: {}}},
        first | {EMAILS[0]: "83.149.9.216"},
    ):
        for role in (None, Role.STUDENT, Role.SERVICE):
            await refused(api, visitor, role, {"query": ONE, "variables": {"input": wrong}})
            await refused(api, visitor, role, {"query": TRACK, "variables": {"events": [wrong]}})
    users = [{"userId": "them", "role": "STUDENT", "timeZone": EMAILS[0]}]
    await refused(api, visitor, Role.SERVICE, {"query": UPSERT, "variables": {"users": users}})
    await refused(api, visitor, Role.ADMIN, {"query": f'{{ user(userId: "{EMAILS[0]}") {{ userId }} }}'})
    await refused(api, visitor, None, {"query": f'{{ viewer {{ "{EMAILS[0]} 83.149.9.216" }} }}'})
    await refused(api, visitor, None, {"query": ONE, "operationName": EMAILS[0]})
    await refused(api, visitor | {"authorization": f"Bearer {EMAILS[0]}"}, None, {"query": "{ viewer { role } }"})
    cookie = {"cookie": f"questlog_device={EMAILS[0]}", "referer": f"https://learn.example/{EMAILS[0]}"}
    await refused(api, visitor | cookie, None, {"query": ONE})
    for body in (f'{{"query": "{EMAILS[0]}', f'["{EMAILS[0]}"]', EMAILS[0] * 50_000):
        json = visitor | {"content-type": "application/json"}
        assert (await api.http.post(api.url, content=body, headers=json)).is_client_error
    assert (await api.http.get(f"{api.url}/{EMAILS[0]}?of={EMAILS[0]}", headers=visitor)).is_client_error
    with socket.create_connection((urlsplit(api.url).hostname, urlsplit(api.url).port)) as raw:
        raw.sendall(f"GET /{EMAILS[0]} 83.149.9.216\r\n\r\n".encode())
        raw.recv(1000)


async def refused(api: Caller, headers: Answer, role: Role | None, body: Answer) -> None:
    signed = {"authorization": f"Bearer {api.tokens[role]}"} if role else {}
    answer = await api.http.post(api.url, json=body, headers=headers | signed)
    assert answer.is_client_error or '"errors":[{' in answer.text or '"userErrors":[{' in answer.text, answer.text


async def settled(api: Caller, home: Path) -> None:
    """Return once all that was accepted is stored, all that is stored derived, and all days that changed summed."""
    connection = await asyncpg.connect(EmbeddedServers.running(home).superuser_url)

    async def nothing_waits() -> bool:
        intake = (await api.ask(WAITING, Role.ADMIN))["intake"]
        assert intake["setAside"] == 0
        return bool(intake["waiting"] == 0 and await connection.fetchval(NOTHING_WAITS))

    await until(nothing_waits, seconds=120)
    await connection.close()


async def sessions_of_users(api: Caller) -> dict[UUID, list[Answer]]:
    """The sessions of every user who is a device of the log, as an admin sees them."""
    found: dict[UUID, list[Answer]] = {}
    after = None
    while True:
        users = (await api.ask(SESSIONS, Role.ADMIN, after=after))["users"]
        for user in users["nodes"]:
            assert not user["sessions"]["pageInfo"]["hasNextPage"]
            if not user["userId"].startswith("the "):
                found[UUID(user["userId"])] = user["sessions"]["nodes"]
        if not users["pageInfo"]["hasNextPage"]:
            return found
        after = users["pageInfo"]["endCursor"]


async def pages_of_the_log(api: Caller) -> list[Answer]:
    """All the log's pages as an admin sees them; those that `plant` made up are not among them."""
    found: list[Answer] = []
    after = None
    while True:
        pages = (await api.ask(PAGES, Role.ADMIN, after=after))["pageViews"]
        found += [page for page in pages["nodes"] if "[email]" not in page["path"]]
        if not pages["pageInfo"]["hasNextPage"]:
            return found
        after = pages["pageInfo"]["endCursor"]


def test_the_log_holds_what_its_source_says() -> None:
    lines = read()
    pages = [line for line in lines if line.is_page]
    people = [line for line in pages if not is_bot(line.user_agent)]
    assert (len(lines), len(pages), len(people)) == (7421, 2227, 1261)
    assert (len({line.device_id for line in pages}), len({line.device_id for line in people})) == (883, 702)
    days = {line.at.date() for line in lines}
    assert unique_users(histories(pages, timedelta(0)).values(), days)["/projects/xdotool"] == 130


def recomputed(replay: Replay) -> dict[UUID, list[Answer]]:
    """The sessions of each device whose events were taken, in the contract's shape, newest first."""
    now = datetime.now(UTC)
    return {
        device: [
            {
                key: value
                for key, value in session.items()
                if key not in {"deviceId", "eventIds", "deviceType", "browser", "os"}
            }
            for session in recomputation.sessions(history, now)
        ]
        for device, history in histories(replay.people, replay.later).items()
    }


async def test_a_service_s_sessions_are_those_of_the_slow_recomputation(replay: Replay) -> None:
    expected = recomputed(replay)
    assert {
        device: [
            session | {key: datetime.fromisoformat(session[key]) for key in ("startedAt", "endedAt")}
            for session in sessions
        ]
        for device, sessions in replay.of_users.items()
    } == {device: expected.get(device, []) for device in replay.of_users}
    assert len(expected) > 200


async def test_strangers_sessions_bounces_and_entry_pages_are_those_of_the_slow_recomputation(replay: Replay) -> None:
    found: dict[UUID, list[Any]] = {}
    of_the_log = {line.device_id for line in replay.people}
    for device, *figures in replay.of_devices:
        if device in of_the_log:
            found.setdefault(device, []).append(tuple(figures))
    keys = ("startedAt", "endedAt", "pageViews", "events", "isBounce", "entryPath", "exitPath")
    expected = {
        device: [tuple(session[key] for key in keys) for session in sessions]
        for device, sessions in recomputed(replay).items()
    }
    assert found == expected
    assert {session[4] for sessions in found.values() for session in sessions} == {True, False}


async def test_pages_unique_users_and_bounce_rates_are_those_of_the_slow_recomputation(replay: Replay) -> None:
    devices = list(histories(replay.people, replay.later).values())
    # Each device is two subjects: one without a token, and the user for whom the SERVICE sent the same.
    assert differences(recomputation.page_views(devices * 2, replay.asked_at, 7), replay.pages) == []
    days = set(recomputation.last_utc_days(replay.asked_at, 7))
    assert {page["path"]: page["uniqueUsers"] for page in replay.pages} == {
        path: 2 * users for path, users in unique_users(devices, days).items()
    }
    assert 0.0 < min(page["bounceRate"] or 1.0 for page in replay.pages) < 1.0


async def test_no_bot_is_in_the_tables(replay: Replay) -> None:
    kept = {row["user_agent"] for row in replay.stored}
    assert kept == {line.user_agent for line in replay.people}
    assert [agent for agent in kept if any(bot.search(agent) for bot in BOTS)] == []


async def test_what_is_refused_is_refused_as_a_bot_s_and_both_ways(replay: Replay) -> None:
    refused = [(index, answer["userErrors"]) for index, answer in enumerate(replay.by_visitors) if answer["userErrors"]]
    assert {(error["code"], *error["field"]) for _, errors in refused for error in errors} == {("BOT", "userAgent")}
    assert {(error["code"], *error["field"]) for error in replay.by_service} == {("BOT", "client", "userAgent")}
    assert [index for index, _ in refused] == [error["index"] for error in replay.by_service]
    assert len(replay.stored) == 2 * len(replay.people)


async def test_addresses_are_kept_cut_whoever_told_them(replay: Replay) -> None:
    told = Counter((line.device_id, line.user_agent, cut(address_of(line))) for line in replay.people)
    for of_service in (True, False):
        rows = [row for row in replay.stored if (row["user_id"] is not None) is of_service]
        assert Counter((row["device_id"], row["user_agent"], row["ip_address"]) for row in rows) == told


async def test_no_whole_address_is_in_any_file_log_or_dump(replay: Replay) -> None:
    addresses = {line.address.encode() for line in read()}
    files = files_of(replay.installation.home) | {replay.installation.output: replay.installation.output.read_bytes()}
    assert {where: found for where, content in files.items() if (found := leaks(content, addresses))} == {}
    assert {table: found for table, rows in replay.dump.items() if (found := leaks(rows, addresses))} == {}


async def test_the_search_looks_where_events_are(replay: Replay) -> None:
    for sought in (b"83.149.9.0/24", b"2001:db8:", b"[email]"):
        holding = {str(path) for path, content in files_of(replay.installation.home).items() if sought in content}
        for place in ("/pg_wal/", "/base/", "/appendonlydir/"):
            assert [path for path in holding if place in path], (sought, place)
        assert any(sought in rows for table, rows in replay.dump.items() if table.startswith("user_activity_events"))


def test_the_search_finds_what_must_not_be_there() -> None:
    address = b"83.149.9.216"
    for there in (address, b"\x1b" + address + b"9{}", b"at " + address + b":80", b"x" * 99 + address):
        assert leaks(there, {address}) == {address}
    assert leaks(b"83.149.9.0/24 183.149.9.21 83.149.9.", {address, b"83.149.9.0"}) == set()
    assert leaks(b"83.149.9.0", {b"83.149.9.0"}) == {b"83.149.9.0"}
    for email in EMAILS:
        assert leaks(f"<{email}>".encode(), set())
    assert leaks(f"2001:DB8::{INTERFACE.upper()}:1".encode(), set()) == {INTERFACE.encode()}
    assert leaks(DOMAIN.encode(), set()) == {DOMAIN.encode()}
