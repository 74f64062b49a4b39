"""A week of load in small: what an installation holds after half an hour at 500 events a second, and what of it grew.

`python -m tests.bench.soak` starts an installation of its own in a temporary folder. Every minute it asks for all jobs
of the worker's timetable, also the hourly ones. SOAK_MINUTES and SOAK_RATE (events a second) change how much. Its exit
status is 1 where something grew that must not: the highest value of the last third is held against the second third's.
"""

import asyncio
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import asyncpg
import httpx
from arq.connections import ArqRedis
from sqlalchemy import func, quoted_name, select, table

from models.viewer import Role
from questlog.database import logins
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from tests.bench.home import temporary_home
from tests.files import total_size
from tests.platform import BROWSER, TRACK, UPSERT
from tests.processes import children
from workers.main import create_worker
from workers.queue import open_queue

MINUTES = int(os.environ.get("SOAK_MINUTES", "30"))
RATE = int(os.environ.get("SOAK_RATE", "500"))
BATCH = 20
PEOPLE = 3000
SPOKEN_FOR, STRANGER, LOOKS = 0, 1, 2  # which of ten people
MOST_UNDER_WAY = 64
SAMPLE_SECONDS = 10
MIB = 2**20
GROWING = {
    "user_activity_events", "error_events", "user_sessions", "daily_activity", "daily_contributions",
    "learning_journey_events", "page_view_analytics", "quest_analytics", "badge_analytics",
}  # fmt: skip
"""Tables that hold what happened, or figures of each day: more load, more rows."""
BOUNDS = {"files: WAL": 1100.0}
"""What may grow up to so many MiB: PostgreSQL writes its log anew in `max_wal_size`, which is 1 GiB unless set."""
# What may differ between two thirds of a run that is at rest: how much of the value, and how many MiB or rows.
MEMORY, FILES, ROWS = (0.05, 4), (0.25, 16), (0.25, 500)

ASKED = """
query ($id: ID!) {
  journey(userId: $id) { currentStreak totalXp totalQuestsStarted }
  engagement(userId: $id, days: 30) { activeDays timeOnPlatformHours }
}
"""
TABLES = """
SELECT coalesce(parent.relname, t.relname) AS name, sum(pg_total_relation_size(t.oid)) AS bytes
FROM pg_class t LEFT JOIN pg_inherits i ON i.inhrelid = t.oid LEFT JOIN pg_class parent ON parent.oid = i.inhparent
WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace GROUP BY 1
"""


@dataclass
class Load:
    """People who come back again and again: most with a token, of whom some look at their figures; some without; and
    some through the platform's server."""

    http: httpx.AsyncClient
    url: str
    tokens: Sequence[str]
    service: str
    sent: int = 0
    refused: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def run(self, seconds: float) -> None:
        """Send at an even pace, whatever the answers take, but never have too many requests under way."""
        turns = asyncio.Semaphore(MOST_UNDER_WAY)
        began = monotonic()
        async with asyncio.TaskGroup() as sending:
            for number in range(int(seconds * RATE / BATCH)):
                await asyncio.sleep(began + number * BATCH / RATE - monotonic())
                await turns.acquire()
                sending.create_task(self._send(self._chance.randrange(PEOPLE))).add_done_callback(
                    lambda _: turns.release()
                )

    async def _send(self, person: int) -> None:
        device = str(uuid5(NAMESPACE_OID, str(person)))
        headers: dict[str, str] = {}
        more: dict[str, Any] = {"deviceId": device}
        if person % 10 == SPOKEN_FOR:
            headers = {"authorization": f"Bearer {self.service}"}
            more |= {"userId": name(person), "client": {"userAgent": BROWSER, "ipAddress": f"203.0.113.{person % 256}"}}
        elif person % 10 != STRANGER:
            headers = {"authorization": f"Bearer {self.tokens[person]}"}
        events = [event | more for event in happenings(self._chance)]
        try:
            sent = (await self._ask(TRACK, headers, events=events))["trackEvents"]
            self.sent += sent["accepted"]
            self.refused += sent["rejected"]
            if person % 10 == LOOKS:
                await self._ask(ASKED, headers, id=name(person))
        except (httpx.TransportError, ValueError, RuntimeError) as error:
            print(f"a request went wrong: {error!r}", file=sys.stderr)
            self.refused += BATCH

    async def _ask(self, query: str, headers: dict[str, str], **variables: Any) -> Any:
        body = {"query": query, "variables": variables}
        answer = (await self.http.post(self.url, json=body, headers=headers)).json()
        if "errors" in answer:
            raise RuntimeError(answer["errors"])
        return answer["data"]


def name(person: int) -> str:
    """Their user id."""
    return f"person {person}"


def happenings(chance: random.Random) -> Iterator[dict[str, Any]]:
    """Some events of the last seconds, as `TrackEventInput`."""
    now = datetime.now(UTC)
    for ago in reversed(range(BATCH)):
        quest = {"questId": f"quest {chance.randrange(200)}"}
        kinds = [{"pageView": {"loadTimeMs": chance.randrange(3000)}}] * 5 + [
            {"questViewed": quest}, {"questStarted": quest}, {"tutorOpened": {}}, {"pageExit": {"visibleSeconds": 7.5}},
            {"javascriptError": {"message": "x is not a function"}},
        ]  # fmt: skip
        yield {
            "eventId": str(UUID(int=chance.getrandbits(128), version=4)),
            "occurredAt": (now - timedelta(seconds=ago)).isoformat(),
            "event": chance.choice(kinds),
            "page": {"path": f"/pages/{chance.randrange(100)}"},
        }


@dataclass
class Watch:
    """What an installation holds, looked at again and again: sizes in MiB, all else in rows, keys or events."""

    running: Supervisor
    database: "asyncpg.Connection[asyncpg.Record]"
    queue: ArqRedis
    samples: dict[str, list[float]] = field(default_factory=dict)

    async def look(self) -> Mapping[str, float]:
        """Take one sample of everything."""
        now = {
            **{f"memory: {part}": size for part, size in self._memory()},
            **await self._of_valkey(),
            **await self._of_tables(),
            "files: WAL": total_size((self._servers().postgres.data / "pg_wal").iterdir()) / MIB,
            "files: logs": total_size(self.running.settings.home.glob("*.log")) / MIB,
        }
        for what, value in now.items():
            self.samples.setdefault(what, []).append(value)
        return now

    def _memory(self) -> Iterator[tuple[str, float]]:
        for part in [*self.running.apis, self.running.worker]:
            if part and part.process:
                yield part.name, memory(part.process.pid, "VmRSS")
        if (servers := self.running.servers) and servers.valkey.process and servers.postgres.process:
            yield "Valkey", memory(servers.valkey.process.pid, "VmRSS")
            postmaster = servers.postgres.process.pid
            # Apart from what they share, which fills up to its size.
            yield "PostgreSQL", sum(memory(pid, "RssAnon") for pid in [postmaster, *children(postmaster)])

    async def _of_valkey(self) -> dict[str, float]:
        keys = [key.decode() async for key in self.queue.scan_iter(count=1000)]
        kinds = {"limits": "LIMITS:", "arq's": "arq:", "ours": "questlog:"}
        return {
            "memory: Valkey's data": (await self.queue.info("memory"))["used_memory"] / MIB,
            "files: append-only": total_size((self._servers().valkey.data / "appendonlydir").iterdir()) / MIB,
            **{f"keys: {kind}": sum(key.startswith(prefix) for key in keys) for kind, prefix in kinds.items()},
            "waiting": await self.queue.zcard("arq:queue"),
        }

    async def _of_tables(self) -> dict[str, float]:
        found = {}
        for name, size in await self.database.fetch(TABLES):
            found[f"table: {name}"] = float(size) / MIB
            if name not in GROWING:
                rows = select(func.count()).select_from(table(quoted_name(name, quote=True)))
                found[f"rows: {name}"] = await self.database.fetchval(str(rows))
        return found

    def _servers(self) -> Any:
        return self.running.servers


def grown(samples: Mapping[str, Sequence[float]]) -> list[str]:
    """What is higher in the last third than it was in the second, and must not be, in words."""
    return [
        f"{what}: up to {before:,.1f} in the second third, and {after:,.1f} in the last"
        for what, (before, after) in thirds(samples).items()
        if what.removeprefix("table: ") not in GROWING and after > allowed(what, before)
    ]


def thirds(samples: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The highest values of the second and of the last third."""
    found = {}
    for what, values in samples.items():
        third = len(values) // 3
        found[what] = max(values[third : 2 * third]), max(values[2 * third :])
    return found


def allowed(what: str, before: float) -> float:
    """How high something may be after it was so high before."""
    if what in BOUNDS:
        return BOUNDS[what]
    kind = what.partition(":")[0]
    share, more = MEMORY if kind == "memory" else FILES if kind in {"files", "table"} else ROWS
    return before * (1 + share) + more


def memory(pid: int, kind: str) -> float:
    """What the kernel says of a process's memory, in MiB; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{kind}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0


async def main() -> bool:
    """Run, print a line a minute and the verdict; whether nothing grew that must not."""
    with temporary_home() as home:
        async with (
            Supervisor(Settings(home=home), port=0) as running,
            httpx.AsyncClient(timeout=60, headers={"user-agent": BROWSER}) as http,
        ):
            assert running.servers
            queue = await open_queue(running.servers.redis_url)
            database = await asyncpg.connect(running.servers.superuser_url)
            load = await arrived(running, http)
            watch = Watch(running, database, queue)
            timetable = timetable_of(running)
            sending = asyncio.create_task(load.run(MINUTES * 60))
            try:
                await watched(watch, load, sending, queue, timetable)
            finally:
                sending.cancel()
                await database.close()
                await queue.aclose(close_connection_pool=True)
    return verdict(watch, load)


async def arrived(running: Supervisor, http: httpx.AsyncClient) -> Load:
    """The people, made known."""
    sign = {"hours": 24.0}
    service = sign_token(running.settings, user_id="platform", role=Role.SERVICE, **sign)
    tokens = [sign_token(running.settings, user_id=name(each), role=Role.STUDENT, **sign) for each in range(PEOPLE)]
    for start in range(0, PEOPLE, 100):
        users = [{"userId": name(each), "role": "STUDENT"} for each in range(start, start + 100)]
        body = {"query": UPSERT, "variables": {"users": users}}
        (await http.post(running.url, json=body, headers={"authorization": f"Bearer {service}"})).raise_for_status()
    return Load(http, running.url, tokens, service)


def timetable_of(running: Supervisor) -> list[str]:
    """The names under which arq knows the jobs of the timetable."""
    settings = running.settings
    worker = create_worker(
        logins(settings).worker,
        settings.redis_url or "",
        anonymize_after_days=settings.anonymize_after_days,
        erasure_key=settings.erasure_key,
        handle_signals=False,
    )
    return [job.name for job in worker.cron_jobs]


async def watched(
    watch: Watch, load: Load, sending: asyncio.Task[None], queue: ArqRedis, timetable: Sequence[str]
) -> None:
    """Look at everything until the load is over."""
    shown = [
        "memory: api-1", "memory: worker", "memory: Valkey", "memory: PostgreSQL", "files: append-only",
        "table: user_activity_events", "table: dirty_spans", "rows: dirty_spans", "rows: stored_batches",
        "keys: limits", "waiting",
    ]  # fmt: skip
    print("minute  events/s  " + "  ".join(shown), flush=True)
    minute = sent = 0
    began = monotonic()
    while not sending.done():
        await asyncio.wait([sending], timeout=SAMPLE_SECONDS)
        now = await watch.look()
        if monotonic() - began >= (minute + 1) * 60:
            minute += 1
            for job in timetable:
                await queue.enqueue_job(job, _job_id=f"{job} {uuid4().hex}")
            values = "  ".join(f"{now[what]:>{len(what)},.0f}" for what in shown)
            print(f"{minute:>6}  {(load.sent - sent) / 60:>8,.0f}  {values}", flush=True)
            sent = load.sent
    await sending


def verdict(watch: Watch, load: Load) -> bool:
    """Print what everything came to, and say whether nothing grew that must not."""
    print(f"\n{'highest of':44}{'second third':>14}{'last third':>14}")
    for what, (before, after) in sorted(thirds(watch.samples).items()):
        print(f"{what:44}{before:>14,.1f}{after:>14,.1f}")
    print(f"\n{load.sent:,} events were accepted, {load.refused:,} refused, in {MINUTES} minutes.")
    wrong = grown(watch.samples)
    print("\n".join(["Grown:", *wrong]) if wrong else "Nothing grew that must not.")
    return not wrong and not load.refused


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
