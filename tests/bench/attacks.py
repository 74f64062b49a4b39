"""What attacks cost: how long the API takes over each of them, and how much its memory grows."""

import asyncio
from pathlib import Path
from time import perf_counter

import httpx

from models.viewer import Role
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from tests.attacks import ATTACKS
from tests.bench.home import temporary_home
from tests.processes import cpu_seconds, peak_memory

TIMES = 5
MEBIBYTE = 2**20


async def main() -> None:
    """Attack an installation with everything, and print a table, what took longest first."""
    with temporary_home() as home:
        settings = Settings(home=home, cost_restore_rate=0, log_level="error")
        async with Supervisor(settings, port=0) as running, httpx.AsyncClient(timeout=60) as http:
            (api,) = running.apis
            assert api.process
            token = sign_token(running.settings, user_id="admin", role=Role.ADMIN)
            http.headers.update({"authorization": f"Bearer {token}", "content-type": "application/json"})
            # What every request needs is there, as it is after a minute of ordinary ones.
            for _ in range(100):
                await attacked(http, running.url, b'{"query": "{ users { nodes { id } } }"}')
            found = [await measured(http, running.url, api.process.pid, name) for name in ATTACKS]
    print(f"{'':45}{'ms':>8}{'CPU ms':>9}{'MiB more':>10}")
    for name, seconds, cpu, grown in sorted(found, key=lambda each: -each[1]):
        print(f"{name:45}{1000 * seconds:>8.1f}{1000 * cpu:>9.1f}{grown / MEBIBYTE:>10.1f}")


async def measured(http: httpx.AsyncClient, url: str, pid: int, name: str) -> tuple[str, float, float, int]:
    """The longest that it took, the CPU time of each on average, and by how much memory ever grew meanwhile."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is from now on
    memory, cpu = peak_memory(pid), cpu_seconds([pid])
    seconds = [await attacked(http, url, ATTACKS[name].body) for _ in range(TIMES)]
    return name, max(seconds), (cpu_seconds([pid]) - cpu) / TIMES, peak_memory(pid) - memory


async def attacked(http: httpx.AsyncClient, url: str, body: bytes) -> float:
    """The seconds until it was answered."""
    began = perf_counter()
    (await http.post(url, content=body)).json()
    return perf_counter() - began


if __name__ == "__main__":
    asyncio.run(main())
