"""A disk that is full loses nothing that was acknowledged, and what was not is nowhere."""

import contextlib
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from models.viewer import Role
from questlog.embedded import EmbeddedServers
from questlog.embedded.house import House
from questlog.settings import Settings
from questlog.supervisor import Supervisor
from tests.chaos.plan import Plan
from tests.chaos.run import Outcome, platform_of, settle
from tests.histories import as_input
from tests.platform import TRACK, Platform
from tests.recomputation import Event
from tests.workers.storing import NOW

ADA = (Role.STUDENT, "ada")
MEGABYTES = 256
WHILE_FULL = 120

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


class Disk:
    """A small one of its own, mounted on a folder: root alone may do that."""

    def __init__(self, folder: Path, *, is_shared: bool) -> None:
        self.filler, self.is_shared = folder / "filler", is_shared
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", folder], check=True)

    def fill(self) -> None:
        """Leave not one byte."""
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def make_room(self) -> None:
        """Take away what filled it."""
        self.filler.unlink()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


@pytest.fixture(params=["", "valkey", "postgresql"], ids=["both", "Valkey", "PostgreSQL"])
async def disk(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Disk]:
    """A disk for both servers' data, or for one's alone."""
    folder = House.open(home.absolute()).folder / request.param
    if request.param:
        async with EmbeddedServers(home):
            pass
        folder.rename(folder.with_suffix(".before"))
        folder.mkdir()
    mounted = Disk(folder, is_shared=not request.param)
    if request.param:
        subprocess.run(["cp", "--archive", "--no-target-directory", folder.with_suffix(".before"), folder], check=True)
    yield mounted
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_loses_nothing_that_was_acknowledged(home: Path, disk: Disk) -> None:
    outcome = Outcome(0, Plan(1, 1, []))
    sent: list[list[dict[str, Any]]] = []
    answers: list[str] = []
    settings = Settings(home=home, user_events_per_minute=0, address_events_per_minute=0)
    async with Supervisor(settings, port=0) as running, platform_of(running) as platform:
        await platform.upsert({"userId": "ada", "role": "STUDENT"})
        sent += [some() for _ in range(10)]
        answers += [await code(platform, batch) for batch in sent]
        disk.fill()
        for _ in range(WHILE_FULL):
            sent.append(some())
            answers.append(await code(platform, sent[-1]))
        disk.make_room()
        acknowledged = [batch for batch, answer in zip(sent, answers, strict=True) if answer == "taken"]
        await settle(running, platform, outcome)
        kept = await stored(platform)
    assert answers[:10] == ["taken"] * 10
    assert set(answers) == ({"taken", "UNAVAILABLE"} if disk.is_shared else {"taken"})
    assert outcome.wrong == []
    assert outcome.ledger
    assert outcome.ledger.adds_up
    assert set(kept.values()) == {1}
    assert not [batch for batch in acknowledged if not ids(batch) <= kept.keys()]
    assert not [batch for batch in sent if ids(batch) & kept.keys() and not ids(batch) <= kept.keys()]


def some() -> list[dict[str, Any]]:
    """Events of some size."""
    data = {"name": "map_drawn", "data": {"colours": "red" * 1000}}
    return [as_input(Event(uuid4(), NOW - timedelta(minutes=n), "custom", data), "ada") for n in range(50)]


def ids(batch: list[dict[str, Any]]) -> set[str]:
    return {event["eventId"] for event in batch}


async def code(platform: Platform, batch: list[dict[str, Any]]) -> str:
    """Whether all were taken, else with which code the request failed."""
    answer = await platform.ask(TRACK, ADA, events=batch)
    if "errors" in answer:
        (error,) = answer["errors"]
        assert error["extensions"].get("retryAfterMs", 0) > 0 or error["extensions"]["code"] != "UNAVAILABLE"
        return str(error["extensions"]["code"])
    return "taken" if answer["data"]["trackEvents"]["accepted"] == len(batch) else str(answer)


async def stored(platform: Platform) -> Counter[str]:
    """How often each event is in the table."""
    async with platform.superuser.connect() as connection:
        return Counter((await connection.execute(text("SELECT event_id::text FROM user_activity_events"))).scalars())
