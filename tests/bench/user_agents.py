"""How often what a user agent is taken for agrees with what others say of it, and what telling costs.

    python -m tests.bench.user_agents FILE...

reads JSON Lines, plain or gzipped, with `ua` and `deviceCategory` or `kind`, or with `user_agent_string` and the
system's `family`.
"""

import gzip
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from models.user_agent import describe


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def agrees(line: dict[str, Any]) -> bool:
    """Whether we say of it what the line does."""
    if "family" in line:
        return bool((describe(line["user_agent_string"]).os or "Other") == line["family"])
    return bool(describe(line["ua"]).device_type == (line.get("deviceCategory") or line["kind"]).upper())


def measure(path: Path) -> str:
    """The share of lines that agree, and the microseconds that each took."""
    describe.cache_clear()
    found = list(lines(path))
    begun = time.perf_counter()
    agreeing = sum(map(agrees, found))
    microseconds = (time.perf_counter() - begun) / len(found) * 1e6
    return f"{path.name}: {agreeing} of {len(found)} agree, {microseconds:.1f} µs each"


if __name__ == "__main__":
    describe("Mozilla/5.0")  # the patterns are compiled once
    for name in sys.argv[1:]:
        print(measure(Path(name)))
