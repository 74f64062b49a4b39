"""Every benchmark, one after the other: each starts an installation of its own in a temporary folder."""

import asyncio

from tests.bench import attacks, disk, frame, intake, live, reading, retention, start

for benchmark in (start, frame, live, intake, reading, retention, disk, attacks):
    print(f"\n{benchmark.__doc__}", flush=True)
    asyncio.run(benchmark.main())
