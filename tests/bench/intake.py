"""How many events are taken and stored a second, how soon they are acknowledged, and with how much memory.

wrk sends over 64 connections for 30 s, and the time goes on until everything is stored. Limit A is a bare ASGI app with
the same group commit, queue and worker; limit B is PostgreSQL's own, storing such rows from one connection.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil
from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.base import connect
from models.viewer import Role
from questlog.database import logins
from questlog.process import spawn
from questlog.settings import PREFIX, Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from tests.bench.home import temporary_home
from tests.bench.storing import rows_a_second
from tests.platform import until
from tests.processes import children, cpu_seconds, peak_memory
from workers.ledger import Ledger, ledger
from workers.queue import open_queue

SECONDS = int(os.environ.get("BENCH_SECONDS", "30"))
CONNECTIONS = 64
ACKNOWLEDGED_MS = 5  # about, at half load: a connection sends again after its pause and that
PEOPLE = 1000
BATCH = 50
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Load:
    """What came of a load: rates a second, latencies in milliseconds, CPU time in microseconds an event."""

    acknowledged: float
    stored: float
    p50: float
    p99: float
    cpu: dict[str, float]


class Bench:
    """A whole installation under load."""

    def __init__(self, running: Supervisor, tokens: Path, engine: AsyncEngine, queue: ArqRedis) -> None:
        self.running, self._tokens, self._engine, self._queue = running, tokens, engine, queue

    async def ledger(self) -> Ledger:
        """The ledger as it stands."""
        async with self._engine.connect() as connection:
            return await ledger(connection, self._queue)

    async def is_at_rest(self) -> bool:
        """Whether everything that was taken is stored."""
        current = await self.ledger()
        return not current.waiting and current.adds_up

    async def load(self, origin: str, api: Sequence[int], batch: int, pause: int = 0) -> Load:
        """Send for some seconds, and wait until everything is stored; raises RuntimeError where an event went wrong."""
        processes = {**self.processes(), "API": api}
        before = await self.ledger()
        used = {pid: cpu_seconds([pid]) for pids in processes.values() for pid in pids}
        began = perf_counter()
        sent = await wrk(f"{origin}/graphql", self._tokens, batch, pause)
        acknowledged = (await self.ledger()).accepted - before.accepted
        await until(self.is_at_rest, seconds=600)
        seconds = perf_counter() - began
        after = await self.ledger()
        if sent["failed"] or after.set_aside or acknowledged < sent["requests"] * batch:
            raise RuntimeError(f"not all of {sent} were taken and stored: {after}")
        return Load(
            sent["requests"] * batch / sent["seconds"],
            (after.stored - before.stored) / seconds,
            sent["p50"],
            sent["p99"],
            {
                # PostgreSQL's own helpers may have ended meanwhile.
                name: sum(cpu_seconds([pid]) - used[pid] for pid in pids if psutil.pid_exists(pid)) * 1e6 / acknowledged
                for name, pids in processes.items()
            },
        )

    def processes(self) -> dict[str, list[int]]:
        """The process ids of each part."""
        servers, worker = self.running.servers, self.running.worker
        if not (servers and worker and servers.postgres.process and servers.valkey.process and worker.process):
            raise RuntimeError("a part of the installation does not run")
        postmaster = servers.postgres.process.pid
        return {
            "API": [api.process.pid for api in self.running.apis if api.process],
            "worker": [worker.process.pid],
            "PostgreSQL": [postmaster, *children(postmaster)],
            "Valkey": [servers.valkey.process.pid],
        }


async def wrk(url: str, tokens: Path, batch: int, pause: int) -> dict[str, float]:
    """What wrk says of its run."""
    script = Path(__file__).with_name("track.lua")
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--timeout", "20s", "-s", str(script), url),
        *("--", str(tokens), str(batch), str(pause)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    said: dict[str, float] = json.loads(output.decode().strip().splitlines()[-1])
    return said


@contextmanager
def bare_app(running: Supervisor) -> Iterator[tuple[str, int]]:
    """Limit A's origin and process id."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    process = spawn(
        [sys.executable, "-m", "tests.bench.bare", str(listener.fileno())],
        env=environ | running.settings.environ(),
        keep=[listener.fileno()],
    )
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        listener.close()


async def main() -> None:
    """Measure, and print a table."""
    if not shutil.which("wrk"):
        sys.exit("the benchmark needs wrk: apt-get install wrk")
    with temporary_home() as home:
        settings = Settings(
            home=home, user_events_per_minute=10**8, device_events_per_minute=10**8, address_events_per_minute=10**9
        )
        async with Supervisor(settings, port=0) as running, measuring(running, home / "tokens") as bench:
            loads = await all_loads(bench)
            limit_b = await rows_a_second(running.servers)
            peaks = {name: max(map(peak_memory, pids)) for name, pids in bench.processes().items()}
    report(loads, limit_b, peaks)


@asynccontextmanager
async def measuring(running: Supervisor, tokens: Path) -> AsyncIterator[Bench]:
    """The bench of an installation, with tokens of all its people."""
    people = [f"pupil {number}" for number in range(PEOPLE)]
    signed = [sign_token(running.settings, user_id=person, role=Role.STUDENT) for person in people]
    tokens.write_text("\n".join(signed))
    engine = connect(logins(running.settings).worker, pool_size=1)
    queue = await open_queue(running.settings.redis_url or "")
    try:
        yield Bench(running, tokens, engine, queue)
    finally:
        await queue.aclose(close_connection_pool=True)
        await engine.dispose()


async def all_loads(bench: Bench) -> dict[str, Load]:
    """Limit A and ours by turns, one event a request and many; then ours at half of what it stored."""
    ours, api = bench.running.url.removesuffix("/graphql"), bench.processes()["API"]
    loads: dict[str, Load] = {}
    with bare_app(bench.running) as (bare, pid):
        for batch in (1, BATCH):
            loads[f"limit A, {batch} a request"] = await bench.load(bare, [pid], batch)
            loads[f"ours, {batch} a request"] = await bench.load(ours, api, batch)
    for batch in (1, BATCH):
        full = loads[f"ours, {batch} a request"]
        pause = max(1, round(2000 * CONNECTIONS * batch / full.stored - ACKNOWLEDGED_MS))
        loads[f"ours at half that load, {batch} a request"] = await bench.load(ours, api, batch, pause)
    return loads


def report(loads: Mapping[str, Load], limit_b: float, peaks: Mapping[str, int]) -> None:
    """Print what was measured."""
    print(f"{'':36}{'acknowledged/s':>15}{'stored/s':>10}{'p50 ms':>9}{'p99 ms':>9}   CPU µs an event")
    for name, load in loads.items():
        cpu = ", ".join(f"{part} {used:.0f}" for part, used in load.cpu.items())
        print(f"{name:36}{load.acknowledged:15,.0f}{load.stored:10,.0f}{load.p50:9.1f}{load.p99:9.1f}   {cpu}")
    print(f"{'limit B, from one connection':36}{'':15}{limit_b:10,.0f}")
    for batch in (1, BATCH):
        ours, limit = loads[f"ours, {batch} a request"], loads[f"limit A, {batch} a request"]
        taken, stored = ours.acknowledged / limit.acknowledged, ours.stored / limit.stored
        print(f"of limit A, {batch} a request: acknowledged {taken:.2f}, stored {stored:.2f}")
    print("peak memory, MiB: " + ", ".join(f"{name} {peak / MEBIBYTE:.0f}" for name, peak in peaks.items()))


if __name__ == "__main__":
    asyncio.run(main())
