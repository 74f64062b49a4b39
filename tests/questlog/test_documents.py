"""Trusted documents: the manifests that three tools write, and what may be asked beside them."""

import json
from hashlib import md5, sha1, sha256
from pathlib import Path
from typing import Any

import pytest

from models.viewer import Role
from questlog.documents import trusted_documents
from questlog.embedded import EmbeddedServers
from questlog.settings import Settings, SettingsError
from tests.platform import SERVICE, TRACK, Answer, Asker, Platform, new_api
from tests.questlog.test_http import some
from tests.questlog.test_serve import questlog

ROLE = "query Role { viewer { role } }"
BY_SHA_256 = f"sha256:{sha256(ROLE.encode()).hexdigest()}"
ANSWER = {"data": {"viewer": {"role": "ANONYMOUS"}}}
ADMIN = (Role.ADMIN, "root")


def apollo(*operations: Any) -> Answer:
    return {"format": "apollo-persisted-query-manifest", "version": 1, "operations": list(operations)}


BY_APOLLO = sha256(ROLE.encode()).hexdigest()
MANIFESTS = {
    md5(ROLE.encode(), usedforsecurity=False).hexdigest(): "Relay",
    sha1(ROLE.encode(), usedforsecurity=False).hexdigest(): "GraphQL Code Generator",
    BY_SHA_256: "GraphQL Code Generator with sha256",
}


def written(folder: Path, manifest: object) -> Path:
    path = folder / "documents.json"
    path.write_bytes(manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode())
    return path


async def post(platform: Platform, body: Answer, asker: Asker = None) -> Answer:
    headers = {"authorization": f"Bearer {platform.token(*asker)}"} if asker else {}
    answer: Answer = (await platform.client.post("/graphql", json=body, headers=headers)).json()
    answer.pop("extensions", None)  # what it costs
    return answer


def code(answer: Answer) -> str:
    assert set(answer) == {"errors"}
    (error,) = answer["errors"]
    return str(error["extensions"]["code"])


@pytest.mark.parametrize("document_id", MANIFESTS, ids=list(MANIFESTS.values()))
async def test_a_document_is_named_by_its_id_and_by_the_hash_of_its_text(
    servers: EmbeddedServers, tmp_path: Path, document_id: str
) -> None:
    async with new_api(servers, tmp_path, documents=written(tmp_path, {document_id: ROLE})) as platform:
        assert await post(platform, {"documentId": document_id}) == ANSWER
        assert await post(platform, {"documentId": BY_SHA_256, "operationName": "Role"}) == ANSWER


async def test_apollo_s_manifest_and_its_client_s_requests(servers: EmbeddedServers, tmp_path: Path) -> None:
    manifest = apollo({"id": BY_APOLLO, "name": "Role", "type": "query", "body": ROLE})
    async with new_api(servers, tmp_path, documents=written(tmp_path, manifest)) as platform:
        persisted = {"persistedQuery": {"version": 1, "sha256Hash": BY_APOLLO}}
        assert await post(platform, {"operationName": "Role", "extensions": persisted}) == ANSWER
        assert await post(platform, {"documentId": BY_APOLLO}) == ANSWER
        assert await post(platform, {"documentId": BY_SHA_256}) == ANSWER


async def test_beside_optional_documents_any_other_is_executed(servers: EmbeddedServers, tmp_path: Path) -> None:
    manifest = written(tmp_path, {"role": ROLE, "track": TRACK})
    async with new_api(servers, tmp_path, documents=manifest, queries_by_get=True) as platform:
        assert await post(platform, {"query": "{ viewer { role } }"}) == ANSWER
        assert code(await post(platform, {"documentId": "nobody's"})) == "NOT_FOUND"
        assert (
            code(await post(platform, {"documentId": "role", "operationName": "Other"})) == "GRAPHQL_VALIDATION_FAILED"
        )
        assert (await platform.client.get("/graphql", params={"documentId": "role"})).json()["data"] == ANSWER["data"]
        assert (await platform.client.get("/graphql", params={"documentId": "track"})).status_code == 405
        sent = await post(platform, {"documentId": "track", "variables": {"events": some()}})
        assert sent["data"]["trackEvents"]["accepted"] == 1


@pytest.mark.parametrize("exempt", [False, True])
async def test_where_documents_are_required_nothing_else_runs(
    servers: EmbeddedServers, tmp_path: Path, exempt: bool
) -> None:
    required: dict[str, Any] = {"documents_required": True, "documents_exempt_admins": exempt}
    async with new_api(servers, tmp_path, documents=written(tmp_path, {"role": ROLE}), **required) as platform:
        assert await post(platform, {"documentId": "role"}) == ANSWER
        for asker in (None, SERVICE, (Role.STUDENT, "ada")):
            for query in (ROLE, "{ __typename }", TRACK, "{"):
                assert code(await post(platform, {"query": query}, asker)) == "FORBIDDEN"
        answer = await post(platform, {"query": ROLE}, ADMIN)
        if exempt:
            assert answer == {"data": {"viewer": {"role": "ADMIN"}}}
        else:
            assert code(answer) == "FORBIDDEN"


async def test_who_may_not_ask_is_told_by_the_status_too(servers: EmbeddedServers, tmp_path: Path) -> None:
    documents = written(tmp_path, {"role": ROLE})
    async with new_api(servers, tmp_path, documents=documents, documents_required=True) as platform:
        accept = {"accept": "application/graphql-response+json"}
        answer = await platform.client.post("/graphql", json={"query": ROLE}, headers=accept)
        assert answer.status_code == 403


async def test_whoever_names_no_document_is_told_what_they_can_send(servers: EmbeddedServers, tmp_path: Path) -> None:
    documents = written(tmp_path, {"role": ROLE})
    async with new_api(servers, tmp_path, documents=documents) as platform:
        (error,) = (await post(platform, {"documentId": "nobody's"}))["errors"]
        assert error["message"] == "no document has this id: send another documentId, or the document itself as query"
    required: dict[str, Any] = {"documents_required": True, "documents_exempt_admins": True}
    async with new_api(servers, tmp_path, documents=documents, **required) as platform:
        for asker, advice in ((None, ""), (ADMIN, ", or the document itself as query")):
            (error,) = (await post(platform, {"documentId": "nobody's"}, asker))["errors"]
            assert error["message"] == f"no document has this id: send another documentId{advice}"


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        ([ROLE], "is no manifest"),
        ({"format": "apollo-persisted-query-manifest", "version": 2, "operations": []}, "is no manifest"),
        ({"format": "another"}, "is no manifest"),
        ({"a": 7}, "has under a no text"),
        ({"a": "{"}, "has under a no valid document: Syntax Error"),
        ({"a": "{ nothing }"}, "has under a no valid document: Cannot query field 'nothing'"),
        ({f"sha256:{'0' * 64}": ROLE}, f"has under sha256:{'0' * 64} a text whose hash is {BY_SHA_256}"),
        (apollo({"id": "a", "body": ROLE}, {"id": "a", "body": ROLE}), "has a twice"),
        (apollo({"id": "a", "name": "A"}), "has under a no text"),
        (apollo({"id": "a", "body": ROLE}, {"body": ROLE}), "has an operation, number 1, without an id"),
        (apollo("a"), "has an operation, number 0, without an id"),
    ],
)
def test_a_bad_manifest_is_refused_by_its_entry(tmp_path: Path, manifest: object, reason: str) -> None:
    path = written(tmp_path, manifest)
    with pytest.raises(SettingsError) as refused:
        trusted_documents(Settings(documents=path))
    assert str(refused.value).startswith(f"QUESTLOG_DOCUMENTS: {path} {reason}")


def test_serve_does_not_start_with_a_bad_manifest(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": "{ nothing }"})
    ended = questlog(tmp_path / "home", "serve", "--port", "0", "--documents", str(path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"questlog: QUESTLOG_DOCUMENTS: {path} has under a no valid document")
    assert ended.stderr.count("\n") == 1
    missing = questlog(tmp_path / "home", "serve", "--port", "0", "--documents", str(tmp_path / "none.json"))
    assert (
        missing.stderr
        == f"questlog: QUESTLOG_DOCUMENTS: {tmp_path}/none.json cannot be read (No such file or directory)\n"
    )


def test_required_documents_need_a_manifest() -> None:
    with pytest.raises(ValueError, match="QUESTLOG_DOCUMENTS_REQUIRED needs QUESTLOG_DOCUMENTS"):
        Settings(documents_required=True)
