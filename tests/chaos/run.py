"""A whole installation under load while its servers are killed, stopped, slowed and restarted: is everything right in
the end?

`python -m tests.chaos.run SEEDS [FIRST]` runs so many seeds from the first on, prints a line for each, and says last
how many were right.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base import connect
from questlog.app import create_app
from questlog.database import logins
from questlog.settings import Settings
from questlog.supervisor import Child, Supervisor, keep_running
from tests import recomputation
from tests.chaos.load import Load, Sending, load_of
from tests.chaos.plan import SECONDS_OF_FAULTS, Fault, Kind, Part, Plan, plan_of
from tests.platform import BROWSER, TRACK, Platform, until
from tests.processes import children
from tests.recomputation import History, differences
from tests.walks.test_figures import wrong
from workers.ledger import Ledger, ledger
from workers.queue import queue_at

CLIENTS = 16
SECONDS_OF_A_CLIENT = 20  # then it believes that its request is lost
SECONDS_TO_SETTLE = 240
TRACK_ONE = """
mutation ($event: TrackEventInput!) { trackEvent(input: $event) {
  accepted rejected receivedAt userErrors { index eventId field code message } } }
"""
REFUSED = {"TOO_OLD", "UNKNOWN_USER"}
PASSING = {"UNAVAILABLE", "RATE_LIMITED"}
DEVICE_SESSIONS = """
SELECT started_at, ended_at, user_sessions.events, page_views, is_bounce, entry_path, exit_path
FROM user_sessions JOIN devices USING (subject_key) WHERE devices.device_id = :device_id ORDER BY started_at DESC
"""


@dataclass
class Outcome:
    """What became of a run; right where `wrong` is empty."""

    seed: int
    plan: Plan
    tries: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    ledger: Ledger | None = None
    seconds_to_settle: float = 0

    def __str__(self) -> str:
        faults = Counter(fault.kind for fault in self.plan.faults)
        parts = [
            f"seed {self.seed}: {'WRONG' if self.wrong else 'right'}",
            f"{self.plan.apis} API, {self.plan.workers} worker",
            " ".join(f"{number} {kind}" for kind, number in sorted(faults.items())),
            f"{len(self.acknowledged)} events acknowledged in {self.tries['requests']} requests",
            f"{self.tries['lost']} lost, {self.tries['refused for now']} refused for now",
        ]
        if self.ledger:
            counted = {name: getattr(self.ledger, name) for name in ("duplicate", "withdrawn", "set_aside")}
            parts.append(" ".join(f"{number} {name.replace('_', ' ')}" for name, number in counted.items()))
        return "; ".join([*parts, f"settled after {self.seconds_to_settle:.0f} s"])

    def report(self) -> str:
        """Everything that is needed to understand what went wrong, and to run it again."""
        return "\n".join(
            [
                str(self),
                f"again: python -m tests.chaos.run 1 {self.seed}",
                *map(str, self.plan.faults),
                *self.wrong[:20],
            ]
        )


async def run(seed: int, home: Path) -> Outcome:
    """Run one seed on an installation of its own, whose data go with it."""
    outcome = Outcome(seed, plan_of(seed))
    load = load_of(seed, datetime.now(UTC))
    try:
        async with (
            Supervisor(Settings(home=home), port=0, workers=outcome.plan.apis) as running,
            more_workers(running, outcome.plan.workers - 1) as workers,
            platform_of(running) as platform,
        ):
            await platform.upsert(
                *({"userId": each.user_id, "role": "STUDENT", "timeZone": each.time_zone} for each in load.learners)
            )
            victims = Victims(running, workers)
            async with asyncio.TaskGroup() as tasks:
                for fault in outcome.plan.faults:
                    tasks.create_task(victims.suffer(fault))
                tasks.create_task(send_all(platform, load.sendings, outcome))
            began = time.monotonic()
            await settle(running, platform, outcome)
            outcome.seconds_to_settle = time.monotonic() - began
            outcome.wrong += [line async for line in faults_of(platform, running, load, outcome)]
    finally:
        shutil.rmtree((home / "servers").resolve())
    return outcome


@contextlib.asynccontextmanager
async def more_workers(running: Supervisor, number: int) -> AsyncIterator[list[Child]]:
    """So many workers beside the first, watched as that one is; with it, the list of all."""
    first = running.worker
    assert first
    more = [Child(f"worker {index + 2}", first.arguments, first.environ) for index in range(number)]
    for child in more:
        await child.start()
    watches = [asyncio.create_task(keep_running(child)) for child in more]
    try:
        yield [first, *more]
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in more))


@contextlib.asynccontextmanager
async def platform_of(running: Supervisor) -> AsyncIterator[Platform]:
    """The installation as tests see one, though the API is in other processes."""
    assert running.servers
    urls = logins(running.settings)
    superuser, worker = connect(running.servers.superuser_url, pool_size=2), connect(urls.worker, pool_size=2)
    async with httpx.AsyncClient(
        base_url=running.url.removesuffix("/graphql"),
        headers={"user-agent": BROWSER},
        timeout=SECONDS_OF_A_CLIENT,
        trust_env=False,
    ) as client:
        yield Platform(running.settings, urls, superuser, worker, client, create_app(running.settings))
    await superuser.dispose()
    await worker.dispose()


@dataclass
class Victims:
    """The installation's processes."""

    running: Supervisor
    workers: Sequence[Child]

    async def suffer(self, fault: Fault) -> None:
        """Wait until it is time for the fault, and let it happen to the processes that are there then."""
        await asyncio.sleep(fault.at)
        pids, ending = self._processes(fault)
        match fault.kind:
            case Kind.KILL:
                _signal(pids, signal.SIGKILL)
            case Kind.RESTART:
                _signal(pids[:1], ending)
            case Kind.STOP:
                await _standstill(pids, fault.seconds)
            case Kind.SLOW:
                until = time.monotonic() + fault.seconds
                while time.monotonic() < until:
                    await _standstill(pids, 0.06)
                    await asyncio.sleep(0.03)

    def _processes(self, fault: Fault) -> tuple[list[int], signal.Signals]:
        servers = self.running.servers
        assert servers
        if fault.part in (Part.API, Part.WORKER):
            parts = self.running.apis if fault.part == Part.API else self.workers
            pids = [part.process.pid for part in parts if part.process and part.process.poll() is None]
            return (pids if fault.all_processes else pids[:1]), signal.SIGTERM
        server = servers.valkey if fault.part == Part.VALKEY else servers.postgres
        pids = [server.process.pid] if server.process and server.process.poll() is None else []
        if fault.all_processes:
            pids += [child for pid in pids for child in children(pid)]
        return pids, server.stop_signal


def _signal(pids: Sequence[int], which: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)


async def _standstill(pids: Sequence[int], seconds: float) -> None:
    _signal(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        _signal(pids, signal.SIGCONT)


async def send_all(platform: Platform, sendings: Sequence[Sending], outcome: Outcome) -> None:
    """Send everything, spread over the time of the faults, each request until it is acknowledged."""
    began, left = time.monotonic(), iter(enumerate(sendings))

    async def send_some() -> None:
        for index, sending in left:
            await asyncio.sleep(began + SECONDS_OF_FAULTS * index / len(sendings) - time.monotonic())
            await send(platform, sending, outcome)

    await asyncio.gather(*(send_some() for _ in range(CLIENTS)))


async def send(platform: Platform, sending: Sending, outcome: Outcome) -> None:
    """Send one request until it is acknowledged."""
    alone = len(sending.events) == 1
    variables = {"event": sending.events[0]} if alone else {"events": sending.events}
    body = {"query": TRACK_ONE if alone else TRACK, "variables": variables}
    headers = {"authorization": f"Bearer {platform.token(*sending.asker)}"} if sending.asker else {}
    while True:
        outcome.tries["requests"] += 1
        try:
            response = await platform.client.post("/graphql", json=body, headers=headers)
        except httpx.TransportError as error:
            outcome.tries["lost"] += 1
            outcome.tries[type(error).__name__] += 1
            await asyncio.sleep(0.2)
            continue
        pause = understand(response, sending, outcome)
        if pause is None:
            return
        await asyncio.sleep(pause)


def understand(response: httpx.Response, sending: Sending, outcome: Outcome) -> float | None:
    """What the answer says: None that the request is done with, else in how many seconds to send it again."""
    try:
        answer: dict[str, Any] = response.json()
    except ValueError:
        outcome.wrong.append(f"answered {response.status_code} {response.text[:200]!r}")
        return None
    if errors := answer.get("errors"):
        extensions = errors[0]["extensions"]
        if extensions["code"] not in PASSING or not extensions["retryAfterMs"] > 0:
            outcome.wrong.append(f"answered {errors}")
            return None
        outcome.tries["refused for now"] += 1
        return float(extensions["retryAfterMs"]) / 1000
    (payload,) = answer["data"].values()
    refused = {error["eventId"]: error["code"] for error in payload["userErrors"]}
    if payload["accepted"] + len(payload["userErrors"]) != len(sending.events) or not REFUSED.issuperset(
        refused.values()
    ):
        outcome.wrong.append(f"{len(sending.events)} events were answered {payload}")
    outcome.acknowledged |= {event["eventId"] for event in sending.events} - refused.keys()
    return None


async def settle(running: Supervisor, platform: Platform, outcome: Outcome) -> None:
    """Return once nothing waits and nothing is dirty, or where that lasts too long."""
    queue = queue_at(running.settings.redis_url or "")

    async def settled() -> bool:
        try:
            outcome.ledger = await read_ledger(platform, queue)
            jobs = [job for job in await queue.zrange("arq:queue", 0, -1) if not job.startswith(b"cron:")]
            return not jobs and not outcome.ledger.waiting and not await platform.dirty() and await platform.assessed()
        except (OSError, RedisError, DBAPIError):
            return False

    try:
        await until(settled, SECONDS_TO_SETTLE)
    except TimeoutError:
        outcome.wrong.append(f"something still waits after {SECONDS_TO_SETTLE} s: {outcome.ledger}")
    finally:
        await queue.aclose(close_connection_pool=True)


async def read_ledger(platform: Platform, queue: ArqRedis) -> Ledger:
    """The ledger as it stands."""
    async with platform.worker_engine.connect() as connection:
        return await ledger(connection, queue)


async def faults_of(platform: Platform, running: Supervisor, load: Load, outcome: Outcome) -> AsyncIterator[str]:
    """Whatever is not as it must be."""
    async with platform.superuser.connect() as connection:
        rows = await connection.execute(text("SELECT event_id::text FROM user_activity_events"))
        stored = Counter(rows.scalars())
    for line in wrong_events(stored, load, outcome):
        yield line
    for history in load.learners:
        for line in await wrong(platform, history):
            yield f"{history.user_id}: {line}"
    for history in load.devices:
        for line in await wrong_sessions(platform, history):
            yield f"device {history.events[0].device_id}: {line}"
    assert running.servers
    if "deadlock detected" in running.servers.postgres.log.read_text():
        yield "PostgreSQL found a deadlock"


def wrong_events(stored: Counter[str], load: Load, outcome: Outcome) -> Iterator[str]:
    """Where the ids in the table are not those that were acknowledged, or the ledger does not add up to them."""
    must = outcome.acknowledged - load.withheld
    if must != load.ids:
        yield f"{len(load.ids - must)} events were never acknowledged"
    if lost := must - stored.keys():
        yield f"{len(lost)} acknowledged events are not stored, such as {min(lost)}"
    if unknown := stored.keys() - load.ids:
        yield f"{len(unknown)} events are stored that must not be, such as {min(unknown)}"
    if twice := [event_id for event_id, number in stored.items() if number > 1]:
        yield f"{len(twice)} events are stored more than once, such as {min(twice)}"
    if not outcome.ledger or not outcome.ledger.adds_up or outcome.ledger.stored != stored.total():
        yield f"the ledger does not add up to {stored.total()} events: {outcome.ledger}"


async def wrong_sessions(platform: Platform, device: History) -> list[str]:
    """Where the sessions kept of a device differ from the recomputation."""
    expected = recomputation.sessions(device, datetime.now(UTC))
    async with platform.superuser.connect() as connection:
        rows = await connection.execute(text(DEVICE_SESSIONS), {"device_id": device.events[0].device_id})
        kept = [
            {
                "startedAt": row.started_at.isoformat(),
                "endedAt": row.ended_at.isoformat(),
                "events": row.events,
                "pageViews": row.page_views,
                "isBounce": row.is_bounce,
                "entryPath": row.entry_path,
                "exitPath": row.exit_path,
            }
            for row in rows
        ]
    return differences(expected, kept, "sessions")


async def main(seeds: int, first: int = 1) -> int:
    """Run the seeds; gives how many were wrong."""
    wrong_ones = []
    for seed in range(first, first + seeds):
        with tempfile.TemporaryDirectory(prefix="questlog-chaos-") as home:
            outcome = await run(seed, Path(home) / "home")
        print(outcome.report() if outcome.wrong else outcome, flush=True)
        wrong_ones += [seed] if outcome.wrong else []
    print(f"{seeds - len(wrong_ones)} of {seeds} seeds right" + "".join(f"; {seed} wrong" for seed in wrong_ones))
    return len(wrong_ones)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*map(int, sys.argv[1:]))))
