"""Two walls: with the code's rule gone the database gives nothing away, with the database's gone the code does not."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ColumnElement, TableClause, func, select, text, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.access_log import AccessLogEntry
from models.base import connect
from models.user import User
from models.viewer import ANONYMOUS, Role, Viewer
from resolvers import access_log as accesses
from resolvers.connection import Slice, page
from resolvers.engagement import engagements, event_counts
from resolvers.event import OF_ONE, EventFilter, EventsQuestion, events
from resolvers.journey import BY_TIME, journeys, milestones, recent_completions
from resolvers.reader import Databases, Reader
from resolvers.request import Request
from resolvers.session import BY_START, sessions
from resolvers.user import users_by_key
from tests.household import ASKERS, CHILD, PARENT, SIBLING, STRANGER, move_in, node_ids, tells_of_stranger
from tests.platform import Platform, until

OTHERS = ["no token", "STUDENT", "PARENT", "SERVICE"]
NODE = """
query ($id: ID!) {
  node(id: $id) {
    id
    ... on User { displayName }
    ... on ActivityEvent { data pagePath }
    ... on Session { entryPath }
    ... on Milestone { title pillar milestoneXp: xp }
  }
}
"""
QUESTIONS = {
    "viewer": "{ viewer { user { userId } children { userId displayName journey { totalXp } } } }",
    "user": """
        query ($who: ID!) {
          user(userId: $who) {
            displayName guardians { userId } consents { givenBy { userId } }
            trackingObjected eventCounts { category count } engagement { daily { xp } }
            journey { totalXp milestones { nodes { title } } }
            events { nodes { data } } sessions { nodes { entryPath } }
          }
        }""",
    "users": "{ users(first: 100) { nodes { userId events(first: 3) { nodes { data } } } } }",
    "engagement": "query ($who: ID!) { engagement(userId: $who) { daily { xp } } }",
    "journey": "query ($who: ID!) { journey(userId: $who) { totalXp favoritePillar } }",
    "event counts": "query ($who: ID!) { eventCounts(userId: $who) { category count } }",
    "event counts of all": "{ eventCounts { category count } }",
    "events of all": "{ activityEvents(first: 100) { nodes { data pagePath } } }",
    "User": NODE,
    "ActivityEvent": NODE,
    "Session": NODE,
    "Milestone": NODE,
}


@dataclass
class Town:
    """The household on its platform, the stranger's nodes, and a login that no rule of the database holds."""

    platform: Platform
    nodes: dict[str, str]
    key: UUID
    unwalled: AsyncEngine

    async def ask(self, question: str, asker: str) -> Any:
        """The answer, where it is asked about the stranger."""
        variables = {"id": self.nodes[question]} if question in self.nodes else {"who": STRANGER}
        return await self.platform.ask(QUESTIONS[question], ASKERS[asker], **variables)

    @contextmanager
    def without_the_databases_wall(self) -> Iterator[None]:
        """Everybody's questions go by a login that policies do not hold back."""
        api = self.platform.api
        walled, api.databases = api.databases, dataclasses.replace(api.databases, viewer=self.unwalled)
        try:
            yield
        finally:
            api.databases = walled


@pytest.fixture(scope="module")
async def town(platform: Platform) -> AsyncIterator[Town]:
    await move_in(platform)
    async with platform.superuser.connect() as connection:
        key = await connection.scalar(select(User.subject_key).where(User.user_id == STRANGER))
    assert key
    unwalled = connect(platform.superuser.url.render_as_string(hide_password=False), pool_size=2)
    nodes = await node_ids(platform, STRANGER)

    async def is_noted() -> bool:
        async with platform.superuser.connect() as connection:
            return bool(await connection.scalar(select(AccessLogEntry.at).where(AccessLogEntry.subject_key == key)))

    await until(is_noted)
    yield Town(platform, nodes, key, unwalled)
    await unwalled.dispose()


@contextmanager
def without_the_codes_rule() -> Iterator[None]:
    """Everybody may ask everything, and every row passes, wherever the code asks."""
    rooms = ("resolvers", "schema", "workers", "questlog")
    with pytest.MonkeyPatch.context() as patch:
        places = [
            module
            for name, module in list(sys.modules.items())
            if name.startswith(rooms) and hasattr(module, "visible_to")
        ]
        assert places
        for module in places:
            patch.setattr(module, "visible_to", _every_row)
        patch.setattr(Request, "require", _anybody)
        patch.setattr(Request, "require_token", _anybody)
        yield


def _every_row(*_: object) -> ColumnElement[bool]:
    return true()


def _anybody(*_: object) -> None:
    return


@pytest.mark.parametrize("asker", OTHERS)
async def test_the_database_alone_gives_nothing_away(town: Town, asker: str) -> None:
    with without_the_codes_rule():
        answers = {question: await town.ask(question, asker) for question in QUESTIONS}
    _answered_without_fault(answers)
    assert [question for question, answer in answers.items() if tells_of_stranger(answer)] == []


@pytest.mark.parametrize("asker", OTHERS)
async def test_the_code_alone_gives_nothing_away(town: Town, asker: str) -> None:
    with town.without_the_databases_wall():
        answers = {question: await town.ask(question, asker) for question in QUESTIONS}
    _answered_without_fault(answers)
    assert [question for question, answer in answers.items() if tells_of_stranger(answer)] == []


@pytest.mark.parametrize("asker", OTHERS)
async def test_without_both_everything_comes_out(town: Town, asker: str) -> None:
    with without_the_codes_rule(), town.without_the_databases_wall():
        answers = {question: await town.ask(question, asker) for question in QUESTIONS}
    kept_in = {question for question, answer in answers.items() if not tells_of_stranger(answer)}
    # Without a token, and to a SERVICE, `viewer` looks nobody up.
    assert kept_in == ({"viewer"} if asker in {"no token", "SERVICE"} else set())


def _answered_without_fault(answers: dict[str, Any]) -> None:
    codes = {error["extensions"]["code"] for answer in answers.values() for error in answer.get("errors", [])}
    assert codes <= {"UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND"}


# What is reached only below a user whom the viewer may see is asked here with the stranger's key itself.
Ask = Callable[[Request, UUID], Awaitable[Any]]
BY_KEY: dict[str, Ask] = {
    "engagements": lambda request, key: engagements(request, [key], 30),
    "event counts": lambda request, key: event_counts(request, [key], 30),
    "journeys": lambda request, key: journeys(request, [key], None),
    "recent completions": lambda request, key: recent_completions(request, [key], 5),
    "milestones": lambda request, key: milestones(request, [key], page(BY_TIME, 5, None, None, None)),
    "sessions": lambda request, key: sessions(request, [key], page(BY_START, 5, None, None, None)),
    "events": lambda request, key: events(
        request, [key], EventsQuestion(page(OF_ONE, 5, None, None, None), EventFilter())
    ),
    "users": lambda request, _: users_by_key(request, [(STRANGER,)]),
    "access log": lambda request, key: accesses.access_log(request, [key], page(accesses.BY_TIME, 5, None, None, None)),
}


def found_any(found: Any) -> bool:
    """Whether an answer to a question by key has anything in it."""
    entries = found.values() if isinstance(found, dict) else found
    return any(entry.rows if isinstance(entry, Slice) else entry for entry in entries)


@pytest.mark.parametrize("question", BY_KEY)
async def test_each_wall_stands_before_every_question(town: Town, question: str) -> None:
    for asker in map(ASKERS.get, OTHERS):
        viewer = Viewer(*asker) if asker else ANONYMOUS
        with without_the_codes_rule():
            assert not found_any(await _ask(town, viewer, BY_KEY[question])), viewer
        with town.without_the_databases_wall():
            assert not found_any(await _ask(town, viewer, BY_KEY[question])), viewer
        with without_the_codes_rule(), town.without_the_databases_wall():
            assert found_any(await _ask(town, viewer, BY_KEY[question])), viewer


async def _ask(town: Town, viewer: Viewer, ask: Ask) -> Any:
    api = town.platform.api
    request = Request(
        viewer, api.databases, api.intake, api.rate_limits, api.costs, api._rules, api.standings, api.access_log
    )
    try:
        return await ask(request, town.key)
    finally:
        await request.close()


@pytest.mark.parametrize("asker", OTHERS)
async def test_the_database_alone_keeps_risk_from_all_but_admins(town: Town, asker: str) -> None:
    queries = (
        "query ($who: ID!) { user(userId: $who) { risk { score } engagement { level } } }",
        "{ atRiskStudents(threshold: 0) { nodes { user { userId } risk { score } } } }",
    )
    with without_the_codes_rule():
        for query in queries:
            answer = await town.platform.ask(query, ASKERS[asker], who=STRANGER)
            assert not tells_of_stranger(answer["data"])
            assert "score" not in json.dumps(answer["data"])
            codes = {error["extensions"]["code"] for error in answer["errors"]}
            assert codes <= {"INTERNAL_SERVER_ERROR", "NOT_FOUND"}


@pytest.mark.parametrize("of_children", ["guardians_of", "consents_of"])
async def test_what_hangs_on_a_child_is_kept_by_the_database_though_the_code_names_any(
    town: Town, of_children: str
) -> None:
    query = f"SELECT DISTINCT user_id FROM {of_children}(ARRAY[CAST(:key AS uuid)])"
    for role, who in (("PARENT", PARENT), ("STUDENT", CHILD), ("SERVICE", STRANGER), ("ADMIN", STRANGER)):
        async with town.platform.api.databases.viewer.connect() as connection:
            assert (await connection.execute(text(query), {"key": town.key})).all() == []
            await connection.execute(select(func.app_begin(who, role)))
            assert (await connection.execute(text(query), {"key": town.key})).all() == []
    async with town.platform.api.databases.viewer.connect() as connection:
        await connection.execute(select(func.app_begin(STRANGER, "STUDENT")))
        assert (await connection.execute(text(query), {"key": town.key})).all() == [("gus",)]


# ------------------------------------------------------------------------------------ what the catalogue says


async def catalogue(town: Town, query: str, **values: Any) -> list[Any]:
    async with town.platform.superuser.connect() as connection:
        rows = (await connection.execute(text(query), values)).all()
    return [row[0] if len(row) == 1 else tuple(row) for row in rows]


def login_names(town: Town) -> list[str]:
    return list(town.platform.logins.names().values())


async def test_row_level_security_is_enabled_and_forced_everywhere(town: Town) -> None:
    tables = await catalogue(
        town,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND relname <> 'alembic_version'",
    )
    walled = await catalogue(
        town,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND relrowsecurity AND relforcerowsecurity",
    )
    assert sorted(walled) == sorted(tables)
    assert {"users", "user_activity_events", "page_view_analytics"} < set(tables)
    assert sum(table.startswith("user_activity_events_") for table in tables) > 4
    views = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm', 'f')"
    assert await catalogue(town, views) == []


async def test_partitions_have_no_grants_and_no_policies_of_their_own(town: Town) -> None:
    assert len(await catalogue(town, "SELECT oid FROM pg_class WHERE relispartition AND relkind = 'r'")) > 16
    granted = """
        SELECT relname, grantee FROM pg_class, aclexplode(relacl) WHERE relispartition AND grantee <> relowner
        UNION SELECT relname, grantee FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
        WHERE relispartition"""
    assert await catalogue(town, granted) == []
    policies = "SELECT polname FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid WHERE relispartition"
    assert await catalogue(town, policies) == []
    reached = """
        SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'
        AND has_any_column_privilege(:login, oid, 'SELECT, INSERT, UPDATE')"""
    for name in login_names(town):
        assert await catalogue(town, reached, login=name) == []


async def test_the_logins_own_nothing_and_may_nothing_beside_their_grants(town: Town) -> None:
    names = login_names(town)
    assert len(set(names)) == 4
    plain = """
        SELECT rolname FROM pg_roles WHERE rolname = ANY (:names)
        AND NOT (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)"""
    assert sorted(await catalogue(town, plain, names=names)) == sorted(names)
    member_of = "SELECT roleid FROM pg_auth_members WHERE member::regrole::text = ANY (:names)"
    assert await catalogue(town, member_of, names=names) == []
    owned = "SELECT relname FROM pg_class WHERE relowner::regrole::text = ANY (:names)"
    assert await catalogue(town, owned, names=names) == []
    for name in names:
        may_create = "SELECT has_schema_privilege(:login, 'public', 'CREATE')"
        assert await catalogue(town, may_create, login=name) == [False]


async def test_those_who_read_write_nothing(town: Town) -> None:
    """And the viewer's login reads no more than the tables of people, the admin's those and the platform's figures."""
    privileges = """
        SELECT relname, privilege_type FROM pg_class, aclexplode(relacl)
        WHERE grantee::regrole::text = :login AND relnamespace = 'public'::regnamespace"""
    logins = town.platform.logins.names()
    viewer, admin = [set(await catalogue(town, privileges, login=logins[name])) for name in ("viewer", "admin")]
    assert {privilege for _, privilege in viewer | admin} == {"SELECT"}
    platform = ("page_view_analytics", "quest_analytics", "badge_analytics", "catalogue", "error_groups")
    assert admin - viewer == {(table, "SELECT") for table in (*platform, "risk_assessments", "retention_runs")}
    assert viewer < admin


@pytest.mark.parametrize(
    ("login", "statement"),
    [
        ("intake", "SELECT event_data FROM user_activity_events"),
        ("intake", "SELECT * FROM user_sessions"),
        ("intake", "SELECT * FROM learning_journey_events"),
        ("intake", "SELECT * FROM daily_activity"),
        ("intake", "SELECT app_begin('pat', 'PARENT')"),
        ("viewer", "SELECT * FROM dirty_spans"),
        ("viewer", "SELECT * FROM page_view_analytics"),
        ("viewer", "SELECT * FROM risk_assessments"),
        ("viewer", "SELECT * FROM assessments_due"),
        ("intake", "SELECT * FROM risk_assessments"),
        ("intake", "SELECT * FROM assessments_due"),
        ("admin", "SELECT * FROM assessments_due"),
        ("worker", "DELETE FROM risk_assessments"),
        ("viewer", "SELECT * FROM tombstones"),
        ("viewer", "SELECT * FROM erasures"),
        ("admin", "SELECT * FROM erasures"),
        ("intake", "SELECT user_id FROM erasures"),
        ("intake", "SELECT * FROM data_export_parts"),
        ("intake", "UPDATE erasures SET state = 'DONE'"),
        ("viewer", "SELECT * FROM catalogue"),
        ("viewer", "SELECT * FROM error_groups"),
        ("admin", "SELECT * FROM dirty_days"),
        ("worker", "DELETE FROM catalogue"),
        ("viewer", "SELECT * FROM consents"),
        ("admin", "SELECT * FROM consents"),
        ("worker", "UPDATE consents SET revoked_at = NULL"),
        ("intake", "DELETE FROM consents"),
        ("viewer", "DELETE FROM users"),
        ("viewer", "SET ROLE questlog_admin"),
        ("viewer", "SET SESSION AUTHORIZATION questlog_admin"),
        ("viewer", "DELETE FROM access_log"),
        ("admin", "DELETE FROM access_log"),
        ("intake", "DELETE FROM access_log"),
        ("intake", "UPDATE access_log SET at = now()"),
        ("worker", "UPDATE access_log SET at = now()"),
        ("admin", "UPDATE users SET role = 'ADMIN'"),
        ("worker", "UPDATE error_events SET message = ''"),
        ("worker", "DELETE FROM guardianships"),
        ("worker", "ALTER TABLE users NO FORCE ROW LEVEL SECURITY"),
    ],
)
async def test_a_login_is_refused_what_it_does_not_need(town: Town, login: str, statement: str) -> None:
    engine = connect(getattr(town.platform.logins, login), pool_size=1)
    try:
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                await connection.execute(text(statement))
    finally:
        await engine.dispose()


async def test_nobody_else_may_call_our_functions(town: Town) -> None:
    ours = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert len(await catalogue(town, ours)) >= 3
    assert await catalogue(town, f"{ours} AND has_function_privilege('public', oid, 'EXECUTE')") == []
    unsafe = f"{ours} AND prosecdef AND NOT coalesce(proconfig::text LIKE '%search_path=public, pg_temp%', false)"
    assert await catalogue(town, unsafe) == []


# ------------------------------------------------------------------- one connection, one viewer after another


@asynccontextmanager
async def one_connection(town: Town) -> AsyncIterator[Databases]:
    """The API's databases, the viewers' pool of one connection."""
    engine = connect(town.platform.logins.viewer, pool_size=1, name="one connection")
    try:
        yield dataclasses.replace(town.platform.api.databases, viewer=engine)
    finally:
        await engine.dispose()


async def visible_users(databases: Databases, viewer: Viewer) -> list[str]:
    """Whom the database alone shows to a viewer."""
    reader = Reader(databases, viewer)
    try:
        return [row.user_id for row in await reader.rows(select(User.user_id).order_by(User.user_id))]
    finally:
        await reader.close()


async def nothing_left(databases: Databases) -> None:
    """Whoever gets the connection next, without saying for whom, sees nobody."""
    async with databases.viewer.connect() as connection:
        assert not await connection.scalar(text("SELECT current_setting('questlog.subjects', true)"))
        assert await connection.scalar(select(func.count()).select_from(User)) == 0


async def test_nothing_of_one_viewer_is_left_for_the_next(town: Town) -> None:
    async with one_connection(town) as databases:
        for _ in range(2):
            assert await visible_users(databases, Viewer(Role.PARENT, PARENT)) == [SIBLING, PARENT, CHILD]
            await nothing_left(databases)
            assert await visible_users(databases, Viewer(Role.STUDENT, STRANGER)) == [STRANGER]
            assert await visible_users(databases, ANONYMOUS) == []
            assert await visible_users(databases, Viewer(Role.SERVICE, PARENT)) == []
        async with databases.viewer.begin() as committed:
            await committed.execute(select(func.app_begin(PARENT, Role.PARENT)))
        await nothing_left(databases)


async def test_nothing_is_left_by_a_transaction_that_failed_or_was_broken_off(town: Town) -> None:
    async with one_connection(town) as databases:
        parent = Reader(databases, Viewer(Role.PARENT, PARENT))
        with pytest.raises(DBAPIError):
            await parent.rows(text("SELECT 1 / 0"))
        await parent.close()
        await nothing_left(databases)
        assert await visible_users(databases, Viewer(Role.STUDENT, STRANGER)) == [STRANGER]

        parent = Reader(databases, Viewer(Role.PARENT, PARENT), seconds=1)
        waiting = asyncio.create_task(parent.rows(text("SELECT pg_sleep(60)")))
        await asyncio.sleep(0.3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await parent.close()
        await nothing_left(databases)
        assert await visible_users(databases, Viewer(Role.STUDENT, STRANGER)) == [STRANGER]


async def test_many_at_once_on_one_connection_get_each_their_own(town: Town) -> None:
    api = town.platform.api
    kept = api.databases
    askers = [ASKERS["PARENT"], (Role.STUDENT, STRANGER), ASKERS["STUDENT"], ASKERS["SERVICE"], None] * 8
    query = "{ viewer { user { userId } children { userId } } users { nodes { userId } } }"
    async with one_connection(town) as databases:
        api.databases = databases
        try:
            answers = await asyncio.gather(*(town.platform.ask(query, asker) for asker in askers))
        finally:
            api.databases = kept
    own = {PARENT: [SIBLING, PARENT, CHILD], STRANGER: [STRANGER], CHILD: [CHILD]}
    for asker, answer in zip(askers, answers, strict=True):
        expected = own.get(asker[1]) if asker else None
        users_seen = answer["data"]["users"]
        assert (users_seen and [node["userId"] for node in users_seen["nodes"]]) == expected


async def test_a_pool_that_nobody_introduced_shows_nothing(town: Town) -> None:
    """Every table of people, by the viewers' login, before `app_begin`."""
    tables = await catalogue(
        town,
        "SELECT relname FROM pg_class, aclexplode(relacl) WHERE grantee::regrole::text = :login",
        login=town.platform.logins.names()["viewer"],
    )
    assert len(tables) >= 8
    async with town.platform.api.databases.viewer.connect() as connection:
        for table in tables:
            assert await connection.scalar(select(func.count()).select_from(TableClause(table))) == 0, table
