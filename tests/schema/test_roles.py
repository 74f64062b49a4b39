"""Who gets what: every field of every type and every mutation, for every role, about everybody there is."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
from graphql import (
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
)
from sqlalchemy import text

from models.retention import Policy
from models.viewer import Role
from schema.node import global_id
from schema.root import schema
from tests.household import (
    ADMIN,
    ASKERS,
    CHILD,
    NOBODY,
    PARENT,
    SERVICE_USER,
    SIBLING,
    STRANGER,
    STRANGERS_GUARDIAN,
    cursors,
    device_of,
    move_in,
    node_ids,
    tells_of_stranger,
)
from tests.platform import CONSENT, LINK, REVOKE, SERVICE, SET_TRACKING, TRACK, UPSERT, Answer, Asker, Platform, until
from tests.statements import sent_through
from workers.retention import retain

GRAPH: GraphQLSchema = schema._schema
OWN = {"no token": SERVICE_USER, "STUDENT": CHILD, "PARENT": PARENT, "ADMIN": ADMIN, "SERVICE": SERVICE_USER}
"""Of whom each asks as of themself."""

WHOSE = ("own", "child's", "stranger's", "nobody's")
CASES = [(asker, whose) for asker in ASKERS for whose in WHOSE]

# What comes of it: V a value, E an empty list, 0 null without an error, - a list in which they are not, . not reached.
# Null with an error: U UNAUTHENTICATED, F FORBIDDEN, N NOT_FOUND.
# A user error: i INVALID, f FORBIDDEN, n NOT_FOUND or UNKNOWN_USER, a ALREADY_DONE.
CODES = {"UNAUTHENTICATED": "U", "FORBIDDEN": "F", "NOT_FOUND": "N"}
USER_ERRORS = {"INVALID": "i", "FORBIDDEN": "f", "NOT_FOUND": "n", "UNKNOWN_USER": "n", "ALREADY_DONE": "a"}

# Each column has four letters: own data, a child's (to a STUDENT: a sibling's), a stranger's, nobody's.
# fmt: off
ROOTS = {
    #                        no token STUDENT PARENT ADMIN SERVICE
    "Query.user":           "UUUU     VNNN    VVNN   VVVN  NNNN",
    "Query.engagement":     "UUUU     VNNN    VVNN   VVVN  FFFF",
    "Query.journey":        "UUUU     VNNN    VVNN   VVVN  FFFF",
    "Query.eventCounts":    "UUUU     VNNN    VVNN   VVVN  FFFF",
    "Query.node":           "0000     V000    VV00   VVV0  0000",
    "Query.nodes":          "0000     V000    VV00   VVV0  0000",
    "Query.users":          "UUUU     V---    VV--   VVV-  FFFF",
    "Query.activityEvents": "UUUU     FFFF    FFFF   VVV-  FFFF",
    "Query.pageViews":      "UUUU     FFFF    FFFF   VVV-  FFFF",
    "Query.popularQuests":  "UUUU     FFFF    FFFF   VVV-  FFFF",
    "Query.popularBadges":  "UUUU     FFFF    FFFF   VVV-  FFFF",
    "Query.errors":         "UUUU     FFFF    FFFF   VVV-  FFFF",
    "Query.viewer":         "----     V---    VV--   V---  ----",
    "Query.intake":         "UUUU     FFFF    FFFF   VVVV  VVVV",
    "Query.retentionStatus": "UUUU    FFFF    FFFF   VVVV  FFFF",
    "Query.atRiskStudents": "UUUU     FFFF    FFFF   -VV-  FFFF",
}
VISIBLE =                   "....     V...    VV..   VVV.  ...."
DEVICE =                    "....     V...    V0..   VVV.  ...."
RISK =                      "....     F...    FF..   VVV.  ...."
TOLD =                      "....     ....    ....   VVV.  ...."
GUARDIANS =                 "....     V...    EV..   EVV.  ...."
A_GUARDIAN =                "....     V...    .V..   .VV.  ...."

MUTATIONS = {
    #                           no token STUDENT PARENT ADMIN SERVICE
    "Mutation.trackEvent":     "ffff     ffff    ffff   ffff  VVVn",
    "Mutation.trackEvents":    "ffff     ffff    ffff   ffff  VVVn",
    "Mutation.upsertUsers":    "UUUU     FFFF    FFFF   VVVV  VVVV",
    "Mutation.linkGuardian":   "UUUU     FFFF    FFFF   iVVn  VVVn",
    "Mutation.unlinkGuardian": "UUUU     FFFF    FFFF   aVVn  VVVn",
    "Mutation.recordConsent":  "UUUU     FFFF    nnnn   iVVn  VVVn",
    "Mutation.revokeConsent":  "UUUU     FFFF    nnnn   aVVn  VVVn",
    "Mutation.setTracking":    "UUUU     Vnnn    Vnnn   Vffn  FFFF",
}
# What takes its time: tests/schema/test_tasks.py. Of a query the columns say by whom it was asked for.
TASKS = {
    #                           no token STUDENT PARENT ADMIN SERVICE
    "Mutation.exportUserData": "UUUU     Vnnn    VVnn   VVVn  FFFF",
    "Mutation.eraseUser":      "UUUU     Vnnn    VVnn   VVVn  VVVn",
    "Query.dataExport":        "UUUU     VNNN    VNNN   VNNN  FFFF",
    "Query.erasure":           "UUUU     VNNN    VNNN   VVVN  VNNN",
}
# fmt: on

# The fields of what hangs on a user, by who gets them.
BELOW_USER = {
    "User": {
        VISIBLE: "id userId role displayName timeZone firstSeenAt lastSeenAt engagement journey events sessions "
        "eventCounts trackingObjected accessLog",
        GUARDIANS: "guardians consents",
        RISK: "risk",
    },
    "Person": {VISIBLE: "userId role displayName"},
    "Consent": {A_GUARDIAN: "basis method givenBy givenAt noticeVersion revokedAt"},
    "Access": {VISIBLE: "id viewer viewerRole fields at"},
    "AccessConnection": {VISIBLE: "edges nodes pageInfo"},
    "AccessEdge": {VISIBLE: "node cursor"},
    "Engagement": {
        VISIBLE: "days activeDays visitDays sessions medianSessionMinutes timeOnPlatformHours logins questsViewed "
        "questsStarted questsCompleted questsAbandoned tasksCompleted badgesEarned completionRate currentStreak "
        "longestStreak lastActiveOn daily",
        RISK: "level",
    },
    "RiskAssessment": {TOLD: "score engagementLevel factors assessedAt model"},
    "RiskFactor": {TOLD: "name weight value evidence"},
    "DailyActivity": {VISIBLE: "dates events activeMinutes questsCompleted xp"},
    "LearningJourney": {
        VISIBLE: "firstQuestDate totalQuestsStarted totalQuestsCompleted currentStreak badgesEarned "
        "timeOnPlatformHours favoritePillar xpByPillar totalXp rhythm recentCompletions milestones"
    },
    "PillarXp": {VISIBLE: "pillar xp"},
    "QuestCompletion": {VISIBLE: "questId questTitle completedAt xp pillar"},
    "Milestone": {VISIBLE: "id kind occurredAt questId badgeId title xp pillar"},
    "CategoryCount": {VISIBLE: "category count"},
    "ActivityEvent": {
        VISIBLE: "id eventId type category occurredAt receivedAt sessionId pagePath data",
        DEVICE: "deviceId",
    },
    "Session": {
        VISIBLE: "id startedAt endedAt isOpen durationMinutes pageViews events isBounce entryPath exitPath "
        "deviceType browser os",
    },
    "MilestoneConnection": {VISIBLE: "edges nodes pageInfo"},
    "MilestoneEdge": {VISIBLE: "node cursor"},
    "ActivityEventConnection": {VISIBLE: "edges nodes pageInfo"},
    "ActivityEventEdge": {VISIBLE: "node cursor"},
    "SessionConnection": {VISIBLE: "edges nodes pageInfo"},
    "SessionEdge": {VISIBLE: "node cursor"},
    "PageInfo": {VISIBLE: "hasNextPage hasPreviousPage startCursor endCursor"},
}
# The fields of what is asked without saying of whom: one letter each for no token, STUDENT, PARENT, ADMIN, SERVICE.
BESIDE_USER = {
    "Viewer": {"VVVVV": "role", "0VVV0": "user", "EEVEE": "children", "EVVVE": "visibleTo"},
    "Watcher": {".VVV.": "role sees", ".V00.": "person", ".000.": "until"},
    "UserConnection": {".VVV.": "edges nodes pageInfo"},
    "UserEdge": {".VVV.": "node cursor"},
    "AtRiskStudentConnection": {"...V.": "edges nodes pageInfo"},
    "AtRiskStudentEdge": {"...V.": "node cursor"},
    "AtRiskStudent": {"...V.": "user risk"},
    "PageViewConnection": {"...V.": "edges nodes pageInfo"},
    "PageViewEdge": {"...V.": "node cursor"},
    "PageView": {
        "...V.": "path views uniqueUsers sessions bounceRate medianLoadTimeMs p95LoadTimeMs medianTimeOnPageSeconds "
        "daily"
    },
    "PageViewDays": {"...V.": "dates views uniqueUsers"},
    "QuestPopularity": {"...V.": "questId questTitle views starts completions completionRate popularity"},
    "BadgePopularity": {"...V.": "badgeId badgeName views claims earned claimRate"},
    "ErrorSummary": {"...V.": "totalErrors countsByType groups recentErrors"},
    "ErrorTypeCount": {"...V.": "errorType count"},
    "ErrorGroupConnection": {"...V.": "edges nodes pageInfo"},
    "ErrorGroupEdge": {"...V.": "node cursor"},
    "ErrorGroup": {"...V.": "id errorType message culprit count usersAffected firstSeen lastSeen sample"},
    "ErrorEvent": {
        "...V.": "id errorType message stack component pagePath endpoint statusCode release occurredAt",
    },
    "IntakeStatus": {
        "...VV": "accepted stored duplicate withdrawn waiting setAside workers",
        "...00": "oldestWaitingSeconds lastError",
    },
    "RetentionStatus": {
        "...V.": "anonymizeAfterDays deleteAfterDays oldestIdentifiable oldestKept lastRun",
    },
    "RetentionRun": {"...V.": "startedAt finishedAt anonymized deleted"},
}
# The same of what takes its time, of what one has asked for oneself.
OF_TASKS = {
    "ExportUserDataPayload": {".VVV.": "export userErrors"},
    "DataExport": {".VVV.": "id state requestedAt expiresAt downloadUrl"},
    "EraseUserPayload": {".VVVV": "erasure userErrors"},
    "Erasure": {".VVVV": "id state requestedAt finishedAt receipt"},
}
# The fields of what is answered to what is sent, where all of it is taken and none of it is.
PAYLOADS = {
    "TrackEventsPayload": {"VVVVV": "accepted rejected receivedAt userErrors"},
    "TrackEventError": {"VVVVV": "index eventId field code message"},
    "UpsertUsersPayload": {"...VV": "users userErrors"},
    "GuardianshipPayload": {"...VV": "guardian child userErrors"},
    "ConsentPayload": {"..0VV": "person", "..VVV": "userErrors"},
    "SetTrackingPayload": {".00V.": "person", ".VVV.": "userErrors"},
    "UserError": {".VVVV": "field code message"},
}


def test_every_field_and_every_mutation_has_its_row() -> None:
    told = {
        f"{kind}.{field}"
        for table in (BELOW_USER, BESIDE_USER, PAYLOADS, OF_TASKS)
        for kind, rows in table.items()
        for fields in rows.values()
        for field in fields.split()
    }
    there = {
        f"{kind.name}.{field}"
        for kind in GRAPH.type_map.values()
        if isinstance(kind, GraphQLObjectType) and not kind.name.startswith("__")
        for field in kind.fields
    }
    assert there == told | ROOTS.keys() | MUTATIONS.keys() | TASKS.keys()


def everything_of(kind: GraphQLNamedType) -> str:
    """A selection of all there is below a type; the answer's keys tell of which type and field they are."""
    if isinstance(kind, GraphQLInterfaceType):
        parts = (f"... on {each.name} {everything_of(each)}" for each in GRAPH.get_possible_types(kind))
        return f"{{ {' '.join(parts)} }}"
    if not isinstance(kind, GraphQLObjectType):
        return ""
    return f"{{ {' '.join(f'{kind.name}__{name}: {name} {below(kind, name)}' for name in kind.fields)} }}"


def below(kind: GraphQLObjectType, field: str) -> str:
    return everything_of(get_named_type(kind.fields[field].type))


def values_in(answer: Any) -> Iterator[tuple[str, Any]]:
    """All values of an answer to `everything_of`, each with its type and field."""
    if isinstance(answer, list):
        for each in answer:
            yield from values_in(each)
    elif isinstance(answer, dict):
        for key, value in answer.items():
            if "__" in key:
                yield key.replace("__", "."), value
                yield from values_in(value)


def outcome(values: list[Any]) -> str:
    """What a field's values come to: the best of them counts."""
    if not values:
        return "."
    if all(value in CODES.values() for value in values):
        return str(values[0])
    if any(value not in (None, []) for value in values):
        return "V"
    return "E" if [] in values else "0"


def refused(answer: Answer) -> dict[str, str]:
    """What each field below the root came to that not everybody may ask who sees the rest."""
    errors = [error for error in answer.get("errors", []) if len(error["path"]) > 1]
    return {error["path"][-1].replace("__", "."): CODES[error["extensions"]["code"]] for error in errors}


def root_outcome(answer: Answer) -> str:
    """What a request with one root comes to."""
    (root,) = answer["data"]
    assert refused(answer).items() <= {"User.risk": "F", "Engagement.level": "F"}.items()
    errors = [error for error in answer.get("errors", []) if error["path"] == [root]]
    if errors:
        (error,) = errors
        assert answer["data"][root] is None
        return CODES[error["extensions"]["code"]]
    return outcome([answer["data"][root]])


def cells(row: str) -> dict[tuple[str, str], str]:
    return dict(zip(CASES, row.replace(" ", ""), strict=True))


QUERY = GRAPH.type_map["Query"]
assert isinstance(QUERY, GraphQLObjectType)
USER = f"query ($who: ID!) {{ user(userId: $who) {below(QUERY, 'user')} }}"
NODE = f"query ($id: ID!) {{ node(id: $id) {below(QUERY, 'node')} }}"
NODES = f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {below(QUERY, 'node')} }}"
VIEWER = f"{{ viewer {below(QUERY, 'viewer')} }}"
USERS = f"{{ users(first: 100) {below(QUERY, 'users')} }}"
INTAKE = f"{{ intake {below(QUERY, 'intake')} }}"
RETENTION = f"{{ retentionStatus {below(QUERY, 'retentionStatus')} }}"
AT_RISK = f"{{ atRiskStudents(threshold: 0) {below(QUERY, 'atRiskStudents')} }}"
OF_ONE = {
    "Query.user": USER,
    "Query.engagement": f"query ($who: ID!) {{ engagement(userId: $who) {below(QUERY, 'engagement')} }}",
    "Query.journey": f"query ($who: ID!) {{ journey(userId: $who) {below(QUERY, 'journey')} }}",
    "Query.eventCounts": f"query ($who: ID!) {{ eventCounts(userId: $who) {below(QUERY, 'eventCounts')} }}",
}
OF_THE_PLATFORM = {
    "Query.pageViews": (f"{{ pageViews(first: 100) {below(QUERY, 'pageViews')} }}", "/of/{}"),
    "Query.popularQuests": (f"{{ popularQuests(limit: 100) {below(QUERY, 'popularQuests')} }}", "{}-0"),
    "Query.popularBadges": (f"{{ popularBadges(limit: 100) {below(QUERY, 'popularBadges')} }}", "{}-badge"),
    "Query.errors": (f"{{ errors {below(QUERY, 'errors')} }}", "{}'s error"),
}
"""What is asked of the whole platform, and what of somebody stands in the answer."""
ERROR_IDS = "{ errors { groups { nodes { id } } recentErrors { id } } }"
EVENTS_OF_ALL = "query ($path: JSON) { activityEvents(containing: $path) { nodes { type data } } }"


@dataclass
class Town:
    """The household on its platform, with an id of each kind of node of everybody, and of nobody."""

    platform: Platform
    nodes: dict[str, dict[str, str]]

    async def ask(self, query: str, asker: str, **variables: Any) -> Answer:
        return await self.platform.ask(query, ASKERS[asker], **variables)


async def let_them_be_known_for_long(platform: Platform) -> None:
    """For long enough to have a score."""
    async with platform.superuser.begin() as connection:
        await connection.execute(text("UPDATE users SET known_since = now() - interval '20 days'"))
        await connection.execute(text("UPDATE assessments_due SET due_at = now()"))
    await platform.settle()


async def access_of(platform: Platform, who: str) -> dict[str, str]:
    """An entry that says that another admin looked at them."""
    other = (Role.ADMIN, "another admin")
    await platform.upsert({"userId": other[1], "role": "ADMIN", "displayName": "Another"})
    log = "query ($who: ID!) { user(userId: $who) { accessLog { nodes { Access: id } } } }"
    found: list[dict[str, str]] = []

    async def kept() -> bool:
        found[:] = (await platform.data(log, other, who=who))["user"]["accessLog"]["nodes"]
        return bool(found)

    await until(kept)
    return found[-1]


@pytest.fixture(scope="module")
async def town(platform: Platform) -> Town:
    await move_in(platform)
    await let_them_be_known_for_long(platform)
    policy = Policy(platform.settings.anonymize_after_days, platform.settings.delete_after_days)
    async for _ in retain(platform.worker_engine, platform.api.intake.queue, datetime.now(UTC), policy, wait=True):
        pass
    everybody = (*OWN.values(), SIBLING, STRANGER)
    nodes = {who: await node_ids(platform, who) | await access_of(platform, who) for who in everybody}
    then = datetime.now(UTC) - timedelta(days=2)
    nodes[NOBODY] = {
        "User": global_id("User", NOBODY),
        "ActivityEvent": global_id("ActivityEvent", uuid4(), uuid4(), then),
        "Session": global_id("Session", uuid4(), then, uuid4()),
        "Milestone": global_id("Milestone", uuid4(), uuid4(), then),
        "Access": global_id("Access", uuid4(), uuid4()),
    }
    return Town(platform, nodes)


def about(asker: str, whose: str) -> str:
    """Of whom a case asks."""
    return {"own": OWN[asker], "child's": SIBLING, "stranger's": STRANGER, "nobody's": NOBODY}[whose]


@pytest.mark.parametrize("root", OF_ONE)
async def test_a_question_about_one_user(town: Town, root: str) -> None:
    found = {
        (asker, whose): root_outcome(await town.ask(OF_ONE[root], asker, who=about(asker, whose)))
        for asker, whose in CASES
    }
    assert found == cells(ROOTS[root])


async def test_node_and_nodes(town: Town) -> None:
    kinds = {kind.name for kind in GRAPH.get_possible_types(cast(GraphQLInterfaceType, GRAPH.type_map["Node"]))}
    # Those of errors are nobody's, and asked for below; tests/schema/test_tasks.py asks for those of tasks.
    asked_elsewhere = {"ErrorGroup", "ErrorEvent", "DataExport", "Erasure"}
    assert all(ids.keys() == kinds - asked_elsewhere for ids in town.nodes.values())
    for (asker, whose), expected in cells(ROOTS["Query.node"]).items():
        ids = town.nodes[about(asker, whose)]
        for kind, node_id in ids.items():
            answer = await town.ask(NODE, asker, id=node_id)
            assert root_outcome(answer) == expected, (asker, whose, kind)
            told = [field for field, _ in values_in([answer["data"]["node"]])]
            assert all(field.startswith((kind, "Person")) for field in told) or kind == "User"
    for (asker, whose), expected in cells(ROOTS["Query.nodes"]).items():
        answer = await town.ask(NODES, asker, ids=[*town.nodes[about(asker, whose)].values(), "of nothing"])
        *found, nothing = answer["data"]["nodes"]
        assert refused(answer).items() <= {"User.risk": "F", "Engagement.level": "F"}.items()
        assert nothing is None
        assert {outcome([each]) for each in found} == {expected}, (asker, whose)


async def test_lists_of_everybody(town: Town) -> None:
    for (asker, whose), expected in cells(ROOTS["Query.users"]).items():
        answer = await town.ask("{ users(first: 100) { nodes { userId } } }", asker)
        assert _contained(answer, about(asker, whose)) == expected, (asker, whose)
    for (asker, whose), expected in cells(ROOTS["Query.activityEvents"]).items():
        who = about(asker, whose)
        answer = await town.ask(EVENTS_OF_ALL, asker, path={"profileId": who})
        assert _contained(answer, who) == expected, (asker, whose)
    for (asker, whose), expected in cells(ROOTS["Query.atRiskStudents"]).items():
        answer = await town.ask("{ atRiskStudents(threshold: 0) { nodes { user { userId } } } }", asker)
        assert _contained(answer, about(asker, whose)) == expected, (asker, whose)
    for (asker, whose), expected in cells(ROOTS["Query.intake"]).items():
        assert root_outcome(await town.ask(INTAKE, asker)) == expected, (asker, whose)
    for (asker, whose), expected in cells(ROOTS["Query.retentionStatus"]).items():
        assert root_outcome(await town.ask(RETENTION, asker)) == expected, (asker, whose)
    for (asker, whose), expected in cells(ROOTS["Query.viewer"]).items():
        answer = await town.ask("{ viewer { user { userId } children { userId } } }", asker)
        assert _contained(answer, about(asker, whose)) == expected, (asker, whose)


def _contained(answer: Answer, who: str) -> str:
    if "errors" in answer:
        return root_outcome(answer)
    return "V" if f'"{who}"' in json.dumps(answer) else "-"


@pytest.mark.parametrize("root", OF_THE_PLATFORM)
async def test_figures_of_the_platform_are_for_an_admin(town: Town, root: str) -> None:
    query, trace = OF_THE_PLATFORM[root]
    for (asker, whose), expected in cells(ROOTS[root]).items():
        answer = await town.ask(query, asker)
        assert _contained(answer, trace.format(about(asker, whose))) == expected, (asker, whose)


async def test_nodes_of_errors_are_for_an_admin(town: Town) -> None:
    errors = (await town.platform.data(ERROR_IDS, ASKERS["ADMIN"]))["errors"]
    for node in (*errors["groups"]["nodes"], *errors["recentErrors"]):
        found = [root_outcome(await town.ask(NODE, asker, id=node["id"])) for asker in ASKERS]
        assert found == [*"000V0"]


async def test_counts_of_everybody_are_for_an_admin(town: Town) -> None:
    query = "{ eventCounts { category count } }"
    found = [root_outcome(await town.ask(query, asker)) for asker in ASKERS]
    assert found == [*"UFFVF"]


Found = dict[tuple[str, str], dict[str, list[Any]]]


@pytest.fixture(scope="module")
async def of_users(town: Town) -> Found:
    """All values that each asker gets of each user, by type and field."""
    found: Found = {}
    for asker, whose in CASES:
        answer = await town.ask(USER, asker, who=about(asker, whose))
        values = found[asker, whose] = defaultdict(list)
        for field, value in values_in(answer["data"]["user"]):
            values[field].append(refused(answer).get(field, value))
    return found


@pytest.mark.parametrize("kind", BELOW_USER)
def test_a_field_below_a_user(of_users: Found, kind: str) -> None:
    for row, fields in BELOW_USER[kind].items():
        for field in fields.split():
            found = {case: outcome(values[f"{kind}.{field}"]) for case, values in of_users.items()}
            assert found == cells(row), field


async def test_a_field_beside_users(town: Town) -> None:
    found = []
    for asker in ASKERS:
        values = defaultdict(list)
        for query in (VIEWER, USERS, INTAKE, RETENTION, AT_RISK, *(query for query, _ in OF_THE_PLATFORM.values())):
            for field, value in values_in(list(((await town.ask(query, asker))["data"] or {}).values())):
                values[field].append(value)
        found.append(values)
    for kind, rows in BESIDE_USER.items():
        for row, fields in rows.items():
            for field in fields.split():
                got = [outcome(values[f"{kind}.{field}"]) for values in found]
                assert got == [*row], field


# --------------------------------------------------------------------------------------------- what is sent

SEND = {
    "Mutation.trackEvent": "mutation ($event: TrackEventInput!) { trackEvent(input: $event) { userErrors { code } } }",
    "Mutation.trackEvents": TRACK,
    "Mutation.upsertUsers": UPSERT,
    "Mutation.linkGuardian": LINK,
    "Mutation.unlinkGuardian": """
        mutation ($guardianId: ID!, $childId: ID!) {
          unlinkGuardian(input: {guardianId: $guardianId, childId: $childId}) { userErrors { code } }
        }""",
    "Mutation.recordConsent": CONSENT,
    "Mutation.revokeConsent": REVOKE,
    "Mutation.setTracking": SET_TRACKING,
}
KEPT = """
SELECT (SELECT count(*) FROM user_activity_events), (SELECT jsonb_agg(u ORDER BY subject_key) FROM users AS u),
       (SELECT jsonb_agg(g ORDER BY subject_key, guardian_key) FROM guardianships AS g),
       (SELECT jsonb_agg(c ORDER BY subject_key, consent_id) FROM consents AS c)
"""


def an_event(who: str) -> Answer:
    """Somebody's event, as it would be sent again."""
    return {
        "eventId": str(uuid4()),
        "occurredAt": datetime.now(UTC).isoformat(),
        "event": {"tutorOpened": {}},
        "deviceId": str(device_of(who)),
        "userId": who,
    }


def sent_about(mutation: str, who: str, guardian: str) -> Answer:
    """The variables of a mutation about somebody."""
    variables: dict[str, Answer] = {
        "Mutation.trackEvent": {"event": an_event(who)},
        "Mutation.trackEvents": {"events": [an_event(who)]},
        "Mutation.upsertUsers": {"users": [{"userId": who, "role": "STUDENT"}]},
        "Mutation.recordConsent": {"userId": who, "basis": "PARENT", "notice": "1", "by": guardian},
        "Mutation.revokeConsent": {"userId": who},
        "Mutation.setTracking": {"userId": who, "objected": True},
    }
    return variables.get(mutation, {"guardianId": guardian, "childId": who})


async def kept(platform: Platform) -> list[Any]:
    async with platform.superuser.connect() as connection:
        return list((await connection.execute(text(KEPT))).one())


@pytest.fixture(scope="module")
async def newcomers(town: Town) -> dict[str, str]:
    """A household like the other, for changes: whose they are, as `WHOSE` names them, but for one's own and nobody."""
    names = {"guardian": "nina", "child's": "nick", "stranger's": "otto", "other guardian": "olga"}
    await town.platform.upsert(
        *({"userId": who, "role": "PARENT" if "guardian" in part else "STUDENT"} for part, who in names.items())
    )
    return names


@pytest.mark.parametrize("asker", ASKERS)
async def test_what_is_sent_about_somebody(town: Town, newcomers: dict[str, str], asker: str) -> None:
    """Linked first and unlinked after, so that each finds what the one before left."""
    for mutation, row in MUTATIONS.items():
        for (of, whose), expected in cells(row).items():
            if of != asker:
                continue
            who = {"own": OWN[asker], "nobody's": f"nobody {uuid4()}"}.get(whose) or newcomers[whose]
            if mutation == "Mutation.upsertUsers" and whose == "own":
                who = newcomers["child's"]
            before = await kept(town.platform)
            answer = await town.ask(SEND[mutation], asker, **sent_about(mutation, who, newcomers["guardian"]))
            await town.platform.settle()
            assert sent_outcome(answer) == expected, (mutation, whose)
            assert (await kept(town.platform) != before) == (
                expected == "V" and not (mutation == "Mutation.upsertUsers" and whose != "nobody's")
            ), (mutation, whose)
            if mutation == "Mutation.setTracking" and expected == "V":
                await town.platform.data(SET_TRACKING, ASKERS[asker], userId=who, objected=False)


def sent_outcome(answer: Answer) -> str:
    """What a mutation comes to."""
    if "errors" in answer:
        (error,) = answer["errors"]
        assert not answer["data"]
        return CODES[error["extensions"]["code"]]
    (payload,) = answer["data"].values()
    refused = {USER_ERRORS[error["code"]] for error in payload["userErrors"]}
    return "".join(sorted(refused)) or "V"


async def test_a_field_of_what_is_answered(town: Town, newcomers: dict[str, str]) -> None:
    mutations = GRAPH.type_map["Mutation"]
    assert isinstance(mutations, GraphQLObjectType)
    guardian, child = newcomers["other guardian"], newcomers["stranger's"]
    unlinked = {"guardianId": guardian, "childId": child}
    wrong: dict[str, Answer] = {
        "trackEvents": {"events": [{**an_event("x"), "userId": None}, {**an_event("x"), "userId": None}]},
        "upsertUsers": {"users": [{"userId": guardian, "role": "PARENT"}, {"userId": "", "role": "PARENT"}]},
        "unlinkGuardian": unlinked,
        "revokeConsent": {"userId": child},
        "setTracking": {"userId": child, "objected": True},
    }
    wrong["trackEvents"]["events"][1]["occurredAt"] = "2001-01-01T00:00:00Z"
    found = []
    for asker in ASKERS:
        values = defaultdict(list)
        for mutation, given in wrong.items():
            kind = f"{mutation[0].upper()}{mutation[1:]}Input!"
            query = f"mutation ($input: {kind}) {{ {mutation}(input: $input) {below(mutations, mutation)} }}"
            answer = await town.ask(query, asker, input=given)
            for field, value in values_in(list((answer["data"] or {}).values())):
                values[field].append(value)
        found.append(values)
    for kind, rows in PAYLOADS.items():
        for row, fields in rows.items():
            for field in fields.split():
                got = [outcome(values[f"{kind}.{field}"]) for values in found]
                assert got == [*row], (kind, field)


# ------------------------------------------------------------------------------------------- other ways to ask

NOT_ADMINS = [asker for asker in ASKERS if asker != "ADMIN"]
WAYS = {
    "aliases": """
        query ($them: ID!) { a: user(userId: $them) { who: displayName } b: user(userId: $them) { who: userId } }""",
    "a named fragment": """
        query ($them: ID!) { user(userId: $them) { ...F } }
        fragment F on User { displayName journey { totalXp } }""",
    "nested fragments": """
        query ($them: ID!) { user(userId: $them) { ... on Node { ... on User { ...F } } } }
        fragment F on User { ...G events { nodes { ... on Node { id ... on ActivityEvent { data } } } } }
        fragment G on User { ... @include(if: true) { displayName } }""",
    "a fragment of the root": """
        query ($them: ID!) { ...Q ... on Query { other: journey(userId: $them) { totalXp } } }
        fragment Q on Query { engagement(userId: $them) { daily { xp } } ...C }
        fragment C on Query { eventCounts(userId: $them) { count } }""",
    "beside one's own": """
        query ($them: ID!) { viewer { user { userId } } user(userId: $them) { displayName guardians { userId } } }""",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asker", NOT_ADMINS)
async def test_no_other_way_leads_to_a_stranger(town: Town, way: str, asker: str) -> None:
    of_stranger, of_nobody = [await town.ask(WAYS[way], asker, them=who) for who in (STRANGER, NOBODY)]
    assert not tells_of_stranger(of_stranger)
    assert of_stranger == of_nobody
    assert tells_of_stranger(await town.ask(WAYS[way], "ADMIN", them=STRANGER))


@pytest.mark.parametrize("asker", NOT_ADMINS)
async def test_a_stranger_is_answered_like_nobody(town: Town, asker: str) -> None:
    """Byte by byte, and with as many statements."""
    for query in OF_ONE.values():
        await _same(town, asker, query, {"who": STRANGER}, {"who": NOBODY})
    for kind, node_id in town.nodes[STRANGER].items():
        await _same(town, asker, NODE, {"id": node_id}, {"id": town.nodes[NOBODY][kind]})


async def test_naming_a_stranger_in_an_event_is_refused_like_naming_nobody(town: Town) -> None:
    refusals = []
    for who in (STRANGER, NOBODY):
        named = {**an_event(PARENT), "userId": None, "event": {"parentDashboardOpened": {"childId": who}}}
        (refusal,) = (await town.platform.track([named], ASKERS["PARENT"]))["userErrors"]
        refusals.append({**refusal, "eventId": None})
    assert refusals[0] == refusals[1]
    assert refusals[0]["code"] == "FORBIDDEN"


async def _same(town: Town, asker: str, query: str, of_stranger: Answer, of_nobody: Answer) -> None:
    answers = []
    databases = town.platform.api.databases
    for variables in (of_stranger, of_nobody):
        # But what is kept behind the requests.
        with sent_through(databases.viewer, databases.intake, but=("INSERT INTO access_log",)) as sent:
            answer = json.dumps(await town.ask(query, asker, **variables))
        answers.append((answer, [statement for statement, _ in sent]))
    assert answers[0] == answers[1]
    assert answers[0][1] or asker in {"no token", "SERVICE"}


@pytest.mark.parametrize("asker", ["STUDENT", "PARENT"])
async def test_cursors_of_a_stranger_lead_nowhere(town: Town, asker: str) -> None:
    """They are places in a list, and the list is still one's own."""
    stranger = await cursors(town.platform, STRANGER)
    users = await town.ask("{ users(first: 100) { edges { cursor node { userId } } } }", "ADMIN")
    place = next(edge["cursor"] for edge in users["data"]["users"]["edges"] if edge["node"]["userId"] == STRANGER)
    of_all = await town.ask("{ activityEvents(first: 1) { edges { cursor } } }", "ADMIN")
    query = """
    query ($who: ID!, $users: String!, $events: String!, $sessions: String!, $milestones: String!) {
      before: users(before: $users) { nodes { userId } }
      after: users(after: $users) { nodes { userId } }
      user(userId: $who) {
        before: events(before: $events) { nodes { data pagePath } }
        after: events(after: $events) { nodes { data pagePath } }
        sessions(before: $sessions) { nodes { entryPath } }
        later: sessions(after: $sessions) { nodes { entryPath } }
        journey {
          milestones(before: $milestones) { nodes { title } }
          later: milestones(after: $milestones) { nodes { title } }
        }
      }
    }
    """
    answer = await town.ask(query, asker, who=OWN[asker], users=place, **stranger)
    assert "errors" not in answer
    assert not tells_of_stranger(answer)
    seen = {node["userId"] for node in answer["data"]["before"]["nodes"] + answer["data"]["after"]["nodes"]}
    assert seen == ({CHILD} if asker == "STUDENT" else {CHILD, SIBLING, PARENT})
    foreign = await town.ask(
        "query ($c: String!) { activityEvents(after: $c) { nodes { data } } }",
        asker,
        c=of_all["data"]["activityEvents"]["edges"][0]["cursor"],
    )
    assert root_outcome(foreign) == "F"


async def test_users_by_role_are_still_ones_own(town: Town) -> None:
    query = "query ($role: UserRole) { users(role: $role) { nodes { userId } pageInfo { hasNextPage } } }"
    expected = {
        ("STUDENT", "STUDENT"): [CHILD],
        ("PARENT", "STUDENT"): [SIBLING, CHILD],
        ("PARENT", "PARENT"): [PARENT],
    }
    for asker in ("STUDENT", "PARENT"):
        for role in ("STUDENT", "PARENT", "ADMIN"):
            found = (await town.platform.data(query, ASKERS[asker], role=role))["users"]
            assert [node["userId"] for node in found["nodes"]] == expected.get((asker, role), [])
            assert not found["pageInfo"]["hasNextPage"]


# ------------------------------------------------------------------------- people in payloads, links that end

DATA = "query ($who: ID!) { user(userId: $who) { events(first: 100) { nodes { type data } } } }"
GUARDIANS_OF = "query ($who: ID!) { user(userId: $who) { guardians { userId } } }"
SEES = (
    "query ($who: ID!) { user(userId: $who) { displayName } viewer { children { userId } } users { nodes { userId } } }"
)
UNLINK = SEND["Mutation.unlinkGuardian"]


async def new_family(town: Town, expires_at: datetime | None = None) -> tuple[Asker, Asker, str, str]:
    """A parent of two, as askers the parent and the first child, and the children's ids."""
    parent, child, other = (f"{part} {uuid4()}" for part in ("parent", "child", "other"))
    await town.platform.upsert(
        {"userId": parent, "role": "PARENT"},
        *({"userId": each, "role": "STUDENT", "displayName": "a child"} for each in (child, other)),
    )
    for each in (child, other):
        await town.platform.link(parent, each, expires_at)
    return (Role.PARENT, parent), (Role.STUDENT, child), child, other


async def shown(town: Town, asker: Asker, who: str) -> dict[str, str]:
    """By field, whom the payloads of somebody's events name to the asker."""
    found = (await town.platform.data(DATA, asker, who=who))["user"]["events"]["nodes"]
    return {field: value for node in found for field, value in node["data"].items()}


async def test_payloads_name_only_whom_the_viewer_may_see(town: Town) -> None:
    parent, themself, child, other = await new_family(town)
    assert parent
    events = (
        {"profileViewed": {"profileId": other}},
        {"connectionRequestSent": {"recipientId": STRANGER}},
        {"connectionAccepted": {"requesterId": parent[1]}},
        {"evidenceUploaded": {"studentId": child, "fileType": "pdf"}},
        {"questViewed": {"questId": "q"}},
    )
    assert (await town.platform.track([{**an_event(child), "event": each} for each in events]))["rejected"] == 0
    opened = {"parentDashboardOpened": {"childId": child}}, {"parentEvidenceUploaded": {"studentId": other}}
    assert (await town.platform.track([{**an_event(parent[1]), "event": each} for each in opened]))["rejected"] == 0
    await town.platform.settle()

    plain = {"studentId": child, "fileType": "pdf", "questId": "q"}
    others = {"profileId": other, "requesterId": parent[1]}
    assert await shown(town, themself, child) == plain
    assert await shown(town, parent, child) == plain | others
    assert await shown(town, ASKERS["ADMIN"], child) == plain | others | {"recipientId": STRANGER}
    assert await shown(town, parent, parent[1]) == {"childId": child, "studentId": other}

    await town.platform.data(UNLINK, SERVICE, guardianId=parent[1], childId=child)
    assert await shown(town, parent, parent[1]) == {"studentId": other}


async def test_unlinking_takes_effect_at_the_next_request(town: Town) -> None:
    parent, themself, child, other = await new_family(town)
    assert parent
    node = (await node_ids(town.platform, CHILD))["User"]
    before = await town.platform.data(SEES, parent, who=child)
    assert before["user"] == {"displayName": "a child"}
    assert before["viewer"]["children"] == [{"userId": child}, {"userId": other}]
    assert await guardians(town, themself, child) == [parent[1]]

    await town.platform.data(UNLINK, SERVICE, guardianId=parent[1], childId=child)
    await _sees_only(town, parent, child, other)
    assert await guardians(town, themself, child) == []
    assert (await town.platform.ask(NODE, parent, id=node))["data"] == {"node": None}

    await town.platform.link(parent[1], child)
    assert (await town.platform.data(SEES, parent, who=child))["user"] == {"displayName": "a child"}


async def test_a_link_that_expired_shows_nothing(town: Town) -> None:
    parent, themself, child, other = await new_family(town, datetime.now(UTC) + timedelta(hours=1))
    assert parent
    assert (await town.platform.data(SEES, parent, who=child))["user"]
    assert await guardians(town, themself, child) == [parent[1]]
    async with town.platform.superuser.begin() as connection:
        await connection.execute(
            text(
                "UPDATE guardianships SET expires_at = now()"
                " WHERE subject_key = (SELECT subject_key FROM users WHERE user_id = :child)"
            ),
            {"child": child},
        )
    await _sees_only(town, parent, child, other)
    assert await guardians(town, themself, child) == []
    assert await guardians(town, ASKERS["ADMIN"], child) == []
    sent = await town.platform.track(
        [{**an_event(child), "userId": None, "event": {"parentDashboardOpened": {"childId": child}}}], parent
    )
    assert [error["code"] for error in sent["userErrors"]] == ["FORBIDDEN"]


async def guardians(town: Town, asker: Asker, who: str) -> list[str]:
    found = (await town.platform.data(GUARDIANS_OF, asker, who=who))["user"]["guardians"]
    return [person["userId"] for person in found]


async def _sees_only(town: Town, parent: Asker, child: str, other: str) -> None:
    answer = await town.platform.ask(SEES, parent, who=child)
    assert parent
    assert answer["data"]["user"] is None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]
    assert answer["data"]["viewer"]["children"] == [{"userId": other}]
    assert answer["data"]["users"]["nodes"] == [{"userId": who} for who in sorted((other, parent[1]))]


async def test_guardians_are_named_to_the_child_to_each_of_them_and_to_admins(town: Town) -> None:
    parent, themself, child, other = await new_family(town)
    assert parent
    await town.platform.link(STRANGERS_GUARDIAN, other)
    assert await guardians(town, parent, other) == sorted((STRANGERS_GUARDIAN, parent[1]))
    assert await guardians(town, (Role.PARENT, STRANGERS_GUARDIAN), other) == sorted((STRANGERS_GUARDIAN, parent[1]))
    assert await guardians(town, (Role.STUDENT, other), other) == sorted((STRANGERS_GUARDIAN, parent[1]))
    assert await guardians(town, themself, child) == [parent[1]]
    assert await guardians(town, ASKERS["ADMIN"], child) == [parent[1]]
    assert root_outcome(await town.platform.ask(GUARDIANS_OF, themself, who=other)) == "N"


async def test_the_token_says_in_which_role_somebody_asks(town: Town) -> None:
    """A parent who signs in as a learner is a learner; a learner who signs in as a parent has no children."""
    for asker in ((Role.STUDENT, PARENT), (Role.PARENT, CHILD)):
        answer = await town.platform.ask(SEES, asker, who=SIBLING)
        assert answer["data"]["user"] is None
        assert answer["data"]["viewer"]["children"] == []
        assert answer["data"]["users"]["nodes"] == [{"userId": asker[1]}]
        for node_id in town.nodes[SIBLING].values():
            assert root_outcome(await town.platform.ask(NODE, asker, id=node_id)) == "0"
