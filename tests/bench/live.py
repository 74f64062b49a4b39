"""How soon an event shows and how many are taken a second, each beside a limit measured in the same run.

`python -m tests.bench.live` starts an installation of its own in a temporary folder, and takes about two minutes.
"""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import connect
from models.event import UserActivityEvent
from models.user import UserRole
from models.viewer import Role
from questlog.database import logins
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from tests.histories import as_input, as_tracked
from tests.platform import TRACK
from tests.recomputation import Event
from workers.event import store

TRIES = 40
BATCHES = 40
BATCH = 500
CLIENTS = 4
PEOPLE = 50
POLL_SECONDS = 0.01
STARTED = "query ($id: ID!) { journey(userId: $id) { totalQuestsStarted } }"


@contextmanager
def data_of(home: Path) -> Iterator[None]:
    """Remove the servers' data in the end, which for root lies outside of home."""
    try:
        yield
    finally:
        shutil.rmtree((home / "servers").resolve())


async def main() -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="questlog-bench-") as home, data_of(Path(home)):
        async with Supervisor(Settings(home=Path(home)), port=0) as running, httpx.AsyncClient(timeout=60) as http:
            engine = connect(logins(running.settings).worker, pool_size=1)
            asked = Client(http, running)
            await shown_after(asked, 3)
            delays = await shown_after(asked, TRIES)
            answers = [await asked.seconds_of_a_question() for _ in range(TRIES)]
            taken, kept = await taken_a_second(asked, engine)
            bare = await stored_a_second(engine)
            await engine.dispose()
    print(f"{'':44}{'measured':>12}   limit")
    print(
        f"{'acknowledged until in the journey, median':44}{median(delays):>10.2f} s   {0.5 + median(answers):.2f} s: "
        "half the timetable's second, and a question"
    )
    print(
        f"{'                                   p95':44}{quantiles(delays, n=20)[-1]:>10.2f} s   "
        f"{1 + median(answers):.2f} s: the whole of it, and a question"
    )
    print(
        f"{f'taken by trackEvents, {BATCH} a request':44}{taken:>10,.0f}/s   {bare:,.0f}/s: "
        "storing them without API and queue"
    )
    print(f"{'taken and stored':44}{kept:>10,.0f}/s")


class Client:
    """Somebody who sends and asks over HTTP."""

    def __init__(self, http: httpx.AsyncClient, running: Supervisor) -> None:
        self._http, self._url, self._settings = http, running.url, running.settings

    async def data(self, query: str, user_id: str, **variables: Any) -> Any:
        """The data of an answer that has no errors."""
        token = sign_token(self._settings, user_id=user_id, role=Role.STUDENT, hours=1)
        response = await self._http.post(
            self._url, json={"query": query, "variables": variables}, headers={"Authorization": f"Bearer {token}"}
        )
        answer = response.json()
        if "errors" in answer:
            raise RuntimeError(answer["errors"])
        return answer["data"]

    async def track(self, user_id: str, events: Sequence[Event]) -> None:
        """Send events, all of which must be taken."""
        sent = await self.data(TRACK, user_id, events=[as_input(event, user_id) for event in events])
        if sent["trackEvents"]["accepted"] != len(events):
            raise RuntimeError(sent)

    async def started(self, user_id: str) -> int:
        """How many quests their journey shows as started."""
        answer = await self.data(STARTED, user_id, id=user_id)
        number: int = answer["journey"]["totalQuestsStarted"]
        return number

    async def seconds_of_a_question(self) -> float:
        """How long a question takes on its way."""
        began = perf_counter()
        await self.started("somebody")
        return perf_counter() - began


def some(number: int) -> list[Event]:
    """A person's last minutes."""
    now = datetime.now(UTC)
    return [
        Event(uuid4(), now - timedelta(seconds=number - index), "quest_started", {"questId": str(uuid4())})
        for index in range(number)
    ]


async def shown_after(client: Client, tries: int) -> list[float]:
    """Seconds from the acknowledgement of an event until the journey shows it, at any time of the second."""
    moments = random.Random(1)
    delays = []
    for index in range(tries):
        await asyncio.sleep(moments.random())
        name = f"somebody {tries} {index}"
        await client.track(name, some(1))
        acknowledged = perf_counter()
        while await client.started(name) < 1:  # noqa: ASYNC110 - a client has nothing to wait for
            await asyncio.sleep(POLL_SECONDS)
        delays.append(perf_counter() - acknowledged)
    return delays


async def taken_a_second(client: Client, engine: AsyncEngine) -> tuple[float, float]:
    """Events a second until the last was acknowledged, and until the last was in its table."""
    batches = iter([(f"pupil {index % PEOPLE}", some(BATCH)) for index in range(BATCHES)])
    before = await kept(engine)
    began = perf_counter()

    async def send() -> None:
        for name, events in batches:
            await client.track(name, events)

    await asyncio.gather(*(send() for _ in range(CLIENTS)))
    taken = perf_counter() - began
    while await kept(engine) < before + BATCHES * BATCH:  # noqa: ASYNC110 - another process stores them
        await asyncio.sleep(POLL_SECONDS)
    return BATCHES * BATCH / taken, BATCHES * BATCH / (perf_counter() - began)


async def stored_a_second(engine: AsyncEngine) -> float:
    """Events a second by the bare function, one batch after the other on one connection."""
    batches = [
        [as_tracked(event, f"bare {index % PEOPLE}", UserRole.STUDENT) for event in some(BATCH)]
        for index in range(BATCHES)
    ]
    began = perf_counter()
    for batch in batches:
        async with engine.begin() as connection:
            await store(connection, batch, anonymize_after_days=90)
    return BATCHES * BATCH / (perf_counter() - began)


async def kept(engine: AsyncEngine) -> int:
    """How many events there are."""
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(UserActivityEvent)) or 0


if __name__ == "__main__":
    asyncio.run(main())
