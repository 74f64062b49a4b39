"""Who may ask for what takes its time, and who is told of it: archives and erasures."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from models.viewer import Role
from schema.node import global_id
from tests.household import ASKERS
from tests.platform import Asker, Platform, until
from tests.schema.test_roles import (
    GRAPH,
    NODE,
    OF_TASKS,
    TASKS,
    WHOSE,
    below,
    cells,
    outcome,
    root_outcome,
    sent_outcome,
    values_in,
)

QUERY, MUTATION = GRAPH.query_type, GRAPH.mutation_type
assert QUERY
assert MUTATION
ASK = {
    "exportUserData": "mutation ($who: ID!) { exportUserData(input: {userId: $who}) { userErrors { code } } }",
    "eraseUser": "mutation ($who: ID!) { eraseUser(input: {userId: $who}) { userErrors { code } } }",
}
EVERYTHING = {name: query.replace("{ userErrors { code } }", below(MUTATION, name)) for name, query in ASK.items()}
ASKING = {name: f"query ($id: ID!) {{ {name}(id: $id) {below(QUERY, name)} }}" for name in ("dataExport", "erasure")}
NODES = {"dataExport": ("exportUserData", "DataExport"), "erasure": ("eraseUser", "Erasure")}
"""Of each query the mutation that makes what it tells of, and its type."""


@dataclass
class Family:
    """People of whom each may be erased: whoever asks, a child of theirs, and a stranger."""

    asker: Asker
    own: str
    child: str
    stranger: str

    def whom(self, whose: str) -> str:
        return {"own": self.own, "child's": self.child, "stranger's": self.stranger}.get(whose, f"nobody {uuid4()}")


async def family(platform: Platform, asker: str) -> Family:
    own, child, stranger = (f"{part}-{uuid4()}" for part in ("own", "child", "stranger"))
    role = Role.STUDENT if asker == "no token" else Role(asker)
    kept_as = role.value if role in (Role.PARENT, Role.ADMIN) else "STUDENT"
    students = [{"userId": who, "role": "STUDENT"} for who in (child, stranger)]
    await platform.upsert({"userId": own, "role": kept_as}, *students)
    if kept_as == "PARENT":
        await platform.link(own, child)
    return Family(None if asker == "no token" else (role, own), own, child, stranger)


@pytest.mark.parametrize("query", NODES)
async def test_a_field_of_it(platform: Platform, query: str) -> None:
    """Before all others here, who leave erasures behind that would be gone on with first."""
    mutation, _ = NODES[query]
    found: list[defaultdict[str, list[Any]]] = []
    asking = ASKING[query]
    for asker in ASKERS:
        people = await family(platform, asker)
        values: defaultdict[str, list[Any]] = defaultdict(list)
        for who in (people.own, "nobody"):
            answer = await platform.ask(EVERYTHING[mutation], people.asker, who=who)
            for field, value in values_in(list((answer["data"] or {}).values())):
                values[field].append(value)
        for node_id in [value for field in ("DataExport.id", "Erasure.id") for value in values[field]]:
            last: Any = None

            async def is_done(asker: Asker = people.asker, node_id: str = node_id) -> bool:
                nonlocal last
                last = await platform.data(asking, asker, id=node_id)
                return any(value == "DONE" for _, value in values_in(list(last.values())))

            await until(is_done)
            for field, value in values_in(list(last.values())):
                values[field].append(value)
        found.append(values)
    payload, kind = {"dataExport": ("ExportUserDataPayload", "DataExport"), "erasure": ("EraseUserPayload", "Erasure")}[
        query
    ]
    for each in (payload, kind):
        for row, fields in OF_TASKS[each].items():
            for name in fields.split():
                assert [outcome(values[f"{each}.{name}"]) for values in found] == [*row], (each, name)


@pytest.mark.parametrize("mutation", ASK)
async def test_what_may_be_asked_about_somebody(platform: Platform, mutation: str) -> None:
    for (asker, whose), expected in cells(TASKS[f"Mutation.{mutation}"]).items():
        people = await family(platform, asker)
        answer = await platform.ask(ASK[mutation], people.asker, who=people.whom(whose))
        assert sent_outcome(answer) == expected, (asker, whose)


async def asked_by(platform: Platform, people: Family, whose: str, mutation: str) -> str:
    """The id of what somebody asked for about themself."""
    whom = people.whom(whose)
    askers = {"own": people.asker or (Role.STUDENT, whom)}
    asker = askers.get(whose, (Role.STUDENT, whom))
    if asker[0] is Role.SERVICE and mutation == "exportUserData":
        asker = (Role.STUDENT, whom)
    payload = (await platform.data(EVERYTHING[mutation], asker, who=whom))[mutation]
    (made,) = [value for field, value in values_in([payload]) if field in ("DataExport.id", "Erasure.id")]
    return str(made)


@pytest.mark.parametrize("query", NODES)
async def test_who_is_told_of_it(platform: Platform, query: str) -> None:
    mutation, kind = NODES[query]
    asking = ASKING[query]
    for asker in ASKERS:
        people = await family(platform, asker)
        ids = {whose: await asked_by(platform, people, whose, mutation) for whose in WHOSE[:-1]}
        ids["nobody's"] = global_id(kind, uuid4())
        for whose, node_id in ids.items():
            expected = cells(TASKS[f"Query.{query}"])[asker, whose]
            answer = await platform.ask(asking, people.asker, id=node_id)
            assert root_outcome(answer) == expected, (asker, whose)
            as_node = root_outcome(await platform.ask(NODE, people.asker, id=node_id))
            assert as_node == ("V" if expected == "V" else "0"), (asker, whose)
            if expected == "N":
                nothing = await platform.ask(asking, people.asker, id=ids["nobody's"])
                assert answer == nothing, (asker, whose)
