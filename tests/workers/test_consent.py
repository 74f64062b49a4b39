"""Whoever stores events judges once more whose they are: what changed on their way is withdrawn, and counted."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy import text

from models.base import connect
from models.permission import FREE, ConsentRule
from models.storing import begin_storing
from models.viewer import Role, Viewer
from questlog.app import create_app
from questlog.embedded import EmbeddedServers
from resolvers.standing import Standings
from tests.histories import as_input, as_tracked
from tests.platform import (
    CONSENT,
    REVOKE,
    SERVICE,
    SET_TRACKING,
    Answer,
    Asker,
    Platform,
    browser,
    new_api,
    until,
    working,
)
from tests.workers.storing import DAYS, NOW, Storing, visit
from workers.event import Stored, store
from workers.ledger import ledger
from workers.queue import open_queue

TODAY = NOW.date()
YOUNG = date(TODAY.year - 10, 1, 1)


async def counted(platform: Platform) -> tuple[int, ...]:
    """The ledger's stored, duplicate, withdrawn and set aside, once it adds up and nothing waits."""
    queue = await open_queue(platform.settings.redis_url or "")
    async with platform.worker_engine.connect() as connection:
        found = await ledger(connection, queue)
    await queue.aclose(close_connection_pool=True)
    assert found.adds_up
    assert not found.waiting
    return found.stored, found.duplicate, found.withdrawn, found.set_aside


@pytest.fixture
async def api(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An installation for one test, in which nothing is stored until the test says so."""
    async with new_api(servers, tmp_path) as running:
        yield running


async def know(storing: Storing, user_id: str, **columns: Any) -> UUID:
    """Keep a learner, with these columns."""
    key = await storing.know(user_id)
    for name, value in columns.items():
        await storing.rows(f"UPDATE users SET {name} = :value WHERE subject_key = :key", value=value, key=key)
    return key


async def test_what_may_not_be_kept_by_now_is_withdrawn(storing: Storing) -> None:
    await know(storing, "young", birth_date=YOUNG)
    await know(storing, "objects", tracking_objected=True)
    await know(storing, "grown", birth_date=date(TODAY.year - 14, 1, 1))
    events = visit(NOW), visit(NOW, kind="login_success"), visit(NOW, kind="network_error", message="away")
    for name, outcome in (("young", Stored(0, 0, 3)), ("objects", Stored(2, 0, 1)), ("grown", Stored(3, 0, 0))):
        batch = [as_tracked(event, name) for event in events]
        assert await storing.store(batch) == outcome
        kept = await storing.rows(
            "SELECT count(*) FROM user_activity_events JOIN users USING (subject_key) WHERE user_id = :n", n=name
        )
        assert kept == [(outcome.stored - (name == "objects"),)]


async def test_an_error_of_whoever_objects_is_kept_once_however_often_it_is_stored(storing: Storing) -> None:
    await know(storing, "objects twice", tracking_objected=True)
    batch = [as_tracked(visit(NOW, kind="network_error", message="away"), "objects twice")]
    assert await storing.store(batch) == Stored(1, 0, 0)
    assert await storing.store(batch) == Stored(0, 1, 0)


async def test_a_consent_counts_until_it_is_revoked(storing: Storing) -> None:
    key = await know(storing, "consents", birth_date=YOUNG)
    batch = [as_tracked(visit(NOW), "consents")]
    given = "INSERT INTO consents VALUES (:key, gen_random_uuid(), 'SCHOOL', NULL, NULL, now(), '1', :revoked)"
    await storing.rows(given, key=key, revoked=NOW)
    assert await storing.store(batch) == Stored(0, 0, 1)
    await storing.rows(given, key=key, revoked=None)
    assert await storing.store(batch) == Stored(1, 0, 0)
    await storing.rows("UPDATE consents SET revoked_at = now() WHERE subject_key = :key", key=key)
    assert await storing.store(batch) == Stored(0, 0, 1)


async def test_below_the_age_of_consent_a_learner_s_own_word_is_none(storing: Storing) -> None:
    """Also where it was given before their birth date was known."""
    key = await know(storing, "on their own word")
    given = "INSERT INTO consents VALUES (:key, gen_random_uuid(), 'SELF', NULL, NULL, now(), '1', NULL)"
    await storing.rows(given, key=key)
    batch = [as_tracked(visit(NOW), "on their own word")]
    strict = ConsentRule(unknown_age=True)
    async with storing.engine.begin() as connection:
        assert await store(connection, batch, anonymize_after_days=DAYS, consent_rule=strict) == Stored(1, 0, 0)
    await storing.rows("UPDATE users SET birth_date = :born WHERE subject_key = :key", born=YOUNG, key=key)
    async with storing.engine.begin() as connection:
        assert await store(connection, batch, anonymize_after_days=DAYS, consent_rule=strict) == Stored(0, 0, 1)


async def test_the_rule_is_the_one_that_is_given(storing: Storing) -> None:
    await know(storing, "fourteen", birth_date=date(TODAY.year - 15, 1, 1))
    await know(storing, "unknown age")
    batch = [as_tracked(visit(NOW), name) for name in ("fourteen", "unknown age")]
    for rule, outcome in (
        (ConsentRule(16, unknown_age=True), Stored(0, 0, 2)),
        (ConsentRule(16), Stored(1, 0, 1)),
        (ConsentRule(0), Stored(1, 1, 0)),
    ):
        async with storing.engine.begin() as connection:
            assert await store(connection, batch, anonymize_after_days=DAYS, consent_rule=rule) == outcome


async def test_what_is_unjudged_and_may_not_be_kept_is_withdrawn_and_not_set_aside(storing: Storing) -> None:
    await know(storing, "young and unjudged", birth_date=YOUNG)
    opened = as_tracked(visit(NOW, kind="evidence_uploaded", studentId="somebody"), "young and unjudged")
    assert await storing.store([msgspec.structs.replace(opened, unjudged=True)]) == Stored(0, 0, 1)


async def test_a_revocation_ends_after_whoever_is_storing_and_before_whoever_begins(
    idle: Platform, storing: Storing
) -> None:
    await know(storing, "between", birth_date=YOUNG)
    await idle.consent("between")
    first, second = ([as_tracked(visit(NOW), "between")] for _ in range(2))
    async with storing.engine.begin() as connection:
        assert await store(connection, first, anonymize_after_days=DAYS) == Stored(1, 0, 0)
        revoking = asyncio.create_task(idle.data(REVOKE, SERVICE, userId="between"))
        await storing.until_waiting(1)
        beginning = asyncio.create_task(storing.store(second))
        await storing.until_waiting(2)
    assert not (await revoking)["revokeConsent"]["userErrors"]
    assert await beginning == Stored(0, 0, 1)


async def test_to_revoke_what_is_not_there_waits_for_nobody_who_is_storing(idle: Platform, storing: Storing) -> None:
    await know(storing, "never consented", birth_date=YOUNG)
    async with storing.engine.begin() as connection:
        await begin_storing(connection)
        answer = await idle.data(REVOKE, SERVICE, userId="never consented")
    assert [error["code"] for error in answer["revokeConsent"]["userErrors"]] == ["ALREADY_DONE"]


async def test_to_object_no_more_waits_for_nobody_who_is_storing(idle: Platform, storing: Storing) -> None:
    await know(storing, "objects no more", tracking_objected=True)
    async with storing.engine.begin() as connection:
        await begin_storing(connection)
        answer = await idle.data(
            SET_TRACKING, (Role.STUDENT, "objects no more"), userId="objects no more", objected=False
        )
    assert not answer["setTracking"]["userErrors"]


async def test_what_is_on_its_way_when_a_consent_is_revoked_is_withdrawn(api: Platform) -> None:
    kit: Asker = (Role.STUDENT, "kit")
    await api.upsert({"userId": "kit", "role": "STUDENT", "birthDate": YOUNG.isoformat()})
    await api.consent("kit")
    assert (await api.track([as_input(visit(NOW), "kit") for _ in range(3)], kit))["accepted"] == 3
    await api.data(REVOKE, SERVICE, userId="kit")
    assert (await api.track([as_input(visit(NOW), "kit")], kit))["rejected"] == 1
    async with working(api):
        await api.settle()
    assert await counted(api) == (0, 0, 3, 0)


async def test_a_process_that_has_not_heard_of_it_keeps_nothing_either(api: Platform) -> None:
    """And one that the database does not answer refuses nobody, and keeps nothing either."""
    ned: Asker = (Role.STUDENT, "ned")
    await api.upsert({"userId": "ned", "role": "STUDENT"})
    app = create_app(api.settings)
    async with app.router.lifespan_context(app), browser(app) as client:
        other = Platform(api.settings, api.logins, api.superuser, api.worker_engine, client, app)
        assert (await other.track([as_input(visit(NOW), "ned")], ned))["accepted"] == 1
        await api.data(SET_TRACKING, ned, userId="ned", objected=True)
        assert (await other.track([as_input(visit(NOW), "ned")], ned))["accepted"] == 1
        assert (await api.track([as_input(visit(NOW), "ned")], ned))["rejected"] == 1
        away = connect("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1)
        databases = other.api.databases.__class__(away, away, away)
        other.api.standings = Standings(databases, api.settings.consent_rule)
        for _ in range(2):
            assert (await other.track([as_input(visit(NOW), "ned")], ned))["accepted"] == 1
    async with working(api):
        await api.settle()
    assert await counted(api) == (0, 0, 4, 0)


async def test_whoever_goes_on_sending_does_not_wait_for_the_database(
    api: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is refused all the same, soon after another process has changed what stands against them."""
    monkeypatch.setattr("resolvers.standing.SECONDS_REMEMBERED", 2)
    monkeypatch.setattr("resolvers.standing.SECONDS_BETWEEN_REFRESHES", 0.1)
    await api.upsert({"userId": "ivy", "role": "STUDENT"})
    standings, ivy = api.api.standings, Viewer(Role.STUDENT, "ivy")
    assert await standings.of(ivy) == FREE
    until_forgotten = time.monotonic() + 3
    while time.monotonic() < until_forgotten:
        with pytest.raises(StopIteration, check=lambda answer: answer.value == FREE):
            standings.of(ivy).send(None)  # one that waits for anything would give what it waits for
        await asyncio.sleep(0.02)
    async with api.superuser.begin() as connection:
        await connection.execute(text("UPDATE users SET tracking_objected = true WHERE user_id = 'ivy'"))

    async def is_refused() -> bool:
        return await standings.of(ivy) != FREE

    await until(is_refused)


async def test_the_setting_holds_for_the_worker_and_for_a_request_that_stores_itself(
    own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    kit: Asker = (Role.STUDENT, "kit")
    async with new_api(own_servers, tmp_path, age_of_consent=21) as api:
        await api.upsert({"userId": "kit", "role": "STUDENT", "birthDate": date(TODAY.year - 20, 1, 1).isoformat()})
        await api.consent("kit")
        assert (await api.track([as_input(visit(NOW), "kit")], kit))["accepted"] == 1
        revoke = "UPDATE consents SET revoked_at = now()"
        async with api.superuser.begin() as connection:
            await connection.execute(text(revoke))
        async with working(api):
            await api.settle()
        assert await counted(api) == (0, 0, 1, 0)
        await own_servers.valkey.stop()
        assert (await api.track([as_input(visit(NOW), "kit")], kit))["accepted"] == 1
        await own_servers.valkey.start()
        assert await counted(api) == (0, 0, 2, 0)


# -------------------------------------------------------------------------------------- random histories


@dataclass
class Learner:
    """What is known of somebody, and what they sent that waits, as plain as it can be said."""

    user_id: str
    zone: str
    born: date | None = None
    consents: int = 0
    objects: bool = False
    waiting: list[tuple[str, str]] = field(default_factory=list)

    def may_send(self, kind: str) -> str | None:
        today = datetime.now(UTC).astimezone(ZoneInfo(self.zone)).date()
        if self.born and not self.consents:
            years = today.year - self.born.year
            if (today.month, today.day) < (self.born.month, self.born.day):
                years -= 1
            if years < 13:
                return "CONSENT_REQUIRED"
        return "TRACKING_OBJECTED" if self.objects and kind == "route_change" else None


KINDS: dict[str, Answer] = {
    "route_change": {},
    "login_success": {},
    "quest_started": {"questId": "q"},
    "network_error": {"message": "away"},
}


async def step(api: Platform, random: Random, learner: Learner) -> None:
    """One thing that happens; what is answered is what must be."""
    who, themself = learner.user_id, (Role.STUDENT, learner.user_id)
    match random.choice(["birth", "consent", "revoke", "object", "send", "send", "send", "send"]):
        case "birth":
            day = datetime.now(UTC).astimezone(ZoneInfo(learner.zone)).date().replace(day=15)
            years, days = random.choice([12, 13]), random.choice([-40, 40])
            learner.born = random.choice([None, day.replace(year=day.year - years) + timedelta(days=days)])
            born = learner.born and learner.born.isoformat()
            await api.upsert({"userId": who, "role": "STUDENT", "birthDate": born})
        case "consent":
            notice = str(uuid4())
            await api.data(CONSENT, SERVICE, userId=who, basis="SCHOOL", notice=notice)
            learner.consents += 1
        case "revoke":
            answer = await api.data(REVOKE, SERVICE, userId=who)
            assert bool(answer["revokeConsent"]["userErrors"]) == (not learner.consents)
            learner.consents = 0
        case "object":
            learner.objects = not learner.objects
            guardian = (Role.PARENT, "pat")
            answer = await api.data(SET_TRACKING, guardian, userId=who, objected=learner.objects)
            assert not answer["setTracking"]["userErrors"]
        case "send":
            kind = random.choice(list(KINDS))
            by_service = random.random() < 0.3
            event = visit(NOW, kind=kind, **KINDS[kind])
            sent = as_input(event, who) | ({"userId": who} if by_service else {})
            answer = await api.track([sent], SERVICE if by_service else themself)
            refused = learner.may_send(kind)
            assert [error["code"] for error in answer["userErrors"]] == ([refused] if refused else [])
            if not refused:
                as_nobody = learner.objects and kind == "network_error"
                learner.waiting.append((str(event.event_id), "as nobody" if as_nobody else kind))


@pytest.mark.parametrize("seed", range(6))
async def test_any_history_keeps_what_may_be_kept_when_it_is_stored(api: Platform, seed: int) -> None:
    random = Random(seed)
    zones = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago")
    learners = [Learner(f"learner {zone}", zone) for zone in zones]
    await api.upsert({"userId": "pat", "role": "PARENT"})
    for learner in learners:
        await api.upsert({"userId": learner.user_id, "role": "STUDENT", "timeZone": learner.zone})
        await api.link("pat", learner.user_id)
    expected: dict[str, str | None] = {}
    withdrawn = 0
    for _ in range(3):
        for _ in range(25):
            await step(api, random, random.choice(learners))
        for learner in learners:
            for event_id, kind in learner.waiting:
                if kind == "as nobody":
                    expected[event_id] = None
                elif learner.may_send(kind):
                    withdrawn += 1
                else:
                    nameless = learner.objects and kind == "network_error"
                    expected[event_id] = None if nameless else learner.user_id
            learner.waiting.clear()
        async with working(api):
            await api.settle()
    async with api.superuser.connect() as connection:
        rows = await connection.execute(
            text("SELECT event_id::text, user_id FROM user_activity_events LEFT JOIN users USING (subject_key)")
        )
        assert {row.event_id: row.user_id for row in rows} == expected
    assert await counted(api) == (len(expected), 0, withdrawn, 0)
