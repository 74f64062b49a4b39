"""How long `questlog serve` takes until it says that it is ready: from nothing, and the second time."""

import asyncio
import signal
import sys
from time import perf_counter

from questlog.settings import Settings
from tests.bench.home import temporary_home


async def main() -> None:
    """Start twice, and print a line for each."""
    with temporary_home() as home:
        for which in ("first", "second"):
            print(f"ready after the {which} start: {await seconds_until_ready(Settings(home=home)):.1f} s")


async def seconds_until_ready(settings: Settings) -> float:
    """Start, wait for the line, and stop."""
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "questlog", "serve", "--port", "0"),
        env=settings.environ(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    line = await process.stdout.readline()
    seconds = perf_counter() - began
    process.send_signal(signal.SIGTERM)
    await process.wait()
    if b"ready" not in line:
        raise RuntimeError("questlog serve did not become ready")
    return seconds


if __name__ == "__main__":
    asyncio.run(main())
