"""GraphQL over HTTP, as the audit of its working group finds it."""

import asyncio
import json
from pathlib import Path

from questlog.embedded import EmbeddedServers
from tests.platform import listening, new_api

AUDITS = 61


async def test_every_audit_finds_it_in_order(servers: EmbeddedServers, tmp_path: Path) -> None:
    async with new_api(servers, tmp_path, queries_by_get=True) as platform, listening(platform.app) as url:
        command = await asyncio.create_subprocess_exec(
            "node", Path(__file__).with_name("audit.js"), url, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await command.communicate()
    found = [json.loads(line) for line in output.splitlines()]
    assert command.returncode == 0
    assert [audit for audit in found if audit["status"] != "ok"] == []
    assert len(found) == AUDITS
