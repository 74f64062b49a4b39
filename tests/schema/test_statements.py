"""Nested questions cost one statement a level, however many learners are asked about, and none reads all events."""

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from models.partition import KEEP_PARTITIONS
from models.viewer import Role
from tests.platform import Answer, Asker, Platform
from tests.statements import Statement, sent_through

ADMIN: Asker = (Role.ADMIN, "root")
PARENT: Asker = (Role.PARENT, "pat")
CHILDREN = [f"kid-{number:02}" for number in range(50)]
OTHERS = [f"other-{number:02}" for number in range(20)]
NOW = datetime.now(UTC).replace(microsecond=0)

OF_A_LEARNER = """
    userId
    engagement { sessions daily { dates events } }
    journey { totalXp recentCompletions { questId } milestones(first: 3) { nodes { id kind } } }
    events(first: 3) { nodes { id type data sessionId } }
    sessions(first: 3) { nodes { id startedAt } }
    eventCounts { category count }
    guardians { userId }
"""
AT_RISK = f"""
query ($days: Int!, $first: Int) {{
  atRiskStudents(days: $days, threshold: 0, first: $first) {{
    nodes {{ user {{ {OF_A_LEARNER} }} risk {{ score }} }}
  }}
}}
"""
WITH_RISK = """
query ($first: Int) {
  users(first: $first, role: STUDENT) { nodes { userId risk { score } engagement { sessions level } } }
}
"""
# The users themselves, engagement, journey, recentCompletions, milestones, events, sessions, eventCounts, guardians.
LEVELS = 9
USERS = f"query ($first: Int) {{ users(first: $first, role: STUDENT) {{ nodes {{ {OF_A_LEARNER} }} }} }}"
USER = f'{{ user(userId: "kid-07") {{ {OF_A_LEARNER} }} }}'
CHILDREN_OF = f"{{ viewer {{ children {{ {OF_A_LEARNER} }} }} }}"
NODES = f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {{ id ... on User {{ {OF_A_LEARNER} }} }} }}"
OF_THE_PLATFORM = """
query ($most: Int!) {
  pageViews(first: $most) {
    nodes {
      path views uniqueUsers sessions bounceRate medianLoadTimeMs p95LoadTimeMs medianTimeOnPageSeconds
      daily { dates views uniqueUsers }
    }
  }
  popularQuests(limit: $most) { questId completionRate }
  popularBadges(limit: $most) { badgeId claimRate }
  errors(days: 30) {
    totalErrors
    countsByType { count }
    groups(first: $most) { nodes { id culprit firstSeen usersAffected sample { id } } }
    recentErrors(first: $most) { id }
  }
}
"""
# Pages, their users, load times, time on page, days; quests, badges and the rates of each; counts, groups, errors; and
# where what is anonymised ends.
STATEMENTS_OF_THE_PLATFORM = 13
IDS = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"


@pytest.fixture(scope="module", autouse=True)
async def school(platform: Platform) -> None:
    """Parents of one, ten and fifty, and some thousand events of their children and of others."""
    parents = {"pat": 50, "parent of 1": 1, "parent of 10": 10, "parent of 50": 50}
    await platform.upsert(
        *({"userId": parent, "role": "PARENT"} for parent in parents),
        *({"userId": user_id, "role": "STUDENT"} for user_id in [*CHILDREN, *OTHERS]),
    )
    for parent, count in parents.items():
        for child in CHILDREN[:count]:
            await platform.link(parent, child)
    for user_ids, days in ((CHILDREN, 6), (OTHERS, 20)):
        for start in range(0, len(user_ids), 3):
            await platform.track([sent for one in user_ids[start : start + 3] for sent in history(one, days)])
    await platform.settle()
    async with platform.superuser.begin() as connection:
        await connection.execute(text("UPDATE users SET known_since = now() - interval '30 days'"))
        await connection.execute(text("UPDATE assessments_due SET due_at = now()"))
    await platform.settle()
    async with platform.superuser.begin() as connection:
        await connection.execute(text("ANALYZE"))
        assert (await connection.scalar(text("SELECT count(*) FROM user_activity_events")) or 0) > 3000


def history(user_id: str, days: int) -> list[Answer]:
    """Eight events a day, some of which name other people."""
    device = str(uuid4())
    return [
        {
            "eventId": str(uuid4()),
            "occurredAt": (NOW - timedelta(days=ago, hours=1) + timedelta(minutes=minute)).isoformat(),
            "event": payload,
            "userId": user_id,
            "deviceId": device,
            "page": {"path": f"/{ago}"},
        }
        for ago in range(days)
        for minute, payload in enumerate(
            (
                {"pageView": {"loadTimeMs": 500}},
                {"badgeViewed": {"badgeId": f"b{ago}"}},
                {"networkError": {"message": "away", "fingerprint": f"e{ago}"}},
                {"questStarted": {"questId": f"q{ago}"}},
                {"questCompleted": {"questId": f"q{ago}", "xp": 5, "pillar": "p"}},
                {"profileViewed": {"profileId": "kid-00"}},
                {"connectionRequestSent": {"recipientId": "other-00"}},
                {"logout": {}},
            )
        )
    ]


# The first is sent behind the requests, twice a second; the second reads nothing.
BESIDES = ("INSERT INTO access_log", KEEP_PARTITIONS)


def sent_by(platform: Platform) -> AbstractContextManager[list[Statement]]:
    """The statements by which requests read, with their parameters."""
    databases = platform.api.databases
    return sent_through(databases.viewer, databases.admin, databases.intake, but=BESIDES)


async def known(platform: Platform, asker: Asker) -> None:
    """Let the asker have asked before: the first time they are made known, which costs a statement."""
    await platform.data("{ viewer { user { userId } } }", asker)


@pytest.mark.parametrize("first", [1, 10, 50])
async def test_a_page_of_users_costs_one_statement_a_level(platform: Platform, first: int) -> None:
    await known(platform, ADMIN)
    with sent_by(platform) as sent:
        users = (await platform.data(USERS, ADMIN, first=first))["users"]["nodes"]
    assert [user["userId"] for user in users] == CHILDREN[:first]
    assert len(sent) == LEVELS


@pytest.mark.parametrize("first", [1, 10, 50])
@pytest.mark.parametrize("days", [7, 30])
async def test_a_page_of_students_at_risk_costs_one_statement_a_level(
    platform: Platform, days: int, first: int
) -> None:
    await known(platform, ADMIN)
    with sent_by(platform) as sent:
        students = (await platform.data(AT_RISK, ADMIN, days=days, first=first))["atRiskStudents"]["nodes"]
    assert len(students) == first
    assert len(sent) == LEVELS


async def test_the_page_of_students_at_risk_is_found_by_its_index(platform: Platform) -> None:
    await known(platform, ADMIN)
    with sent_by(platform) as sent:
        await platform.data("{ atRiskStudents(first: 5) { nodes { risk { score } } } }", ADMIN)
    ((statement, parameters),) = sent
    async with platform.api.databases.admin.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars())
    assert "risk_assessments_days_rank_user_id_idx" in plan
    assert "Sort" not in plan


@pytest.mark.parametrize("first", [1, 50])
async def test_risk_and_level_of_many_are_one_statement(platform: Platform, first: int) -> None:
    await known(platform, ADMIN)
    with sent_by(platform) as sent:
        users = (await platform.data(WITH_RISK, ADMIN, first=first))["users"]["nodes"]
    assert all(user["risk"] for user in users)
    assert len(sent) == 3


@pytest.mark.parametrize("count", [1, 10, 50])
async def test_a_parents_children_cost_one_statement_a_level(platform: Platform, count: int) -> None:
    asker: Asker = (Role.PARENT, f"parent of {count}")
    await known(platform, asker)
    with sent_by(platform) as sent:
        children = (await platform.data(CHILDREN_OF, asker))["viewer"]["children"]
    assert [child["userId"] for child in children] == CHILDREN[:count]
    # And one that says who asks, and one that looks whom of those named in events they may see.
    assert ["app_begin" in statement for statement, _ in sent] == [True] + [False] * (LEVELS + 1)


async def test_one_user_costs_as_much_as_many(platform: Platform) -> None:
    await known(platform, ADMIN)
    with sent_by(platform) as sent:
        await platform.data(USER, ADMIN)
    assert len(sent) == LEVELS


@pytest.mark.parametrize("count", [1, 10, 50])
async def test_nodes_cost_one_statement_a_level(platform: Platform, count: int) -> None:
    found = await platform.data("{ users(first: 100, role: STUDENT) { nodes { id } } }", ADMIN)
    ids = [node["id"] for node in found["users"]["nodes"]][:count]
    with sent_by(platform) as sent:
        nodes = (await platform.data(NODES, ADMIN, ids=ids))["nodes"]
    assert [node["id"] for node in nodes] == ids
    assert len(sent) == LEVELS


@pytest.mark.parametrize("count", [1, 20])
async def test_nodes_of_several_kinds_cost_one_statement_a_kind(platform: Platform, count: int) -> None:
    users = (await platform.data(USERS, ADMIN, first=count))["users"]["nodes"]
    ids = [
        below["nodes"][0]["id"]
        for user in users
        for below in (user["events"], user["sessions"], user["journey"]["milestones"])
    ]
    with sent_by(platform) as sent:
        nodes = (await platform.data(IDS, ADMIN, ids=ids))["nodes"]
    assert [node["id"] for node in nodes] == ids
    assert len(sent) == 3


async def test_the_same_question_under_two_names_costs_what_it_costs_once(platform: Platform) -> None:
    await known(platform, ADMIN)
    twice = "{ users(first: 9, role: STUDENT) { nodes { a: engagement { sessions } b: engagement { logins } } } }"
    with sent_by(platform) as sent:
        await platform.data(twice, ADMIN)
    assert len(sent) == 2


def reads(plan: Answer) -> Iterator[tuple[str, str]]:
    """Each table that a plan reads, and how."""
    if "Relation Name" in plan:
        yield plan["Relation Name"], plan["Node Type"]
    for below in plan.get("Plans", []):
        yield from reads(below)


@pytest.mark.parametrize(("query", "asker"), [(USERS, ADMIN), (USER, ADMIN), (CHILDREN_OF, PARENT)])
async def test_no_nested_question_reads_the_events_from_end_to_end(
    platform: Platform, query: str, asker: Asker
) -> None:
    await known(platform, asker)
    with sent_by(platform) as sent:
        await platform.data(query, asker)
    found = {how for table, how in await read_by(platform, sent, asker) if table.startswith("user_activity_events")}
    assert found
    assert found <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}


@pytest.mark.parametrize("asked", ['first: 20, after: "{cursor}"', 'last: 20, before: "{cursor}"', 'to: "{time}"'])
async def test_everybodys_events_are_found_by_the_index_of_minutes(platform: Platform, asked: str) -> None:
    query = "{ activityEvents(first: 50) { nodes { occurredAt } pageInfo { endCursor } } }"
    page = (await platform.data(query, ADMIN))["activityEvents"]
    asked = asked.format(cursor=page["pageInfo"]["endCursor"], time=page["nodes"][-1]["occurredAt"])
    with sent_by(platform) as sent:
        await platform.data(f"{{ activityEvents({asked}) {{ nodes {{ id }} }} }}", ADMIN)
    ((statement, parameters),) = sent
    async with platform.api.databases.admin.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        await connection.exec_driver_sql("SET LOCAL enable_sort = off")
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars())
    assert re.search(r"Index Scan.* using user_activity_events_\d+_date_bin_idx", plan)
    assert "Index Cond: (date_bin(" in plan
    # Sorted is each minute, and not everything.
    assert plan.count("Sort  (") == plan.count("Incremental Sort  (") > 0


@pytest.mark.parametrize("most", [1, 10, 100])
async def test_figures_of_the_platform_cost_as_many_statements_however_much_is_shown(
    platform: Platform, most: int
) -> None:
    await known(platform, ADMIN)
    with sent_by(platform) as sent:
        found = await platform.data(OF_THE_PLATFORM, ADMIN, most=most)
    assert {len(rows) for rows in (found["pageViews"]["nodes"], found["popularQuests"], found["popularBadges"])} == {
        min(most, 20)
    }
    assert len(found["errors"]["groups"]["nodes"]) == min(most, 20)
    assert len(sent) == STATEMENTS_OF_THE_PLATFORM


async def test_figures_of_the_platform_read_no_events(platform: Platform) -> None:
    with sent_by(platform) as sent:
        await platform.data(OF_THE_PLATFORM, ADMIN, most=10)
    tables = {table.partition("_20")[0] for table, _ in await read_by(platform, sent, ADMIN)}
    assert tables == {
        "page_view_analytics",
        "quest_analytics",
        "badge_analytics",
        "catalogue",
        "daily_contributions",
        "error_events",
        "error_groups",
    }


@pytest.mark.parametrize("count", [1, 20])
async def test_nodes_of_errors_cost_one_statement_a_kind(platform: Platform, count: int) -> None:
    errors = (await platform.data(OF_THE_PLATFORM, ADMIN, most=count))["errors"]
    ids = [node["id"] for node in (*errors["groups"]["nodes"], *errors["recentErrors"])]
    with sent_by(platform) as sent:
        nodes = (await platform.data(IDS, ADMIN, ids=ids))["nodes"]
    assert [node["id"] for node in nodes] == ids
    assert len(sent) == 2


async def read_by(platform: Platform, sent: list[Statement], asker: Asker) -> set[tuple[str, str]]:
    """The tables that these statements read, and how."""
    databases = platform.api.databases
    found: set[tuple[str, str]] = set()
    async with (databases.admin if asker == ADMIN else databases.viewer).connect() as connection:
        for statement, parameters in sent:
            if "app_begin" in statement:
                await connection.exec_driver_sql(statement, parameters)
                continue
            explained = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = explained.scalar_one()
            [root] = json.loads(plan) if isinstance(plan, str) else plan
            found |= set(reads(root["Plan"]))
    return found


COLUMNS_READ = {
    "events { nodes { id } }": set(),
    "events { nodes { data } }": {"event_data"},
    "events { nodes { ...told } }": {"event_data", "page_path"},
    "events { edges { node { sessionId } } }": {"session_id", "ended_at", "device_id"},
    "events { nodes { deviceId } }": {"device_id"},
    "events { pageInfo { hasNextPage } }": set(),
    "sessions { nodes { startedAt } }": {"session_id", "ended_at"},
    "sessions { nodes { browser os entryPath } }": {"session_id", "ended_at", "browser", "os", "entry_path"},
    "journey { milestones { nodes { id } } }": set(),
    "journey { milestones { nodes { title xp } } }": {"title", "xp"},
    "journey { recentCompletions { questTitle } }": {"title"},
    "journey { rhythm }": {"active"},
    "journey { totalXp }": {"xp", "quest_id", "badge_id"},
    "journey { favoritePillar }": {"xp", "pillar"},
    "journey { timeOnPlatformHours }": {"session_lengths"},
    "engagement { days }": set(),
    "engagement { longestStreak }": {"active"},
    "engagement { daily { dates xp } }": {"xp", "quest_id", "badge_id"},
    "engagement { daily { events } }": {"session_lengths", "active"},
    # Asked twice it is one statement, which reads what both need.
    "a: events { nodes { data } } b: events { nodes { pagePath } }": {"event_data", "page_path"},
}
WATCHED = set.union(*COLUMNS_READ.values())


@pytest.mark.parametrize("asked", COLUMNS_READ)
async def test_what_is_not_asked_for_is_not_read(platform: Platform, asked: str) -> None:
    await known(platform, ADMIN)
    told = "fragment told on ActivityEvent { data ...again } fragment again on ActivityEvent { pagePath }"
    query = f'{{ user(userId: "kid-07") {{ {asked} }} }}' + (told if "...told" in asked else "")
    with sent_by(platform) as sent:
        await platform.data(query, ADMIN)
    read = {
        column
        for statement, _ in sent[1:]
        for column in WATCHED
        if re.search(rf"\w+\.{column}\b", statement.replace(f"theirs.{column}", ""))
    }
    assert read == COLUMNS_READ[asked]
    levels = 2 if "journey { milestones" in asked or "recentCompletions" in asked else 1
    assert len(sent) == 1 + levels


async def test_a_fragment_spread_many_times_over_is_read_once(platform: Platform) -> None:
    fragments = " ".join(f"fragment f{n} on ActivityEvent {{ ...f{n + 1} ...f{n + 1} }}" for n in range(60))
    query = f'{{ user(userId: "kid-07") {{ events {{ nodes {{ ...f0 }} }} }} }} {fragments}'
    found = await platform.data(f"{query} fragment f60 on ActivityEvent {{ type }}", ADMIN)
    assert {node["type"] for node in found["user"]["events"]["nodes"]} > {"logout"}
