"""A Valkey of one's own must keep what it acknowledges: where it does not, or does not tell, somebody hears of it."""

from pathlib import Path

import pytest

from questlog.embedded import EmbeddedServers
from questlog.reach import check_durability
from tests.questlog.test_serve import assert_one_line, questlog
from workers.queue import open_queue


@pytest.mark.parametrize(
    ("command", "name", "wrong", "right"),
    [
        (["work"], "appendonly", "no", "yes"),
        (["serve", "--port", "0"], "appendfsync", "everysec", "always"),
        (["work"], "maxmemory-policy", "volatile-lru", "noeviction"),
    ],
)
async def test_a_valkey_that_may_lose_events_is_refused_in_production(
    own_servers: EmbeddedServers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    command: list[str],
    name: str,
    wrong: str,
    right: str,
) -> None:
    production = {
        "QUESTLOG_DATABASE_URL": own_servers.database_url,
        "QUESTLOG_REDIS_URL": own_servers.redis_url,
        "QUESTLOG_ENVIRONMENT": "production",
        "QUESTLOG_JWT_SECRET": "a secret of more than thirty-two characters",
        "QUESTLOG_ERASURE_SECRET": "another secret of more than thirty-two characters",
    }
    said = f"Valkey has {name} {wrong}, by which acknowledged events can be lost: set {name} {right}"
    queue = await open_queue(own_servers.redis_url)
    await queue.config_set(name, wrong)
    try:
        assert_one_line(questlog(tmp_path, *command, **production), said)
        await check_durability(own_servers.redis_url, "development")
    finally:
        await queue.config_set(name, right)
        await queue.aclose(close_connection_pool=True)
    assert said in caplog.text


async def test_a_valkey_that_does_not_tell_its_settings_is_used_with_a_warning(
    own_servers: EmbeddedServers, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await open_queue(own_servers.redis_url)
    await queue.acl_setuser(
        "managed", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"], commands=["-config"]
    )
    try:
        managed = own_servers.redis_url.replace(f":{own_servers.valkey.password}", "managed:secret")
        await check_durability(managed, "production")
    finally:
        await queue.acl_deluser("managed")
        await queue.aclose(close_connection_pool=True)
    assert "see that it has appendonly yes, appendfsync always, maxmemory-policy noeviction" in caplog.text


async def test_the_embedded_valkey_is_what_is_wanted(
    own_servers: EmbeddedServers, caplog: pytest.LogCaptureFixture
) -> None:
    await check_durability(own_servers.redis_url, "production")
    assert not caplog.text
