"""The servers and installations that tests run on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from questlog.embedded import EmbeddedServers
from tests.platform import Platform, new_platform, prepare_template, temporary_servers


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """Embedded PostgreSQL and Valkey for the whole run."""
    async with temporary_servers(tmp_path_factory.mktemp("home")) as running:
        await prepare_template(running)
        yield running


@pytest.fixture(scope="session")
async def own_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """PostgreSQL and Valkey that a test may stop and kill, if it starts them again."""
    async with temporary_servers(tmp_path_factory.mktemp("own")) as running:
        await prepare_template(running)
        yield running


@pytest.fixture(scope="module")
async def platform(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """An installation for the tests of a module, who keep apart by the user ids that they choose."""
    async with new_platform(servers, tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture
async def empty_platform(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Platform]:
    """An installation for one test alone; not to be asked for beside `platform`."""
    async with new_platform(servers, tmp_path) as running:
        yield running
