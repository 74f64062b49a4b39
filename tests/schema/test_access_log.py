"""Who read whose data: every read of another is kept, behind the read, and told to whom it is about."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from graphql import GraphQLField, GraphQLNamedType, GraphQLObjectType, get_named_type
from sqlalchemy import text

from models.access_log import Access, forget_accesses, hour_of
from models.viewer import Role
from schema.root import SCHEMA
from tests.platform import Asker, Platform, until
from workers.access_log import AccessLog

ADMIN: Asker = (Role.ADMIN, "ada")
PARENT: Asker = (Role.PARENT, "pat")
CHILD: Asker = (Role.STUDENT, "sam")
LOG = """
query ($who: ID!, $first: Int, $after: String) {
  user(userId: $who) {
    accessLog(first: $first, after: $after) {
      nodes { id viewer { userId role displayName } viewerRole fields at } pageInfo { hasNextPage endCursor }
    }
  }
}
"""
ENTRIES = """
SELECT viewer.user_id, viewer_role, hour, at, fields FROM access_log
JOIN users AS subject USING (subject_key) LEFT JOIN users AS viewer ON viewer.subject_key = viewer_key
WHERE subject.user_id = :who ORDER BY at, viewer_role
"""

# What each question hands out of a learner without asking for the user first.
ROOTS = {
    "engagement": ('engagement(userId: "sam") { days }', {"Engagement.days"}),
    "journey": (
        'journey(userId: "sam") { totalXp milestones { nodes { xp } } }',
        {"LearningJourney.totalXp", "LearningJourney.milestones"},
    ),
    "eventCounts": ('eventCounts(userId: "sam") { count }', {"CategoryCount.count"}),
    "user": ('user(userId: "sam") { displayName }', {"User.displayName"}),
    "users": ("users { edges { node { timeZone } } }", {"User.timeZone"}),
    "viewer": ("viewer { children { displayName } }", {"User.displayName"}),
    "node": ("node(id: NODE) { ... on Session { browser } }", {"Session.browser"}),
    "nodes": ("nodes(ids: [NODE]) { ... on Session { os } }", {"Session.os"}),
    "activityEvents": (
        "activityEvents { nodes { type page: pagePath } }",
        {"ActivityEvent.type", "ActivityEvent.pagePath"},
    ),
    "atRiskStudents": ("atRiskStudents(threshold: 0) { nodes { risk { score } } }", {"AtRiskStudent.risk"}),
}
OF_NOBODY = {
    "pageViews",
    "popularQuests",
    "popularBadges",
    "errors",
    "intake",
    "retentionStatus",
    "dataExport",
    "erasure",
}
"""Questions that tell of nobody: an archive is read when it is fetched, and a receipt names nobody."""


@pytest.fixture(scope="module", autouse=True)
async def home(platform: Platform) -> None:
    """A child with a day of events, known for long enough to be assessed, and a parent."""
    await platform.upsert(
        {"userId": "sam", "role": "STUDENT", "displayName": "Sam"},
        {"userId": "pat", "role": "PARENT", "displayName": "Pat"},
        {"userId": "ada", "role": "ADMIN", "displayName": "Ada"},
        {"userId": "kim", "role": "STUDENT"},
    )
    await platform.link("pat", "sam")
    then = datetime.now(UTC) - timedelta(days=1)
    await platform.track(
        [
            {
                "eventId": str(uuid4()),
                "occurredAt": (then + timedelta(minutes=minute)).isoformat(),
                "event": payload,
                "userId": "sam",
                "deviceId": str(UUID(int=7)),
            }
            for minute, payload in enumerate(({"pageView": {}}, {"questCompleted": {"questId": "q", "xp": 5}}))
        ]
    )
    await platform.settle()
    async with platform.superuser.begin() as connection:
        await connection.execute(text("UPDATE users SET known_since = now() - interval '30 days'"))
        await connection.execute(text("UPDATE assessments_due SET due_at = now()"))
    await platform.settle()


@pytest.fixture
async def nobody_looked(platform: Platform) -> None:
    """Nobody has looked yet, as far as the API and the database know."""
    log = platform.api.access_log
    await until(lambda: _nothing_waits(log))
    log._known.clear()
    async with platform.superuser.begin() as connection:
        await connection.execute(text("TRUNCATE access_log"))


async def _nothing_waits(log: AccessLog) -> bool:
    return not log._waiting


async def entries(platform: Platform, who: str = "sam") -> list[Any]:
    async with platform.superuser.connect() as connection:
        return list(await connection.execute(text(ENTRIES), {"who": who}))


async def read_by(platform: Platform, asker: Asker, who: str = "sam") -> set[str]:
    """The fields of somebody that the asker has read, once everything noted is kept."""
    assert asker
    await until(lambda: _nothing_waits(platform.api.access_log))
    return {field for row in await entries(platform, who) if row.user_id == asker[1] for field in row.fields}


def selection_of(kind: GraphQLNamedType | None) -> str:
    """Something to ask of a type, however deep that is."""
    if not isinstance(kind, GraphQLObjectType):
        return ""
    name, field = next(iter(kind.fields.items()))
    return f"{{ {name} {selection_of(get_named_type(field.type))} }}"


def fields_of_user() -> dict[str, GraphQLField]:
    user = SCHEMA.type_map["User"]
    assert isinstance(user, GraphQLObjectType)
    fields: dict[str, GraphQLField] = user.fields
    return fields


@pytest.mark.usefixtures("nobody_looked")
@pytest.mark.parametrize("field", fields_of_user())
async def test_every_field_of_another_leaves_an_entry(platform: Platform, field: str) -> None:
    below = selection_of(get_named_type(fields_of_user()[field].type))
    await platform.data(f'{{ user(userId: "sam") {{ a: {field} {below} }} }}', ADMIN)
    assert await read_by(platform, ADMIN) == {f"User.{field}"}


def test_every_question_is_tried_or_names_nobody() -> None:
    query = SCHEMA.query_type
    assert query
    assert query.fields.keys() == ROOTS.keys() | OF_NOBODY


@pytest.mark.usefixtures("nobody_looked")
@pytest.mark.parametrize("root", ROOTS)
async def test_every_question_about_another_leaves_an_entry(platform: Platform, root: str) -> None:
    asked, fields = ROOTS[root]
    if "NODE" in asked:
        session = '{ user(userId: "sam") { sessions { nodes { id } } } }'
        (node,) = (await platform.data(session, CHILD))["user"]["sessions"]["nodes"]
        asked = asked.replace("NODE", f'"{node["id"]}"')
    asker = PARENT if root == "viewer" else ADMIN
    await platform.data(f"{{ {asked} }}", asker)
    assert await read_by(platform, asker) == fields


@pytest.mark.usefixtures("nobody_looked")
async def test_what_is_ones_own_is_refused_or_tells_nothing_leaves_none(platform: Platform) -> None:
    await platform.data('{ user(userId: "sam") { displayName } journey(userId: "sam") { totalXp } }', CHILD)
    await platform.data('{ viewer { user { displayName } } engagement(userId: "pat") { days } }', PARENT)
    assert (await platform.ask('{ user(userId: "kim") { displayName } }', PARENT))["errors"]
    await platform.data('{ user(userId: "sam") { __typename } }', PARENT)
    # Behind all these, so that they would be kept by now.
    assert (await platform.ask('{ user(userId: "sam") { timeZone risk { score } } }', PARENT))["errors"]
    assert await read_by(platform, PARENT) == {"User.timeZone"}
    assert len(await entries(platform)) == 1
    assert await entries(platform, "pat") == await entries(platform, "kim") == []


@pytest.mark.usefixtures("nobody_looked")
async def test_a_pair_has_one_entry_an_hour_of_all_processes(platform: Platform) -> None:
    key = await subject_key(platform)
    logs = [AccessLog(platform.api.databases.intake) for _ in range(2)]
    at = datetime(2026, 3, 5, 9, 10, tzinfo=UTC)
    for minute, field in enumerate(("User.journey", "User.risk", "User.events", "User.journey")):
        access = Access(key, "ada", "ADMIN", at + timedelta(minutes=minute), frozenset([field]))
        for log in logs[: 2 - minute % 2]:
            log.note(access)
    logs[1].note(Access(key, "ada", "ADMIN", at + timedelta(hours=1), frozenset(["User.role"])))
    logs[1].note(Access(key, "ada", "PARENT", at, frozenset(["User.role"])))
    for log in logs:
        await log.close()
    assert await entries(platform) == [
        ("ada", "ADMIN", hour_of(at), at, ["User.events", "User.journey", "User.risk"]),
        ("ada", "PARENT", hour_of(at), at, ["User.role"]),
        ("ada", "ADMIN", hour_of(at) + timedelta(hours=1), at + timedelta(hours=1), ["User.role"]),
    ]


@pytest.mark.usefixtures("nobody_looked")
async def test_what_the_database_does_not_take_waits(platform: Platform) -> None:
    intake = platform.logins.names()["intake"]
    async with platform.superuser.begin() as connection:
        await connection.execute(text(f'REVOKE INSERT ON access_log FROM "{intake}"'))
    log = AccessLog(platform.api.databases.intake)
    log.note(Access(await subject_key(platform), "ada", "ADMIN", datetime.now(UTC), frozenset(["User.journey"])))
    await log._keep()
    assert await entries(platform) == []
    async with platform.superuser.begin() as connection:
        await connection.execute(text(f'GRANT INSERT ON access_log TO "{intake}"'))
    await log.close()
    assert [row.fields for row in await entries(platform)] == [["User.journey"]]


@pytest.mark.usefixtures("nobody_looked")
async def test_the_log_is_for_the_user_their_guardians_and_admins_newest_first(platform: Platform) -> None:
    key = await subject_key(platform)
    log = AccessLog(platform.api.databases.intake)
    ago = [datetime.now(UTC).replace(microsecond=0) - timedelta(hours=hours) for hours in range(2, 5)]
    for at in reversed(ago):
        log.note(Access(key, "ada", "ADMIN", at, frozenset(["User.risk"])))
    await log.close()
    for asker in (CHILD, PARENT, ADMIN):
        found, after = [], None
        more = True
        while more:
            page = (await platform.data(LOG, asker, who="sam", first=1, after=after))["user"]["accessLog"]
            found += page["nodes"]
            more, after = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
        # What the askers have read just now is there too, or not yet.
        old = [node for node in found if datetime.fromisoformat(node["at"]) in ago]
        assert [datetime.fromisoformat(node["at"]) for node in old] == ago
        assert {node["viewerRole"] for node in old} == {"ADMIN"}
        assert all(node["viewer"] == {"userId": "ada", "role": "ADMIN", "displayName": "Ada"} for node in old)
        assert all(node["fields"] == ["User.risk"] for node in old)
        again = (await platform.data("query ($id: ID!) { node(id: $id) { id } }", asker, id=old[0]["id"]))["node"]
        assert again == {"id": old[0]["id"]}
    assert (await platform.data("query ($id: ID!) { node(id: $id) { id } }", (Role.STUDENT, "kim"), id=old[0]["id"]))[
        "node"
    ] is None
    assert "User.accessLog" in await read_by(platform, PARENT)


@pytest.mark.usefixtures("nobody_looked")
async def test_a_viewer_whose_account_is_gone_is_null_and_a_subject_takes_the_log_along(platform: Platform) -> None:
    await platform.upsert({"userId": "gone", "role": "ADMIN"}, {"userId": "lee", "role": "STUDENT"})
    await platform.data('{ a: user(userId: "sam") { role } b: user(userId: "lee") { role } }', (Role.ADMIN, "gone"))
    assert await read_by(platform, (Role.ADMIN, "gone")) == {"User.role"}
    assert len(await entries(platform, "lee")) == 1
    async with platform.superuser.begin() as connection:
        await connection.execute(text("DELETE FROM users WHERE user_id IN ('gone', 'lee')"))
        assert await connection.scalar(text("SELECT count(*) FROM access_log")) == 1
    (entry,) = (await platform.data(LOG, CHILD, who="sam"))["user"]["accessLog"]["nodes"]
    assert (entry["viewer"], entry["viewerRole"]) == (None, "ADMIN")


@pytest.mark.usefixtures("nobody_looked")
async def test_whoever_looks_after_they_were_erased_leaves_an_entry(platform: Platform) -> None:
    """An admin's token is good for as long as it says."""
    await platform.upsert({"userId": "ghost", "role": "ADMIN"})
    erase = 'mutation { eraseUser(input: {userId: "ghost"}) { userErrors { code } } }'
    assert not (await platform.data(erase, (Role.ADMIN, "ghost")))["eraseUser"]["userErrors"]
    assert await platform.data('{ user(userId: "sam") { displayName } }', (Role.ADMIN, "ghost"))
    await until(lambda: _nothing_waits(platform.api.access_log))
    assert [(row.user_id, row.viewer_role, row.fields) for row in await entries(platform)] == [
        (None, "ADMIN", ["User.displayName"])
    ]


@pytest.mark.usefixtures("nobody_looked")
async def test_entries_are_deleted_once_they_are_two_years_old(platform: Platform) -> None:
    over = datetime(2024, 11, 1, 12, tzinfo=UTC)
    log = AccessLog(platform.api.databases.intake)
    for at in (over - timedelta(days=1), over, over + timedelta(hours=1)):
        log.note(Access(await subject_key(platform), "ada", "ADMIN", at, frozenset(["User.risk"])))
    await log.close()
    async with platform.worker_engine.begin() as connection:
        assert await forget_accesses(connection, over) == 2
    assert [row.at for row in await entries(platform)] == [over + timedelta(hours=1)]


async def subject_key(platform: Platform) -> UUID:
    async with platform.superuser.connect() as connection:
        found = await connection.scalar(text("SELECT subject_key FROM users WHERE user_id = 'sam'"))
    return UUID(str(found))
