"""How fast a parent's nested journey and an admin's page of students at risk are answered, in schools of two sizes.

wrk asks over 1 and 16 connections, each time with the next parent's token, in turns the one school and the other: what
the machine does beside it hits both. The limit is one statement that gives the
same answer as JSON, by the admin's login through asyncpg: every answer of both is held against the other before.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from math import isclose
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from unittest.mock import patch

import asyncpg
import httpx
import uvloop
from sqlalchemy import Executable, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.routing import Route

from models.partition import KEEP_PARTITIONS
from models.viewer import Role, Viewer
from questlog.app import Api, create_app
from questlog.database import logins
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from resolvers.prepared import Prepared
from resolvers.reader import AnyRow, Reader
from resolvers.request import Request
from tests.bench import limit
from tests.bench.home import temporary_home
from tests.bench.school import PARENTS, grow
from tests.platform import browser
from tests.processes import peak_memory, seconds_run
from tests.statements import Statement, sent_through

LEARNERS = int(os.environ.get("BENCH_LEARNERS", "50000"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
TURNS = 3
CONNECTIONS = (1, 16)
MEBIBYTE = 2**20
PROFILED = 20
REPEATS = 5
MINUTES_TO_GROW = 10
MOST_TIME_AT_TEN_TIMES_THE_EVENTS = 1.3
MOST_P99 = 3
LEAST_SHARE = 0.5
MOST_MEMORY = 250 * MEBIBYTE
# With the time to write the rows as they are sent.
EXPLAIN = "EXPLAIN (ANALYZE, TIMING OFF, SERIALIZE BINARY, FORMAT JSON) "
# Of these an index chooses the rows; all other ways read everything that there is.
BY_INDEX = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}

JOURNEY = """
    journey {
      firstQuestDate totalQuestsStarted totalQuestsCompleted currentStreak badgesEarned timeOnPlatformHours
      favoritePillar xpByPillar { pillar xp } totalXp rhythm
    }
"""
EVENTS = "{ nodes { eventId type occurredAt pagePath data } }"
OF_A_PARENT = f"{{ viewer {{ children {{ userId displayName {JOURNEY} events(first: 10) {EVENTS} }} }} }}"
AT_RISK = f"""
{{
  atRiskStudents(first: 50) {{
    nodes {{
      user {{
        userId displayName
        engagement {{
          activeDays visitDays sessions medianSessionMinutes timeOnPlatformHours logins questsStarted questsCompleted
          completionRate currentStreak longestStreak lastActiveOn
        }}
        {JOURNEY} events(first: 5) {EVENTS} guardians {{ userId displayName }}
      }}
      risk {{ score engagementLevel factors {{ name value evidence }} assessedAt }}
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Question:
    """What is asked, by whom, and the statement that answers it alone, which gets the asker's id where it wants one.
    `levels` are the statements that it may cost: one a nested level, and one that tells PostgreSQL who asks."""

    name: str
    query: str
    role: Role
    askers: Sequence[str]
    limit: str
    levels: int

    @property
    def body(self) -> bytes:
        """The request's."""
        return json.dumps({"query": self.query}).encode()

    def arguments(self, asker: str) -> list[str]:
        """The statement's."""
        return [asker] if "$1" in self.limit else []


@dataclass(frozen=True)
class Load:
    """What came of a load: requests a second, latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass
class Profile:
    """Where the time of the loaders goes, in milliseconds a request: in making statements and reading rows, in
    `Reader.rows`, and of the latter in PostgreSQL: as it explains itself, and for how long its process ran. It plans a
    statement again where it explains it, but not always where it was prepared, and does not explain what it takes to
    receive and to send. `scans` are the ways in which events were read but by an index."""

    statements: int
    levels: int
    scans: set[str]
    own: float
    rows: float
    executing: float
    planning: float
    ran: float

    @property
    def shares(self) -> dict[str, float]:
        """PostgreSQL's, by how it was found."""
        loaders = self.own + self.rows
        return {"by EXPLAIN": (self.executing + self.planning) / loaders, "by its process": self.ran / loaders}


@dataclass
class School:
    """A school of one size, and what was measured of it."""

    running: Supervisor
    pool: asyncpg.Pool
    events: int
    loads: dict[tuple[str, int], tuple[Load, Load]] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    peak: int = 0


async def main() -> None:
    """Measure, and print a table."""
    if not shutil.which("wrk"):
        sys.exit("the benchmark needs wrk: apt-get install wrk")
    with temporary_home() as home, temporary_home() as big_home:
        await grow(Settings(home=home), LEARNERS // 10)
        began = perf_counter()
        await grow(Settings(home=big_home), LEARNERS)
        seconds = perf_counter() - began
        async with school_in(home) as small, school_in(big_home) as big:
            for question, connections in product(QUESTIONS, CONNECTIONS):
                await measure_in_turns([small, big], question, connections)
        for school in (small, big):
            report(school)
    compare(small, big)
    for goal, is_met in goals(small, big, seconds):
        print(f"{'met' if is_met else 'MISSED':8}{goal}")


QUESTIONS = [
    Question("a parent's journey", OF_A_PARENT, Role.PARENT, PARENTS, limit.OF_A_PARENT, 4),
    Question("students at risk", AT_RISK, Role.ADMIN, ["admin"], limit.AT_RISK, 5),
]


@asynccontextmanager
async def school_in(home: Path) -> AsyncIterator[School]:
    """A real installation, and beside it the database alone; profiled in the end."""
    async with Supervisor(Settings(home=home, cost_restore_rate=0), port=0) as running:
        async with asyncpg.create_pool(logins(running.settings).admin, min_size=1, max_size=max(CONNECTIONS)) as pool:
            school = School(running, pool, await pool.fetchval("SELECT count(*) FROM user_activity_events"))
            for question in QUESTIONS:
                await hold_against_limit(running, question, pool)
            yield school
            (api,) = running.apis
            assert api.process
            school.peak = peak_memory(api.process.pid)
        for question in QUESTIONS:
            school.profiles[question.name] = await profile(running.settings, question)


async def measure_in_turns(schools: Sequence[School], question: Question, connections: int) -> None:
    """Ask each school for a while, then its database alone, and all of it again; keeps of both the middle."""
    loads = [
        [
            (await ask(school, question, connections), await run_limit(school.pool, question, connections))
            for school in schools
        ]
        for _ in range(TURNS)
    ]
    for school, of_school in zip(schools, zip(*loads, strict=True), strict=True):
        ours, theirs = zip(*of_school, strict=True)
        school.loads[question.name, connections] = (middle(ours), middle(theirs))


def middle(loads: Sequence[Load]) -> Load:
    """That of the middle rate."""
    return sorted(loads, key=lambda load: load.rate)[len(loads) // 2]


async def hold_against_limit(running: Supervisor, question: Question, pool: asyncpg.Pool) -> None:
    """Ask as everybody once; raises RuntimeError where the limit's answer is another, or there is nothing to tell."""
    async with httpx.AsyncClient(timeout=60) as http:
        for asker in question.askers:
            token = sign_token(running.settings, user_id=asker, role=question.role)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            answer = (await http.post(running.url, content=question.body, headers=headers)).json()
            theirs = json.loads(await pool.fetchval(question.limit, *question.arguments(asker)))
            if "errors" in answer or '"eventId"' not in json.dumps(answer):
                raise RuntimeError(f"{question.name}: {answer}")
            hold_against(answer["data"], theirs, question.name)


def hold_against(ours: Any, theirs: Any, place: str) -> None:
    """Raises RuntimeError that names the field where two answers differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for name, value in ours.items():
            hold_against(value, theirs[name], f"{place}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, value in enumerate(ours):
            hold_against(value, theirs[index], f"{place}[{index}]")
    elif not (ours == theirs or same_number(ours, theirs) or same_moment(ours, theirs)):
        raise RuntimeError(f"{place} is {ours!r}, and the limit says {theirs!r}")


def same_number(ours: Any, theirs: Any) -> bool:
    """Whether both are the same number, but for the last digits of a fraction."""
    return isinstance(ours, float) and isinstance(theirs, int | float) and isclose(ours, theirs, rel_tol=1e-9)


def same_moment(ours: Any, theirs: Any) -> bool:
    """Whether both are the same time, in whatever notation."""
    try:
        return datetime.fromisoformat(ours) == datetime.fromisoformat(theirs)
    except (TypeError, ValueError):
        return False


async def ask(school: School, question: Question, connections: int) -> Load:
    """What wrk says; raises RuntimeError where an answer was none."""
    settings = school.running.settings
    tokens, body = settings.home / "tokens", settings.home / "body"
    tokens.write_text("\n".join(sign_token(settings, user_id=asker, role=question.role) for asker in question.askers))
    body.write_bytes(question.body)
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "20s"),
        *("-s", str(Path(__file__).with_name("ask.lua")), school.running.url, "--", str(tokens), str(body)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    said = json.loads(output.decode().strip().splitlines()[-1])
    if said["failed"]:
        raise RuntimeError(f"{question.name}: {said}")
    return Load(said["requests"] / said["seconds"], said["p50"], said["p99"])


async def run_limit(pool: asyncpg.Pool, question: Question, connections: int) -> Load:
    """The statement over and over again, on so many connections."""
    until = perf_counter() + SECONDS

    async def over_and_over(number: int) -> list[float]:
        seconds: list[float] = []
        async with pool.acquire() as connection:
            while (began := perf_counter()) < until:
                asker = question.askers[(number + connections * len(seconds)) % len(question.askers)]
                await connection.fetchval(question.limit, *question.arguments(asker))
                seconds.append(perf_counter() - began)
        return seconds

    took = [each for of_one in await asyncio.gather(*map(over_and_over, range(connections))) for each in of_one]
    return Load(len(took) / SECONDS, median(took) * 1000, quantiles(took, n=100)[-1] * 1000)


async def profile(settings: Settings, question: Question) -> Profile:
    """Where the loaders' time goes, of requests one after the other in this process.

    Meanwhile other resolvers run, so that what `Reader.rows` takes is told by sending the same statements again, with
    nothing beside.
    """
    app = create_app(settings)
    api = next(each.endpoint for each in app.routes if isinstance(each, Route) and isinstance(each.endpoint, Api))
    # The first requests fill pools, caches and prepared statements.
    askers = [question.askers[number % len(question.askers)] for number in range(3 * PROFILED)]
    loaded: list[tuple[float, float, float, tuple[float, float]]] = []
    most = 0
    scans: set[str] = set()
    async with app.router.lifespan_context(app), browser(app) as client:
        engine = api.databases.admin if question.role is Role.ADMIN else api.databases.viewer
        async with engine.connect() as connection:  # the only one, since one after the other asks
            backend = await connection.scalar(select(func.pg_backend_pid())) or 0
        for number, asker in enumerate(askers):
            token = sign_token(settings, user_id=asker, role=question.role)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            with loading() as loads, sent_through(engine, but=(KEEP_PARTITIONS,)) as sent:
                (await client.post("/graphql", content=question.body, headers=headers)).raise_for_status()
            most = max(most, len(sent))
            before = seconds_run(backend)
            rows = await seconds_again(Reader(api.databases, Viewer(question.role, asker)), loads.statements)
            ran = seconds_run(backend) - before
            if number >= 2 * PROFILED:
                loaded.append((loads.own, rows, ran, await explain(engine, sent, scans)))
    return Profile(
        statements=most,
        levels=question.levels,
        scans=scans,
        own=median(own for own, *_ in loaded) * 1000,
        rows=median(rows for _, rows, *_ in loaded) * 1000,
        executing=median(executing for *_, (executing, _) in loaded),
        planning=median(planning for *_, (_, planning) in loaded),
        ran=median(ran for _, _, ran, _ in loaded) * 1000,
    )


@dataclass
class Loads:
    """The statements of a request, and the seconds that its loaders take apart from waiting for rows."""

    statements: list[tuple[Executable | Prepared, dict[str, object]]] = field(default_factory=list)
    own: float = 0.0


@contextmanager
def loading() -> Iterator[Loads]:
    """What requests load meanwhile."""
    loads = Loads()
    loader, rows = Request.loader, Reader.rows
    tasks: set[object] = set()

    async def timed_rows(reader: Reader, statement: Executable | Prepared, **parameters: object) -> list[AnyRow]:
        began = perf_counter()
        found = await rows(reader, statement, **parameters)
        loads.statements.append((statement, parameters))
        if asyncio.current_task() in tasks:
            loads.own -= perf_counter() - began
        return found

    def timed_loader(request: Request, load: Any, key: object = None) -> Any:
        async def timed(request: Request, keys: Sequence[Any]) -> list[Any]:
            tasks.add(asyncio.current_task())
            began = perf_counter()
            found: list[Any] = await load(request, keys)
            loads.own += perf_counter() - began
            return found

        return loader(request, timed, key or load)

    with patch.object(Reader, "rows", timed_rows), patch.object(Request, "loader", timed_loader):
        yield loads


async def seconds_again(reader: Reader, statements: Sequence[tuple[Executable | Prepared, dict[str, object]]]) -> float:
    """How long the reader takes for all rows of these statements."""
    began = perf_counter()
    for statement, parameters in statements:
        await reader.rows(statement, **parameters)
    seconds = perf_counter() - began
    await reader.close()
    return seconds


async def explain(engine: AsyncEngine, sent: Sequence[Statement], scans: set[str]) -> tuple[float, float]:
    """The milliseconds that PostgreSQL needs to execute the statements of a request, and to plan them; adds how events
    are read but by an index."""
    plans: list[list[Any]] = [[] for _ in sent]
    async with engine.connect() as connection:
        # In turn, as requests send them: over and over again the same one would find everything at hand.
        for _ in range(REPEATS):
            for (statement, parameters), of_one in zip(sent, plans, strict=True):
                of_one.append(await plan_of(connection, statement, parameters))
    for table, how in (read for of_one in plans for read in reads(of_one[-1]["Plan"])):
        if table.startswith("user_activity_events") and how not in BY_INDEX:
            scans.add(f"{how} on {table}")
    executing, planning = (
        sum(median(plan[f"{what} Time"] for plan in of_one) for of_one in plans) for what in ("Execution", "Planning")
    )
    return executing, planning


async def plan_of(connection: AsyncConnection, statement: str, parameters: Any) -> Any:
    """How PostgreSQL executes the statement, and how long that takes."""
    said = (await connection.exec_driver_sql(EXPLAIN + statement, parameters)).scalar_one()
    (plan,) = json.loads(said) if isinstance(said, str) else said
    return plan


def reads(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each table that a plan reads, and how."""
    if "Relation Name" in plan:
        yield plan["Relation Name"], plan["Node Type"]
    for below in plan.get("Plans", []):
        yield from reads(below)


def report(measured: School) -> None:
    """Print what was measured of a school."""
    print(
        f"{f'{measured.events:,} events':36}{'requests/s':>11}{'limit':>9}{'ratio':>7}"
        f"{'p50 ms':>9}{'p99 ms':>9}{'p99/p50':>9}"
    )
    for (name, connections), (ours, theirs) in measured.loads.items():
        print(
            f"{f'{name}, {connections} at once':36}{ours.rate:11.1f}{theirs.rate:9.1f}{ours.rate / theirs.rate:7.2f}"
            f"{ours.p50:9.1f}{ours.p99:9.1f}{ours.p99 / ours.p50:9.1f}"
        )
    for name, took in measured.profiles.items():
        print(
            f"{name}: {took.statements} statements; loaders take {took.own:.1f} ms, and {took.rows:.1f} ms for"
            f" rows,\nof which PostgreSQL executes for {took.executing:.1f} ms and plans for {took.planning:.1f} ms,"
            f" and its process runs for {took.ran:.1f} ms:"
            f" its share is {' and '.join(f'{share:.2f} {how}' for how, share in took.shares.items())}"
        )
    print(f"peak memory of the API: {measured.peak / MEBIBYTE:.0f} MiB", flush=True)


def compare(small: School, big: School) -> None:
    """Print what ten times as many events cost."""
    for (name, connections), (ours, theirs) in big.loads.items():
        before, limit_before = small.loads[name, connections]
        print(
            f"{name}, {connections} at once: {before.rate / ours.rate:.2f} times the time at ten times the events"
            f" (the limit {limit_before.rate / theirs.rate:.2f})"
        )


def goals(small: School, big: School, seconds: float) -> Iterator[tuple[str, bool]]:
    """Each goal with what was measured, and whether it is met."""
    yield f"the school has grown in {seconds / 60:.1f} of {MINUTES_TO_GROW} minutes", seconds < 60 * MINUTES_TO_GROW
    for name, took in big.profiles.items():
        for how, share in took.shares.items():
            yield (
                f"{name}: PostgreSQL's share of the loaders' time is {share:.2f} {how}, more than {LEAST_SHARE}",
                share > LEAST_SHARE,
            )
        yield f"{name}: {took.statements} statements, at most {took.levels}", took.statements <= took.levels
        yield f"{name}: events are read by an index alone {', '.join(sorted(took.scans))}".rstrip(), not took.scans
    for (name, connections), (ours, _) in big.loads.items():
        asked = f"{name}, {connections} at once"
        cost = small.loads[name, connections][0].rate / ours.rate
        yield (
            f"{asked}: {cost:.2f} times the time at ten times the events, at most {MOST_TIME_AT_TEN_TIMES_THE_EVENTS}",
            cost <= MOST_TIME_AT_TEN_TIMES_THE_EVENTS,
        )
        yield (
            f"{asked}: p99 is {ours.p99 / ours.p50:.1f} times p50, at most {MOST_P99}",
            ours.p99 <= MOST_P99 * ours.p50,
        )
    peak = max(small.peak, big.peak)
    yield f"the API's peak memory is {peak / MEBIBYTE:.0f} MiB, below {MOST_MEMORY // MEBIBYTE}", peak < MOST_MEMORY


if __name__ == "__main__":
    uvloop.run(main())  # as the API does
