"""Erasing somebody: on their way, while they are stored, while an archive is made, and after being broken off."""

import asyncio
import io
import json
import signal
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from sqlalchemy import text

from models.event import TrackedEvent
from models.ledger import set_aside
from models.receipt import is_genuine, public_key, signed
from models.retention import Policy, Step
from models.viewer import Role
from questlog.embedded import EmbeddedServers
from tests.household import CHILD, PARENT, SIBLING, day_of, move_in
from tests.platform import SERVICE, Answer, Asker, Platform, new_api, until, working
from workers.event import store
from workers.queue import decode_event, encode_event
from workers.retention import Done, retain

ERASE = "mutation ($who: ID!) { eraseUser(input: {userId: $who}) { erasure { id state } userErrors { code } } }"
ERASURE = "query ($id: ID!) { erasure(id: $id) { state requestedAt finishedAt receipt } }"
ADMIN: Asker = (Role.ADMIN, "ada")
THE_PARENT: Asker = (Role.PARENT, PARENT)
PLACES = text(
    "SELECT relname::text, attname::text, inhparent IS NOT NULL FROM pg_attribute"
    " JOIN pg_class ON pg_class.oid = attrelid LEFT JOIN pg_inherits ON inhrelid = pg_class.oid"
    " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"
)


async def erase(platform: Platform, who: str, asker: Asker = SERVICE) -> str:
    """Ask for it; gives the erasure's id."""
    payload = (await platform.data(ERASE, asker, who=who))["eraseUser"]
    assert not payload["userErrors"]
    erasure_id: str = payload["erasure"]["id"]
    return erasure_id


async def erased(platform: Platform, erasure_id: str, asker: Asker = SERVICE) -> Answer:
    """The receipt, once it is done."""
    answer: Answer = {}

    async def is_done() -> bool:
        nonlocal answer
        answer = (await platform.data(ERASURE, asker, id=erasure_id))["erasure"]
        assert answer["state"] != "FAILED", answer
        return bool(answer["state"] == "DONE")

    await until(is_done)
    receipt: Answer = answer["receipt"]
    return receipt


async def places_of(platform: Platform, *needles: str) -> dict[str, int]:
    """In how many rows of which column one of the texts stands, in whatever form a column has it."""
    found: dict[str, int] = {}
    async with platform.superuser.connect() as connection:
        for table, column, _ in (await connection.execute(PLACES)).all():
            for needle in needles:
                rows = await connection.scalar(
                    text(f'SELECT count(*) FROM "{table}" WHERE "{column}"::text LIKE :needle'),
                    {"needle": f"%{needle}%"},
                )
                if rows:
                    found[f"{table}.{column}"] = found.get(f"{table}.{column}", 0) + rows
    return found


async def key_of(platform: Platform, who: str) -> str:
    async with platform.superuser.connect() as connection:
        key = await connection.scalar(text("SELECT subject_key FROM users WHERE user_id = :who"), {"who": who})
    return str(key)


async def ids_of(platform: Platform, key: str) -> list[str]:
    """The ids of all their events."""
    async with platform.superuser.connect() as connection:
        rows = await connection.scalars(
            text("SELECT event_id FROM user_activity_events WHERE subject_key = CAST(:key AS uuid)"), {"key": key}
        )
        return [str(each) for each in rows]


def event(who: str, **payload: Any) -> dict[str, Any]:
    """An event of just now, as a SERVICE sends it."""
    sent = payload or {"pageView": {}}
    now = datetime.now(UTC).isoformat()
    return {"eventId": str(uuid4()), "occurredAt": now, "event": sent, "page": {"path": "/x"}, "userId": who}


def tracked(who: str, kind: str = "route_change", payload: dict[str, Any] | None = None) -> TrackedEvent:
    """The same on its way to the table."""
    now = datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return TrackedEvent(uuid4(), now, now, kind, who, None, True, orjson.dumps(payload or {}).decode())


async def test_nothing_of_them_is_left_anywhere(empty_platform: Platform) -> None:
    platform = empty_platform
    who, friend = f"learner-{uuid4()}", f"friend-{uuid4()}"
    await move_in(platform)
    await platform.upsert({"userId": who, "role": "STUDENT"}, {"userId": friend, "role": "STUDENT"})
    await platform.link(PARENT, who)
    mine = [each | {"page": {"path": "/of/all"}, "userId": who, "eventId": str(uuid4())} for each in day_of("sam")]
    naming = [
        event(friend, profileViewed={"profileId": who}),
        event(friend, connectionRequestSent={"recipientId": who}),
        event(friend, custom={"name": "chat_opened", "data": {"with": [who, "x"], "by": {who: 1}, "room": "a"}}),
        event(friend, questStarted={"questId": who}),
    ]
    sent = await platform.track([*mine, *naming])
    assert not sent["rejected"], sent
    await platform.settle()
    key = await key_of(platform, who)
    event_ids = await ids_of(platform, key)
    assert len(event_ids) == len(mine)
    assert len(await places_of(platform, who)) > 4
    receipt = await erased(platform, await erase(platform, who))
    await platform.settle()

    assert await places_of(platform, key, *event_ids) == {}
    # What a quest is called may be the same as what somebody is called: that names nobody.
    left = await places_of(platform, who)
    events = {place for place in left if place.startswith("user_activity_events_") and place.endswith("event_data")}
    assert sum(left[place] for place in events) == 1
    assert left.keys() - events == {"catalogue.name", "learning_journey_events.quest_id"}
    assert receipt["complete"]
    assert receipt["deleted"]["user_activity_events"] == len(mine)
    assert receipt["deleted"]["users"] == receipt["deleted"]["guardianships"] == 1
    assert receipt["deleted"]["names in user_activity_events"] == 3
    assert not any(receipt["found"].values())
    assert receipt["sameTextElsewhere"]["learning_journey_events.quest_id"] == 1
    assert is_genuine(receipt, public_key(platform.settings.erasure_key))
    assert who not in orjson.dumps(receipt).decode()
    async with platform.superuser.connect() as connection:
        rows = await connection.scalars(
            text("SELECT event_data FROM user_activity_events WHERE event_type = 'chat_opened'")
        )
        assert list(rows) == [{"with": ["x"], "by": {}, "room": "a"}]


@pytest.mark.parametrize("altered", ["person", "finishedAt", "complete"])
def test_a_receipt_that_was_altered_is_not_genuine(altered: str) -> None:
    secret = b"a secret of this test alone, of 32 bytes"
    receipt = signed({"person": "x", "finishedAt": "y", "complete": True}, secret)
    assert is_genuine(json.loads(json.dumps(receipt)), public_key(secret))
    assert not is_genuine(receipt | {altered: "z"}, public_key(secret))
    assert not is_genuine(receipt, public_key(b"another secret of this test, of 32 bytes"))
    assert not is_genuine(receipt | {"signature": "?"}, public_key(secret))


async def test_what_is_in_the_queue_is_withdrawn_and_what_comes_later_refused(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    async with new_api(servers, tmp_path) as platform:
        who = f"learner-{uuid4()}"
        await platform.upsert({"userId": who, "role": "STUDENT"}, {"userId": "friend", "role": "STUDENT"})
        naming: list[dict[str, Any]] = [
            {"profileViewed": {"profileId": who}},
            {"custom": {"name": "chat_opened", "data": {"with": who}}},
        ]
        queued = await platform.track([event(who), *(event("friend", **each) for each in naming)])
        assert queued["accepted"] == 3
        own = {name: value for name, value in event(who).items() if name != "userId"}
        assert (await platform.track([own], (Role.STUDENT, who)))["accepted"] == 1
        erasure_id = await erase(platform, who, (Role.STUDENT, who))
        for asker, late in ((SERVICE, event(who)), ((Role.STUDENT, who), own | {"eventId": str(uuid4())})):
            refused = await platform.track([late], asker)
            assert [each["code"] for each in refused["userErrors"]] == ["UNKNOWN_USER"]
        assert (await platform.data("{ viewer { role user { userId } } }", (Role.STUDENT, who)))["viewer"][
            "user"
        ] is None
        async with working(platform):
            receipt = await erased(platform, erasure_id, (Role.STUDENT, who))
            await platform.settle()
        ledger = (await platform.data("{ intake { accepted stored withdrawn waiting setAside } }", SERVICE))["intake"]
        assert ledger == {"accepted": 4, "stored": 2, "withdrawn": 2, "waiting": 0, "setAside": 0}
        assert await places_of(platform, who) == {}
        assert receipt["complete"]
        # Signed up anew they are somebody new, of whom everything is taken again.
        await platform.upsert({"userId": who, "role": "STUDENT"})
        assert (await platform.track([own | {"eventId": str(uuid4())}], (Role.STUDENT, who)))["accepted"] == 1
        assert (await platform.track([event(who)]))["accepted"] == 1
        async with working(platform):
            await platform.settle()
        assert len(await ids_of(platform, await key_of(platform, who))) == 2


async def test_a_store_that_began_before_is_waited_for(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path) as platform:
        who = f"learner-{uuid4()}"
        await platform.upsert({"userId": who, "role": "STUDENT"})
        async with platform.worker_engine.begin() as storing:
            stored = await store(storing, [tracked(who)], anonymize_after_days=90)
            assert stored.stored == 1
            asking = asyncio.create_task(erase(platform, who))

            async def waits() -> bool:
                async with platform.superuser.connect() as connection:
                    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                    return bool(await connection.scalar(text(waiting)))

            await until(waits)
        erasure_id = await asking
        async with platform.worker_engine.begin() as storing:
            assert await store(storing, [tracked(who)], anonymize_after_days=90) == (0, 0, 1)
        async with working(platform):
            receipt = await erased(platform, erasure_id)
        assert receipt["deleted"]["user_activity_events"] == 1
        assert await places_of(platform, who) == {}


FILES = """
SELECT count(*) FROM pg_class, pg_read_binary_file(pg_relation_filepath(oid)) AS content
WHERE relkind IN ('r', 't', 'i', 'm') AND relnamespace IN ('public'::regnamespace, 'pg_toast'::regnamespace)
AND position(CAST(:needle AS bytea) IN content) > 0
"""
WITH_ROWS = "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
STATISTICS = """
SELECT count(*) FROM pg_stats WHERE schemaname = 'public'
AND concat(most_common_vals::text, histogram_bounds::text, most_common_elems::text) LIKE :needle
"""


async def test_after_the_next_retention_run_no_file_keeps_them(servers: EmbeddedServers, tmp_path: Path) -> None:
    """Neither a table's nor an index's, nor what the planner knows of them."""
    async with new_api(servers, tmp_path) as platform:
        who, device = f"learner-{uuid4()}", uuid4()
        await platform.upsert(*({"userId": each, "role": "STUDENT"} for each in (who, "friend")))
        await platform.consent(who)
        error = {"javascriptError": {"message": "it broke"}}
        kinds: list[dict[str, Any]] = [{"questStarted": {"questId": "maps"}}, {"pageView": {}}, error]
        sent = [event(who, **kind) | {"deviceId": str(device)} for kind in kinds]
        async with working(platform):
            taken = await platform.track([*sent, event("friend", profileViewed={"profileId": who}), event("friend")])
            assert not taken["rejected"], taken
            await platform.settle()
        key = UUID(await key_of(platform, who))
        held = [who.encode(), key.bytes, device.bytes, *(UUID(each["eventId"]).bytes for each in sent)]

        async def places() -> list[int]:
            async with platform.superuser.begin() as connection:
                await connection.execute(text("CHECKPOINT"))
                files = [await connection.scalar(text(FILES), {"needle": each}) or 0 for each in held]
                return [*files, await connection.scalar(text(STATISTICS), {"needle": f"%{who}%"}) or 0]

        async with platform.superuser.begin() as connection:
            # The day's run is over, so that no worker begins it before the files are looked at.
            await connection.execute(text("INSERT INTO retention_runs VALUES (now(), now(), now(), 0, 0)"))
            for (table,) in (await connection.execute(text(WITH_ROWS))).all():
                await connection.execute(text(f"ANALYZE {table}"))  # as PostgreSQL does by itself
        assert all(await places())
        async with working(platform):
            await erased(platform, await erase(platform, who))
        assert all(await places())
        policy, queue = Policy(90, 730), platform.api.intake.queue
        done = [each async for each in retain(platform.worker_engine, queue, datetime.now(UTC), policy, wait=True)]
        assert {each.step for each in done} == {Step.REWRITE}
        assert Done(Step.REWRITE, "users", 1) in done
        assert not any(await places())
        async with platform.superuser.connect() as connection:
            assert await connection.scalar(text("SELECT written_anew_at IS NOT NULL FROM erasures"))
            assert await connection.scalar(text("SELECT user_id FROM users")) == "friend"
            assert await connection.scalar(text("SELECT count(*) FROM user_activity_events")) == 2


CHILD_CODE = """
import asyncio, os, sys
from datetime import UTC, datetime
from uuid import UUID
import workers.erasure as erasure
from models.base import connect
from workers.queue import open_queue

async def main():
    url, redis_url, erasure_id, parts = sys.argv[1:]
    engine = connect(url, pool_size=1, secret=os.environ["SECRET"].encode())
    queue = await open_queue(redis_url)
    left = int(parts)

    def broken_off(step, is_last):
        async def take(*arguments):
            nonlocal left
            left -= 1
            if left < 0 or is_last:
                os.kill(os.getpid(), 9)
            await step(*arguments)
        return take

    erasure._note, erasure._finish = broken_off(erasure._note, False), broken_off(erasure._finish, True)
    async for _ in erasure.erase(engine, queue, UUID(erasure_id), anonymize_after_days=90):
        pass

asyncio.run(main())
"""


async def test_killed_at_any_point_it_ends_right(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path) as platform:
        who = f"learner-{uuid4()}"
        await platform.upsert({"userId": who, "role": "STUDENT"})
        async with working(platform):
            sent = [event(who) for _ in range(30)]
            assert (await platform.track(sent))["accepted"] == len(sent)
            await platform.settle()
        key = await key_of(platform, who)
        erasure_id = await erase(platform, who)
        async with platform.superuser.connect() as connection:
            plain = str(await connection.scalar(text("SELECT erasure_id FROM erasures")))
        for parts in (0, 1, 2, 3, 5, 8, 40, 1000):
            arguments = [platform.logins.worker, platform.settings.redis_url or "", plain, str(parts)]
            killed = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", CHILD_CODE, *arguments],
                env={"SECRET": platform.settings.erasure_key.decode(), "PYTHONPATH": "."},
                check=False,
            )
            assert killed.returncode == -signal.SIGKILL
        async with working(platform):
            receipt = await erased(platform, erasure_id)
        assert receipt["deleted"]["user_activity_events"] == len(sent)
        assert await places_of(platform, key, who) == {}


async def test_what_is_set_aside_of_them_goes_and_of_others_no_more_names_them(empty_platform: Platform) -> None:
    platform = empty_platform
    who, friend = f"learner-{uuid4()}", f"friend-{uuid4()}"
    await platform.upsert({"userId": who, "role": "STUDENT"})
    named = tracked(friend, "profile_viewed", {"profileId": who})
    async with platform.worker_engine.begin() as connection:
        await set_aside(connection, [("odd", encode_event(tracked(who))), ("odd", encode_event(named))])
    receipt = await erased(platform, await erase(platform, who))
    assert receipt["deleted"]["set_aside_events"] == receipt["deleted"]["names in set_aside_events"] == 1
    async with platform.superuser.begin() as connection:
        (left,) = await connection.scalars(text("DELETE FROM set_aside_events RETURNING event"))
    assert decode_event(left).user_id == friend
    assert decode_event(left).payload == {}


async def test_an_archive_of_what_is_set_aside_of_others_is_made_anew(empty_platform: Platform) -> None:
    platform = empty_platform
    who, friend = f"learner-{uuid4()}", f"friend-{uuid4()}"
    await platform.upsert({"userId": who, "role": "STUDENT"}, {"userId": friend, "role": "STUDENT"})
    naming = encode_event(tracked(friend, "chat_opened", {"with": who}))
    async with platform.worker_engine.begin() as connection:
        await set_aside(connection, [("odd", naming)])
    asker: Asker = (Role.STUDENT, friend)
    ask = "mutation ($who: ID!) { exportUserData(input: {userId: $who}) { export { id } } }"
    await platform.data(ask, asker, who=friend)

    async def told_of() -> list[bool]:
        """Of each archive that is there, whether it names them."""
        async with platform.superuser.connect() as connection:
            whole = "SELECT string_agg(content, '' ORDER BY number) FROM data_export_parts JOIN data_exports"
            whole += " USING (subject_key, export_id) WHERE state = 'DONE' GROUP BY export_id"
            archives = [zipfile.ZipFile(io.BytesIO(each)) for each in await connection.scalars(text(whole))]
        return [who in archive.read("set_aside.json").decode() for archive in archives]

    async def is_made() -> bool:
        return bool(await told_of())

    async def offered_until() -> list[datetime]:
        async with platform.superuser.connect() as connection:
            return list(await connection.scalars(text("SELECT expires_at FROM data_exports")))

    await until(is_made)
    assert await told_of() == [True]
    until_then = await offered_until()
    await erased(platform, await erase(platform, who))
    await until(is_made)
    assert await told_of() == [False]
    assert await offered_until() == until_then
    async with platform.superuser.begin() as connection:
        await connection.execute(text("TRUNCATE set_aside_events"))


async def test_figures_of_the_platform_are_those_of_the_events_that_are_left(empty_platform: Platform) -> None:
    """As if they had never been here, as far as raw events go."""
    platform = empty_platform
    question = """{
      pageViews { nodes { path views uniqueUsers sessions bounceRate } }
      popularQuests { questId views starts completions completionRate popularity }
      popularBadges { badgeId views claims earned claimRate }
      errors {
        totalErrors countsByType { errorType count } groups { nodes { message count usersAffected firstSeen lastSeen } }
      }
      eventCounts { category count }
    }"""
    await move_in(platform)
    before = await platform.data(question, ADMIN)
    who = f"learner-{uuid4()}"
    await platform.upsert({"userId": who, "role": "STUDENT"})
    theirs = [
        each
        | {
            "userId": who,
            "eventId": str(uuid4()),
            "occurredAt": (datetime.fromisoformat(each["occurredAt"]) - timedelta(days=days, minutes=3)).isoformat(),
        }
        for each in day_of(CHILD)
        for days in (-1, 0, 1)
    ]
    assert not (await platform.track(theirs))["rejected"]
    await platform.settle()
    assert await platform.data(question, ADMIN) != before
    await erased(platform, await erase(platform, who))
    await platform.settle()
    assert await platform.data(question, ADMIN) == before


async def test_what_somebody_said_and_read_of_others_stays_and_names_them_no_more(empty_platform: Platform) -> None:
    platform = empty_platform
    await move_in(platform)
    child: Asker = (Role.STUDENT, CHILD)
    told = "query ($who: ID!) { user(userId: $who) { accessLog { nodes { viewer { userId } viewerRole } } } }"
    await platform.data(told, THE_PARENT, who=CHILD)

    async def read_by() -> list[Answer]:
        nodes: list[Answer] = (await platform.data(told, child, who=CHILD))["user"]["accessLog"]["nodes"]
        return [node for node in nodes if node["viewerRole"] == "PARENT"]

    async def is_kept() -> bool:
        return bool(await read_by())

    await until(is_kept)
    consents = "query ($who: ID!) { user(userId: $who) { consents { basis givenBy { userId } revokedAt } } }"
    before = (await platform.data(consents, child, who=CHILD))["user"]["consents"]
    assert [each["givenBy"] for each in before] == [{"userId": PARENT}] * 2
    key = await key_of(platform, PARENT)
    receipt = await erased(platform, await erase(platform, PARENT))
    assert receipt["deleted"].items() >= {"guardianships": 2, "names in consents": 4, "names in access_log": 1}.items()
    assert not {"consents", "access_log"} & receipt["deleted"].keys()
    after = (await platform.data(consents, child, who=CHILD))["user"]["consents"]
    assert after == [each | {"givenBy": None} for each in before]
    assert await read_by() == [{"viewer": None, "viewerRole": "PARENT"}]
    assert await places_of(platform, key) == {}


async def test_who_may_erase_whom(empty_platform: Platform) -> None:
    platform = empty_platform
    await move_in(platform)
    this_year = datetime.now(UTC).year
    await platform.upsert(
        {"userId": "young", "role": "STUDENT", "birthDate": f"{this_year - 12}-06-01"},
        {"userId": "old", "role": "STUDENT", "birthDate": f"{this_year - 20}-06-01"},
    )

    async def code(who: str, asker: Asker) -> str:
        payload = (await platform.data(ERASE, asker, who=who))["eraseUser"]
        return str(payload["userErrors"][0]["code"] if payload["userErrors"] else payload["erasure"]["state"])

    assert await code("young", (Role.STUDENT, "young")) == "FORBIDDEN"
    assert await code(SIBLING, (Role.STUDENT, CHILD)) == "NOT_FOUND"
    assert await code("zenobia", THE_PARENT) == "NOT_FOUND"
    assert await code("nobody", THE_PARENT) == "NOT_FOUND"
    assert await code("nobody", ADMIN) == "NOT_FOUND"
    assert await code("old", (Role.STUDENT, "old")) == "WAITING"
    assert await code(SIBLING, THE_PARENT) == "WAITING"
    mine = await erase(platform, CHILD, THE_PARENT)
    assert await erase(platform, CHILD, THE_PARENT) == mine, "asked again it is the same"
    assert (await platform.data(ERASE, (Role.PARENT, "gus"), who=CHILD))["eraseUser"]["userErrors"]
    await erased(platform, mine, THE_PARENT)
    answers = [
        await platform.ask(ERASURE, asker, id=node)
        for asker, node in (
            ((Role.PARENT, "gus"), mine),
            ((Role.STUDENT, PARENT), mine),
            ((Role.PARENT, "gus"), "nonsense"),
            (SERVICE, mine),
        )
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["errors"][0]["extensions"]["code"] == "NOT_FOUND"
    assert (await platform.data(ERASURE, ADMIN, id=mine))["erasure"]["state"] == "DONE"
