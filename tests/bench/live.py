"""How soon after its acknowledgement an event shows in a learner's journey: alone, and while others' come in."""

import asyncio
import json
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from uuid import uuid4

import httpx

from models.viewer import Role
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from tests.bench.home import temporary_home
from tests.histories import as_input
from tests.platform import BROWSER, TRACK
from tests.recomputation import Event

TRIES = 40
POLL_SECONDS = 0.01
EVENTS_A_SECOND = 2000
BATCH = 10
CONNECTIONS = 64
OTHERS = 1000
SECONDS_TO_SETTLE = 10
MOST_SECONDS = 180
STARTED = "query ($id: ID!) { journey(userId: $id) { totalQuestsStarted } }"


async def main() -> None:
    """Measure, and print a table."""
    if not shutil.which("wrk"):
        sys.exit("the benchmark needs wrk: apt-get install wrk")
    with temporary_home() as home:
        settings = Settings(home=home, address_events_per_minute=10**9)
        async with Supervisor(settings, port=0) as running, httpx.AsyncClient(timeout=60) as http:
            asked = Client(http, running)
            await shown_after(asked, 3)
            delays = await shown_after(asked, TRIES)
            answers = [await asked.seconds_of_a_question() for _ in range(TRIES)]
            async with coming_in(running, home / "tokens") as coming:
                await asyncio.sleep(SECONDS_TO_SETTLE)
                busy = await shown_after(asked, TRIES + 1)
    print(f"{'':44}{'measured':>12}   limit")
    print(
        f"{'acknowledged until in the journey, median':44}{median(delays):>10.2f} s   {0.5 + median(answers):.2f} s: "
        "half the timetable's second, and a question"
    )
    print(
        f"{'                                   p95':44}{quantiles(delays, n=20)[-1]:>10.2f} s   "
        f"{1 + median(answers):.2f} s: the whole of it, and a question"
    )
    rate = coming[0]
    print(f"{f'while {rate:,.0f} events/s of others come in, median':44}{median(busy):>10.2f} s")
    print(f"{'                                   p95':44}{quantiles(busy, n=20)[-1]:>10.2f} s")


@asynccontextmanager
async def coming_in(running: Supervisor, tokens: Path) -> AsyncIterator[list[float]]:
    """Let events of others come in meanwhile; afterwards the list says how many a second did.

    Raises RuntimeError where one was not taken.
    """
    people = [sign_token(running.settings, user_id=f"other {number}", role=Role.STUDENT) for number in range(OTHERS)]
    tokens.write_text("\n".join(people))
    pause = round(1000 * CONNECTIONS * BATCH / EVENTS_A_SECOND)
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CONNECTIONS}", "-d1h", "--timeout", "20s"),
        *("-s", str(Path(__file__).with_name("track.lua")), running.url, "--", str(tokens), str(BATCH), str(pause)),
        stdout=asyncio.subprocess.PIPE,
    )
    rates: list[float] = []
    try:
        yield rates
    finally:
        # It then says what it did so far.
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    said = json.loads(output.decode().strip().splitlines()[-1])
    if said["failed"]:
        raise RuntimeError(said)
    rates.append(said["requests"] * BATCH / said["seconds"])


class Client:
    """Somebody who sends and asks over HTTP."""

    def __init__(self, http: httpx.AsyncClient, running: Supervisor) -> None:
        self._http, self._url, self._settings = http, running.url, running.settings

    async def data(self, query: str, user_id: str, **variables: Any) -> Any:
        """The data of an answer that has no errors."""
        token = sign_token(self._settings, user_id=user_id, role=Role.STUDENT, hours=1)
        response = await self._http.post(
            self._url,
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {token}", "User-Agent": BROWSER},
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
    """Seconds from the acknowledgement of an event until the journey shows it, at any time of the second; after three
    minutes no more are tried than two."""
    moments = random.Random(1)
    delays: list[float] = []
    until = perf_counter() + MOST_SECONDS
    for index in range(tries):
        if perf_counter() > until and len(delays) > 1:
            break
        await asyncio.sleep(moments.random())
        name = f"somebody {tries} {index}"
        await client.track(name, some(1))
        acknowledged = perf_counter()
        while await client.started(name) < 1:  # noqa: ASYNC110 - a client has nothing to wait for
            await asyncio.sleep(POLL_SECONDS)
        delays.append(perf_counter() - acknowledged)
    return delays


if __name__ == "__main__":
    asyncio.run(main())
