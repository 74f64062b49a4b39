"""The log: each line is JSON, each request's has its id, and none tells what anybody did."""

import asyncio
import io
import json
import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import jwt
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.viewer import Role
from questlog.body import MOST_BYTES
from questlog.embedded import EmbeddedServers
from questlog.log import JsonFormatter
from tests.platform import BROWSER, SECRET, SERVICE, TRACK, UPSERT, Answer, Platform, new_api
from tests.processes import wait_until
from tests.questlog.test_http import some
from tests.questlog.test_serve import Installation, serving

TELLTALE = "telltale"
EMAIL = f"{TELLTALE}@example.org"
ADDRESS = "203.0.113.77"
AGENT = f"{BROWSER} {TELLTALE}"
DEVICE = "7e117a1e-0000-4000-8000-000000000077"
TELLTALES = (TELLTALE, ADDRESS, "203.0.113", "Firefox", DEVICE, "127.0.0.1", "pupil", "Bearer", "eyJ")

Line = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("log") / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


class Asker:
    """Somebody who sends what a log must not tell, and notes the request ids that came back."""

    def __init__(self, installation: Installation, http: httpx.Client) -> None:
        self.installation, self.http = installation, http
        self.answered: list[tuple[str, int]] = []
        self.origin = installation.url.removesuffix("/graphql")

    def send(self, body: Any, token: str | None = None, **more: Any) -> Answer:
        """Send a body and give the answer, each of whose errors must have the request's id."""
        headers = {
            "content-type": "application/json",
            "user-agent": AGENT,
            "x-forwarded-for": ADDRESS,
            "cookie": f"questlog_device={DEVICE}; {TELLTALE}=1",
            "x-request-id": EMAIL,
        }
        if token:
            headers["authorization"] = f"Bearer {token}"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.http.post(self.installation.url, content=content, headers=headers, **more)
        self.note(response)
        answer: Answer = response.json()
        for error in answer.get("errors", []):
            assert error["extensions"]["requestId"] == response.headers["x-request-id"]
        return answer

    def note(self, response: httpx.Response) -> None:
        UUID(response.headers["x-request-id"])
        self.answered.append((response.headers["x-request-id"], response.status_code))


async def as_superuser(home: Path, *statements: str) -> None:
    servers = EmbeddedServers.running(home)
    connection = await asyncpg.connect(servers.superuser_url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def lines(text_of_log: str) -> list[Line]:
    return [json.loads(line) for line in text_of_log.splitlines()]


def test_a_log_of_everything_that_goes_wrong_tells_nothing(home: Path) -> None:
    with httpx.Client(trust_env=False, timeout=20) as http, serving(home) as installation:
        asker = Asker(installation, http)
        send_what_is_refused(asker)
        masked = send_what_fails(asker)
        end_some_processes(installation)
        status, log = installation.end()
    assert status == 0
    said = lines(log)
    for line in said:
        assert {"time", "level", "logger", "message", "process"} <= line.keys()
        assert line["time"].endswith("+00:00")
        assert line["process"] in {"api", "worker", "supervisor"}
    check_requests([line for line in said if line["message"] == "request"], asker)
    told = {line["errorId"]: line for line in said if "errorId" in line}
    for error in masked:
        line = told[error["extensions"]["errorId"]]
        assert line["requestId"] == error["extensions"]["requestId"]
        assert "resolvers/" in line["error"]
    for message in ("worker ended with status -9 and is started again", "Invalid HTTP request received."):
        assert message in {line["message"] for line in said}
    servers_logs = (home / "postgresql.log").read_text() + (home / "valkey.log").read_text()
    assert "permission denied" in servers_logs
    for telltale in TELLTALES:
        assert telltale not in log
        assert telltale not in servers_logs


def events(**more: Any) -> Answer:
    return {"query": TRACK, "variables": {"events": some(**more)}}


CUSTOM = {"custom": {"name": "map_drawn", "data": {TELLTALE: EMAIL}}}


def send_what_is_refused(asker: Asker) -> None:
    pupil = asker.installation.token("student", f"pupil {EMAIL}")
    assert asker.send(events(event=CUSTOM, deviceId=DEVICE), pupil)["data"]["trackEvents"]["accepted"] == 1
    assert asker.send(events(userId=EMAIL), pupil)["data"]["trackEvents"]["rejected"] == 1
    named = {"query": f"query {TELLTALE} {{ viewer {{ role }} }}", "operationName": TELLTALE}
    assert asker.send(named, pupil)["data"]
    for wrong in (
        {"query": f"{{ {TELLTALE} "},
        {"query": f'{{ user(userId: "{EMAIL}") {{ {TELLTALE} }} }}'},
        {"query": TRACK, "variables": {"events": EMAIL}},
        {"query": f'{{ user(userId: "{EMAIL}") {{ userId }} }}'},
        {"query": f'{{ engagement(userId: "{EMAIL}", days: 9999) {{ activeDays }} }}'},
        {"query": None},
        [named],
        f'{{"query": "{TELLTALE}'.encode(),
        b" " * (MOST_BYTES + 1),
    ):
        assert asker.send(wrong, pupil)["errors"]
    for token in (TELLTALE, jwt.encode({"sub": EMAIL, "role": "student"}, SECRET)):
        assert asker.send(named, token)["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    asker.note(asker.http.get(f"{asker.origin}/users/{EMAIL}?token={TELLTALE}"))
    asker.note(asker.http.request("PROPFIND", f"{asker.origin}/graphql"))
    address = urlsplit(asker.origin)
    with socket.create_connection((address.hostname, address.port)) as raw:
        raw.sendall(f"{TELLTALE} {EMAIL}\r\n\r\n".encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 400")


def send_what_fails(asker: Asker) -> list[Answer]:
    """Requests that end in errors of the database, which names values in its own."""
    asyncio.run(
        as_superuser(
            asker.installation.home,
            f"ALTER TABLE users ADD CONSTRAINT nobody CHECK (display_name !~ '{TELLTALE}')",
            "REVOKE INSERT ON user_activity_events FROM questlog_worker",
            "REVOKE SELECT ON user_sessions FROM questlog_viewer",
        )
    )
    pupil = asker.installation.token("student", f"pupil {EMAIL}")
    service = asker.installation.token("service", "the platform")
    assert asker.send(events(event=CUSTOM), pupil)["data"]["trackEvents"]["accepted"] == 1
    wait_until(lambda: "a batch could not be stored" in asker.installation.output.read_text())
    ada = {"userId": EMAIL, "role": "STUDENT", "displayName": TELLTALE}
    sessions = f'{{ user(userId: "pupil {EMAIL}") {{ sessions {{ nodes {{ id }} }} }} }}'
    masked = [
        asker.send({"query": UPSERT, "variables": {"users": [ada]}}, service)["errors"][0],
        asker.send({"query": sessions}, pupil)["errors"][0],
    ]
    assert [error["extensions"]["code"] for error in masked] == ["INTERNAL_SERVER_ERROR"] * 2
    return masked


def end_some_processes(installation: Installation) -> None:
    installation.kill("valkey-server")
    wait_until(lambda: "and so is this worker" in installation.output.read_text())
    wait_until(lambda: installation.children("questlog work"))
    installation.kill("questlog work")


def check_requests(requests: list[Line], asker: Asker) -> None:
    # A line may come after the next request's: it is written when all is done, and that is after the answer.
    assert sorted((line["requestId"], line["status"]) for line in requests) == sorted(asker.answered)
    assert {line["path"] for line in requests} == {"/graphql", "other"}
    assert {line["method"] for line in requests} == {"GET", "POST", "other"}
    outcomes = {(line.get("role"), line.get("accepted"), line.get("refused")) for line in requests}
    assert outcomes == {("STUDENT", 1, 0), ("STUDENT", 0, 1), ("STUDENT", 0, 0), ("SERVICE", 0, 0), (None, None, None)}


async def test_every_error_has_the_id_of_its_request(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path) as platform:
        async with platform.superuser.begin() as connection:
            await connection.execute(text("REVOKE SELECT ON users FROM questlog_intake"))
        try:
            for asker, body, status in (
                (None, {"query": "{ nothing }"}, 200),
                (None, {"query": "{ viewer"}, 200),
                (None, {"query": 'mutation { linkGuardian(input: {guardianId: "a", childId: "b"}) { code } }'}, 200),
                (None, {"query": TRACK, "variables": {"events": []}}, 200),
                (None, {"query": TRACK, "variables": {"events": 1}}, 200),
                (SERVICE, {"query": TRACK, "variables": {"events": some(userId="ada")}}, 200),
                (None, {}, 400),
                (None, {"query": 1}, 400),
            ):
                check_errors(await send(platform, body, platform.token(*asker) if asker else None), status)
            check_errors(await send(platform, {"query": "{ nothing }"}, "no token"), 401)
            check_errors(await send(platform, {"query": " " * MOST_BYTES}), 413)
            without_role = jwt.encode({"sub": "ada", "exp": time.time() + 3600}, SECRET)
            (error,) = check_errors(await send(platform, {"query": "{ viewer { role } }"}, without_role), 500)
            assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
        finally:
            async with platform.superuser.begin() as connection:
                await connection.execute(text("GRANT SELECT ON users TO questlog_intake"))


async def test_a_request_keeps_the_id_it_came_with_where_that_is_well_formed(platform: Platform) -> None:
    for sent in ("0b7f3f2e-5f0a-4c86-9c31-2a3f4dc1f3a1", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "a" * 64):
        answer = await send(platform, {"query": "{ nothing }"}, request_id=sent)
        assert answer.headers["x-request-id"] == sent
        check_errors(answer, 200)
    for sent in (
        "",
        "short",
        "a" * 65,
        EMAIL,
        "203.0.113.77.203.0.113.77",
        "2001:db8::203:0:113:77",
        "a b c d e f g h",
    ):
        answer = await send(platform, {"query": "{ nothing }"}, request_id=sent)
        UUID(answer.headers["x-request-id"])
        check_errors(answer, 200)


async def send(
    platform: Platform, body: Answer, token: str | None = None, request_id: str | None = None
) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if request_id is not None:
        headers["x-request-id"] = request_id
    return await platform.client.post("/graphql", json=body, headers=headers)


def check_errors(answer: httpx.Response, status: int) -> list[Answer]:
    errors: list[Answer] = answer.json()["errors"]
    assert answer.status_code == status
    assert errors
    for error in errors:
        assert error["extensions"]["requestId"] == answer.headers["x-request-id"]
        assert error["extensions"]["code"]
    return errors


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What all loggers say, as a process of ours writes it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("api"))
    logging.getLogger().addHandler(handler)
    yield written
    logging.getLogger().removeHandler(handler)


async def test_of_what_libraries_say_only_the_constant_part_is_told(log: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError(EMAIL)

    def call_back(_: str) -> None:
        raise ValueError(EMAIL)

    failing = asyncio.create_task(fail(), name=EMAIL)
    await asyncio.wait([failing])
    del failing
    asyncio.get_running_loop().call_soon(call_back, EMAIL)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    logging.getLogger("arq.worker").warning("job %s failed, %s: %s", EMAIL, EMAIL, EMAIL, extra={"extra": EMAIL})
    logging.getLogger("sqlalchemy.pool").error("Exception closing connection %r", EMAIL, exc_info=ValueError(EMAIL))
    logging.getLogger("uvicorn.error").error(ValueError(EMAIL))
    logging.getLogger("uvicorn.error").error(f"it failed: {EMAIL}")  # noqa: G004 - libraries do
    said = lines(log.getvalue())
    assert TELLTALE not in log.getvalue()
    assert [line["message"] for line in said] == [
        "Task exception was never retrieved",
        "Exception in callback test_of_what_libraries_say_only_the_constant_part_is_told.",
        "job %s failed, %s",
        "Exception closing connection %r",
        "ValueError",
        "it failed",
    ]
    assert said[0]["error"].startswith("ValueError\n")
    assert "in fail" in said[0]["error"]


DYING = """
import threading, warnings
from questlog.log import configure

class Ill:
    def __del__(self):
        raise ValueError("telltale")

def fail():
    raise ValueError("telltale")

configure("worker", "info")
warnings.warn("telltale")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
Ill()
fail()
"""


def test_what_python_itself_says_is_no_other() -> None:
    died = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, check=False)
    said = lines(died.stderr)
    assert (died.returncode, died.stdout) == (1, "")
    assert TELLTALE not in died.stderr
    assert [line["message"] for line in said] == [
        "UserWarning in <string>, line 13",
        "an error was raised where nobody waits for it",
        "an error was raised where nobody waits for it",
        "the process ends",
    ]
    assert ["in fail" in line.get("error", "") for line in said] == [False, True, False, True]


async def test_of_an_error_kind_causes_and_frames_are_told(log: io.StringIO, platform: Platform) -> None:
    try:
        try:
            async with platform.worker_engine.connect() as connection:
                await connection.execute(text("SELECT CAST(:what AS integer)"), {"what": EMAIL})
        except DBAPIError as error:
            raise RuntimeError(EMAIL) from error
    except RuntimeError:
        logging.getLogger("workers.test").exception("it went wrong")
    (line,) = lines(log.getvalue())
    assert TELLTALE not in log.getvalue()
    assert line["error"].startswith("RuntimeError\n")
    for kind in ("DBAPIError", "test_of_an_error_kind_causes_and_frames_are_told"):
        assert kind in line["error"]


async def test_a_request_s_lines_have_its_id_and_others_none(log: io.StringIO, platform: Platform) -> None:
    logging.getLogger("workers.test").warning("before")
    async with platform.superuser.begin() as connection:
        await connection.execute(text("REVOKE SELECT ON guardianships FROM questlog_viewer"))
    token = platform.token(Role.PARENT, "pat")
    answer = await asyncio.create_task(send(platform, {"query": "{ viewer { children { userId } } }"}, token))
    async with platform.superuser.begin() as connection:
        await connection.execute(text("GRANT SELECT ON guardianships TO questlog_viewer"))
    logging.getLogger("workers.test").warning("after")
    said = lines(log.getvalue())
    ids = {line["message"]: line.get("requestId") for line in said}
    assert ids["before"] is ids["after"] is None
    assert answer.headers["x-request-id"] in ids.values()
