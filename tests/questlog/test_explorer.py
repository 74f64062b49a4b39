"""The explorer, which loads nothing from elsewhere and is there for developers alone."""

import re
from pathlib import Path

from questlog.embedded import EmbeddedServers
from tests.platform import Platform, new_api

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def test_a_browser_gets_the_explorer_and_all_that_it_loads(platform: Platform) -> None:
    page = await platform.client.get("/graphql", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 6
    for path in loaded:
        answer = await platform.client.get(path)
        assert answer.status_code == 200
        kind = "text/css" if path.endswith(".css") else "javascript"
        assert kind in answer.headers["content-type"]
    start = (await platform.client.get("/explorer/page.js")).text
    assert "GraphiQL.createFetcher" in start
    assert "createFetcher=" in (await platform.client.get("/explorer/graphiql.min.js")).text


async def test_its_policy_lets_nothing_foreign_in(platform: Platform) -> None:
    page = await platform.client.get("/graphql", headers=BROWSER)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert {source for sources in policy.values() for source in sources.split()} == {
        "'none'",
        "'self'",
        "'unsafe-inline'",
        "data:",
    }
    assert "<script>" not in page.text
    assert "<style" not in page.text


async def test_the_page_is_nowhere_without_its_policy(platform: Platform) -> None:
    assert (await platform.client.get("/explorer/page.html")).status_code == 404


async def test_others_get_none(platform: Platform) -> None:
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.9"):
        assert (await platform.client.get("/graphql", headers={"accept": accept})).status_code == 405


async def test_production_has_none(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, environment="production") as production:
        assert (await production.client.get("/graphql", headers=BROWSER)).status_code == 405
        assert (await production.client.get("/explorer/graphiql.min.js")).status_code == 404
