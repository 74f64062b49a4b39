"""Installations with a week that is due."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.base import connect
from questlog.embedded import EmbeddedServers
from tests.platform import Platform, new_api
from tests.workers.retention.past import MONDAY, make_week
from tests.workers.storing import Storing


@pytest.fixture
async def idle(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An installation without a worker, with the partitions of a week that is due."""
    async with new_api(servers, tmp_path) as running:
        await make_week(running, MONDAY)
        yield running


@pytest.fixture
async def old(idle: Platform) -> AsyncIterator[Storing]:
    """Its database, in which days of any age are stored and derived."""
    engine = connect(idle.logins.worker, pool_size=8, secret=idle.settings.erasure_key)
    yield Storing(engine, idle.superuser)
    await engine.dispose()
