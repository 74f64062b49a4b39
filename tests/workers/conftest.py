"""Installations in which nothing works but the test."""

from collections.abc import AsyncIterator

import pytest

from models.base import connect
from questlog.embedded import EmbeddedServers
from tests.platform import Platform, new_api
from tests.workers.storing import Storing


@pytest.fixture(scope="module")
async def idle(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """An installation without a worker, for the tests of a module."""
    async with new_api(servers, tmp_path_factory.mktemp("idle")) as running:
        yield running


@pytest.fixture(scope="module")
async def storing(idle: Platform) -> AsyncIterator[Storing]:
    """The database of that installation, as a worker reaches it."""
    engine = connect(idle.logins.worker, pool_size=12, secret=idle.settings.erasure_key)
    yield Storing(engine, idle.superuser)
    await engine.dispose()
