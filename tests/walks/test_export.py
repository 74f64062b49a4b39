"""Archives of all that is kept of somebody: what is in them, who gets them, and for how long."""

import asyncio
import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from starlette.requests import Request as HttpRequest

from models.base import connect
from models.event import UserActivityEvent
from models.person import KEPT, NOT_OF_PEOPLE
from models.retention import Policy, Step, mark_rewrite, take_step
from models.risk import WINDOWS
from models.viewer import Role, Viewer
from questlog.embedded import EmbeddedServers
from questlog.export import write
from questlog.supervisor import StartError
from resolvers.export import DownloadError, download
from tests.household import ADMIN as ADA
from tests.household import CHILD, PARENT, SIBLING, STRANGER, move_in
from tests.platform import Answer, Asker, Platform, new_api, until, working
from tests.walks.test_erasure import erase, erased, event, key_of, places_of
from workers.export import forget_expired, make_next

EXPORT = "mutation ($who: ID!) { exportUserData(input: {userId: $who}) { export { id state } userErrors { code } } }"
DATA_EXPORT = "query ($id: ID!) { dataExport(id: $id) { state requestedAt expiresAt downloadUrl } }"
ADMIN: Asker = (Role.ADMIN, ADA)
THE_CHILD: Asker = (Role.STUDENT, CHILD)
THE_PARENT: Asker = (Role.PARENT, PARENT)


async def ask_for(platform: Platform, who: str, asker: Asker) -> str:
    """Ask for an archive; gives its id."""
    payload = (await platform.data(EXPORT, asker, who=who))["exportUserData"]
    assert not payload["userErrors"]
    export_id: str = payload["export"]["id"]
    return export_id


async def ready(platform: Platform, export_id: str, asker: Asker) -> str:
    """Where it is, once it is there."""
    answer: Answer = {}

    async def is_done() -> bool:
        nonlocal answer
        answer = (await platform.data(DATA_EXPORT, asker, id=export_id))["dataExport"]
        return bool(answer["state"] == "DONE")

    await until(is_done)
    offered = datetime.fromisoformat(answer["expiresAt"]) - datetime.fromisoformat(answer["requestedAt"])
    assert offered.days == 7
    url: str = answer["downloadUrl"]
    return url


async def fetched(platform: Platform, url: str, asker: Asker) -> Any:
    headers = {"Authorization": f"Bearer {platform.token(*asker)}"} if asker else {}
    return await platform.client.get(url, headers=headers)


async def archive_of(platform: Platform, who: str, asker: Asker) -> zipfile.ZipFile:
    answer = await fetched(platform, await ready(platform, await ask_for(platform, who, asker), asker), asker)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return zipfile.ZipFile(io.BytesIO(answer.content))


async def test_columns_that_tell_of_people_have_their_place(servers: EmbeddedServers) -> None:
    """A new table must say whose its rows are, or that an archive has nothing of it."""
    columns = """
    SELECT table_name, column_name FROM information_schema.columns
    JOIN pg_class ON relname = table_name AND NOT relispartition
    WHERE table_schema = 'public' AND (column_name IN ('subject_key', 'user_id') OR column_name LIKE '%\\_key')
    """
    engine = connect(servers.superuser_url, pool_size=1)
    async with engine.connect() as connection:
        there = {(table, column) for table, column in await connection.execute(text(columns))}
    await engine.dispose()
    placed = {
        (kept.table.__tablename__, column)
        for kept in KEPT
        for column in [*(each.key for each in kept.whose), "user_id"]
    }
    assert {table for table, _ in there} == {table for table, _ in placed} | NOT_OF_PEOPLE.keys()
    assert {each for each in there if each[0] not in NOT_OF_PEOPLE} <= placed


async def test_an_archive_has_all_that_is_kept(empty_platform: Platform) -> None:
    platform = empty_platform
    await move_in(platform)
    naming = [
        event(CHILD, profileViewed={"profileId": STRANGER}),
        event(CHILD, evidenceUploaded={"studentId": CHILD}),
    ]
    assert not (await platform.track(naming))["rejected"]
    await platform.settle()
    archive = await archive_of(platform, CHILD, THE_CHILD)
    readme = archive.read("README.txt").decode()
    named = {name for name in archive.namelist() if name != "README.txt"}
    assert named == {
        f"{name}.{form}" for name in (*(k.name for k in KEPT), "set_aside", "rhythm") for form in ("json", "csv")
    }
    assert all(name in readme for name in named)

    def read(name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(archive.read(f"{name}.json"))
        lines = list(csv.DictReader(io.StringIO(archive.read(f"{name}.csv").decode(), newline="")))
        assert len(lines) == len(rows)
        assert all(line.keys() == row.keys() for line, row in zip(lines, rows, strict=True))
        return rows

    key = await key_of(platform, CHILD)
    async with platform.superuser.connect() as connection:
        for kept in KEPT:
            whose = " OR ".join(f"{column.key} = CAST(:key AS uuid)" for column in kept.whose)
            counted = text(f"SELECT count(*) FROM {kept.table.__tablename__} WHERE {whose}")
            number = await connection.scalar(counted, {"key": key})
            assert len(read(kept.name)) == number, kept.name
    (account,) = read("account")
    assert (account["user_id"], account["subject_key"]) == (CHILD, key)
    assert [row["guardian_key"] for row in read("guardians")] == [PARENT]
    assert {row["given_by_key"] for row in read("consents")} == {PARENT}
    risks = read("risk")
    assert sorted(row["days"] for row in risks) == sorted(WINDOWS)
    assert all(evidence for row in risks for _, _, evidence in row["factors"].values())
    assert read("rhythm")[0]["rhythm"] == "NOT_ENOUGH_DATA"
    data = [row["event_data"] for row in read("events")]
    assert {"studentId": CHILD} in data
    assert {} in data
    assert STRANGER not in json.dumps(data)
    of_admin = await archive_of(platform, CHILD, ADMIN)
    assert {"profileId": STRANGER} in [row["event_data"] for row in json.loads(of_admin.read("events.json"))]


async def test_whoever_fetches_an_archive_of_another_is_in_their_access_log(empty_platform: Platform) -> None:
    platform = empty_platform
    await move_in(platform)
    for asker in (THE_CHILD, THE_PARENT):
        await archive_of(platform, CHILD, asker)
    log = "query ($who: ID!) { user(userId: $who) { accessLog { nodes { viewer { userId } viewerRole fields } } } }"
    found: list[Answer] = []

    async def is_kept() -> bool:
        found[:] = (await platform.data(log, THE_CHILD, who=CHILD))["user"]["accessLog"]["nodes"]
        return bool(found)

    await until(is_kept)
    (entry,) = found
    assert entry == {"viewer": {"userId": PARENT}, "viewerRole": "PARENT", "fields": ["DataExport.downloadUrl"]}
    access = json.loads((await archive_of(platform, CHILD, THE_CHILD)).read("access.json"))
    assert [(row["subject_key"], row["viewer_key"]) for row in access] == [(CHILD, PARENT)]


async def test_who_gets_an_archive(empty_platform: Platform) -> None:
    platform = empty_platform
    await move_in(platform)
    for asker, who in ((THE_CHILD, SIBLING), (THE_PARENT, STRANGER), (THE_PARENT, "nobody"), (ADMIN, "nobody")):
        refused = (await platform.data(EXPORT, asker, who=who))["exportUserData"]
        assert refused == {"export": None, "userErrors": [{"code": "NOT_FOUND"}]}
    export_id = await ask_for(platform, CHILD, THE_PARENT)
    url = await ready(platform, export_id, THE_PARENT)
    assert (await fetched(platform, url, THE_PARENT)).status_code == 200
    assert (await fetched(platform, url, None)).status_code == 404
    others: list[Asker] = [THE_CHILD, ADMIN, (Role.STUDENT, PARENT), (Role.PARENT, "gus"), (Role.SERVICE, PARENT)]
    for asker in others:
        answer = await fetched(platform, url, asker)
        nothing = await fetched(platform, f"/exports/{uuid4()}", asker)
        assert (answer.status_code, answer.content) == (nothing.status_code, nothing.content) == (404, nothing.content)
    for asker in others[:-1]:
        answers = [await platform.ask(DATA_EXPORT, asker, id=each) for each in (export_id, "nonsense")]
        assert answers[0] == answers[1]
        assert answers[0]["errors"][0]["extensions"]["code"] == "NOT_FOUND"
    assert (await platform.client.get("/exports/nonsense")).status_code == 404
    async with platform.superuser.begin() as connection:
        expired = await connection.scalar(text("UPDATE data_exports SET expires_at = now() RETURNING expires_at"))
    assert (await fetched(platform, url, THE_PARENT)).status_code == 404
    for moment, parts in ((expired - timedelta(seconds=1), 1), (expired, 0)):
        async with platform.worker_engine.begin() as connection:
            await forget_expired(connection, moment)
            assert await connection.scalar(text("SELECT count(*) FROM data_export_parts")) == parts
    another = await ready(platform, await ask_for(platform, CHILD, THE_PARENT), THE_PARENT)
    unlink = 'mutation { unlinkGuardian(input: {guardianId: "pat", childId: "sam"}) { userErrors { code } } }'
    await platform.data(unlink, ADMIN)
    assert (await fetched(platform, another, THE_PARENT)).status_code == 404


async def test_somebody_erased_while_their_archive_is_made(
    servers: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is offered, and nothing is left of it, nor of archives of others that named them."""
    async with new_api(servers, tmp_path) as platform:
        who = f"learner-{uuid4()}"
        await platform.upsert({"userId": who, "role": "STUDENT"}, {"userId": PARENT, "role": "PARENT"})
        await platform.link(PARENT, who)
        async with working(platform):
            await platform.track([event(who)])
            await platform.settle()
            old = await ready(platform, await ask_for(platform, PARENT, THE_PARENT), THE_PARENT)
        archive = zipfile.ZipFile(io.BytesIO((await fetched(platform, old, THE_PARENT)).content))
        assert who in archive.read("guardians.json").decode()
        mine = await ask_for(platform, who, (Role.STUDENT, who))
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def pause(*arguments: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await keep(*arguments)

        from workers import export as exports

        keep = exports._keep
        monkeypatch.setattr(exports, "_keep", pause)
        making = asyncio.create_task(make_next(platform.worker_engine, datetime.now(UTC)))
        await begun.wait()
        erasure_id = await erase(platform, who)
        go_on.set()
        assert await making
        monkeypatch.setattr(exports, "_keep", keep)
        answer = await platform.ask(DATA_EXPORT, (Role.STUDENT, who), id=mine)
        assert answer["errors"][0]["extensions"]["code"] == "NOT_FOUND"
        assert (await fetched(platform, old, THE_PARENT)).status_code == 404
        async with working(platform):
            assert (await erased(platform, erasure_id))["deleted"]["data_exports"] == 1
            new = await ready(platform, await ask_for(platform, PARENT, THE_PARENT), THE_PARENT)
        archive = zipfile.ZipFile(io.BytesIO((await fetched(platform, new, THE_PARENT)).content))
        assert all(who not in archive.read(name).decode() for name in archive.namelist())
        assert await places_of(platform, who) == {}


async def test_an_archive_that_was_lost_is_made_again(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path) as platform:
        await platform.upsert({"userId": CHILD, "role": "STUDENT"})
        export_id = await ask_for(platform, CHILD, THE_CHILD)
        assert await ask_for(platform, CHILD, THE_CHILD) == export_id, "asked again it is the same"
        async with platform.superuser.begin() as connection:
            await connection.execute(text("UPDATE data_exports SET state = 'RUNNING', tries = 1"))
            await connection.execute(
                text("INSERT INTO data_export_parts SELECT subject_key, export_id, 0, 'half' FROM data_exports")
            )
        async with working(platform):
            url = await ready(platform, export_id, THE_CHILD)
        archive = zipfile.ZipFile(io.BytesIO((await fetched(platform, url, THE_CHILD)).content))
        assert archive.testzip() is None


async def test_an_archive_has_the_events_of_a_week_that_is_written_anew_meanwhile(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    """To whoever began to look before, the new partition would be empty."""
    async with new_api(servers, tmp_path) as platform:
        await platform.upsert({"userId": CHILD, "role": "STUDENT"})
        now = datetime.now(UTC)
        async with working(platform):
            assert (await platform.track([event(CHILD)]))["accepted"] == 1
            await platform.settle()
        export_id = await ask_for(platform, CHILD, THE_CHILD)
        retaining = connect(platform.logins.worker, pool_size=1, name="retaining")
        async with platform.worker_engine.begin() as connection:
            await mark_rewrite(connection, UserActivityEvent, [now])

        async def write_anew() -> None:
            async with retaining.begin() as connection:
                assert await take_step(connection, Step.REWRITE, now, Policy(90, 730))

        async def waits(which: str) -> bool:
            async with platform.superuser.connect() as connection:
                return bool(await connection.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {which}")))

        async with platform.superuser.begin() as connection:
            await connection.execute(text("LOCK TABLE data_exports IN EXCLUSIVE MODE"))
            making = asyncio.create_task(make_next(platform.worker_engine, now))
            await until(lambda: waits("wait_event_type = 'Lock'"))
            writing = asyncio.create_task(write_anew())

            async def is_exchanged_or_waits() -> bool:
                asleep = "application_name = 'retaining' AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')"
                return writing.done() or await waits(asleep)

            await until(is_exchanged_or_waits)
        assert await making
        await writing
        await retaining.dispose()
        url = await ready(platform, export_id, THE_CHILD)
        archive = zipfile.ZipFile(io.BytesIO((await fetched(platform, url, THE_CHILD)).content))
        assert len(json.loads(archive.read("events.json"))) == 1


async def test_whoever_downloads_slowly_holds_no_connection_and_gets_all(empty_platform: Platform) -> None:
    platform = empty_platform
    await platform.upsert({"userId": CHILD, "role": "STUDENT"})
    url = await ready(platform, await ask_for(platform, CHILD, THE_CHILD), THE_CHILD)
    async with platform.superuser.begin() as connection:
        for number in (1, 2):
            await connection.execute(
                text("INSERT INTO data_export_parts SELECT subject_key, export_id, :number, 'more' FROM data_exports"),
                {"number": number},
            )
        await connection.execute(text("UPDATE data_exports SET size = size + 8"))
    http = HttpRequest({"type": "http", "headers": [], "client": None})

    async def downloaded() -> tuple[int, AsyncIterator[bytes]]:
        request = platform.api.request_of(http, Viewer(Role.STUDENT, CHILD))
        return await download(request, UUID(url.removeprefix("/exports/")))

    size, parts = await downloaded()
    got = len(await anext(parts))
    assert "Current Checked out connections: 0" in platform.api.databases.viewer.pool.status()
    async for part in parts:
        got += len(part)
    assert got == size
    _, parts = await downloaded()
    await anext(parts)
    async with platform.superuser.begin() as connection:
        await connection.execute(text("UPDATE data_exports SET expires_at = expires_at + interval '1 second'"))
    with pytest.raises(DownloadError):  # made anew: parts of two archives are none
        await anext(parts)


async def test_an_archive_that_cannot_be_looked_for_is_not_said_to_be_gone(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path, seconds_to_answer=1) as platform:
        await platform.data("{ viewer { role } }", THE_CHILD)
        async with platform.superuser.begin() as connection:
            await connection.execute(text("LOCK TABLE data_exports IN ACCESS EXCLUSIVE MODE"))
            answer = await fetched(platform, f"/exports/{uuid4()}", THE_CHILD)
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (503, "UNAVAILABLE")
        assert (await fetched(platform, f"/exports/{uuid4()}", THE_CHILD)).status_code == 404


async def test_what_somebody_wrote_is_no_formula_in_a_spreadsheet(empty_platform: Platform) -> None:
    platform = empty_platform
    await platform.upsert({"userId": CHILD, "role": "STUDENT", "displayName": "@SUM(1)"})
    titles = ["=HYPERLINK(1)", "+1", "-1", "\t=1", "\r=1", "plain"]
    sent = [event(CHILD) | {"page": {"path": "/x", "title": title}} for title in titles]
    assert (await platform.track(sent))["accepted"] == len(titles)
    await platform.settle()
    archive = await archive_of(platform, CHILD, THE_CHILD)
    for name, column, own in (("events", "page_title", titles), ("account", "display_name", ["@SUM(1)"])):
        assert {row[column] for row in json.loads(archive.read(f"{name}.json"))} == set(own)
        cells = [row[column] for row in csv.DictReader(io.StringIO(archive.read(f"{name}.csv").decode(), newline=""))]
        assert set(cells) == {each if each == "plain" else f"'{each}" for each in own}


async def test_an_archive_that_is_not_finished_leaves_no_file(
    empty_platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await empty_platform.upsert({"userId": CHILD, "role": "STUDENT"})
    monkeypatch.setattr("workers.export.MOST_BYTES", 0)
    before = set(tmp_path.iterdir())
    with pytest.raises(StartError, match="more than an archive may hold"):
        await write(empty_platform.worker_engine, CHILD, tmp_path)
    assert set(tmp_path.iterdir()) == before
