"""A home of the benchmark's own, gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A temporary folder, removed in the end with the servers' data, which for root lies outside of it."""
    with tempfile.TemporaryDirectory(prefix="questlog-bench-") as home:
        try:
            yield Path(home)
        finally:
            shutil.rmtree((Path(home) / "servers").resolve())
