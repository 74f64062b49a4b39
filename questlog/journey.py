"""What `questlog import-milestones` does and shows."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.ext.asyncio import AsyncEngine

from models.permission import ConsentRule
from questlog.progress import progress
from questlog.supervisor import StartError
from workers.journey import FileError, import_milestones

FORMATS = {".csv": False, ".jsonl": True, ".ndjson": True}
"""Whether a file whose name ends so is JSON Lines; of all others what they begin with tells."""


async def run(engine: AsyncEngine, anonymize_after_days: int, consent_rule: ConsentRule, name: str) -> None:
    """Import a file, or stdin where its name is `-`, and print line, field and reason of each line that is refused.

    Raises StartError where the file is of no use, and in the end where any line was refused.
    """
    imported = known = refused = 0
    with _readable(name) as (file, size), progress("Importing", size) as advance:
        steps = import_milestones(
            engine,
            file,
            as_json=FORMATS.get(Path(name).suffix.lower()),
            now=datetime.now(UTC),
            anonymize_after_days=anonymize_after_days,
            consent_rule=consent_rule,
        )
        async for step in steps:
            imported, known, refused = imported + step.imported, known + step.known, refused + len(step.refused)
            for line in step.refused:
                print(*line, sep="\t")
            advance(file.tell() if size else imported + known + refused)
    print(f"{imported:,} milestones were imported, {known:,} lines were known already, {refused:,} were refused")
    if refused:
        raise StartError("some lines were refused: put them right and import the file again")


@contextmanager
def _readable(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file, and how many bytes it has where that is known."""
    with ExitStack() as stack:
        try:
            file = _input() if name == "-" else stack.enter_context(Path(name).open("rb"))
            size = None if name == "-" else Path(name).stat().st_size
        except OSError as error:
            raise StartError(f"{name} cannot be imported: {error}") from None
        try:
            yield file, size
        except FileError as error:
            raise StartError(f"{name} cannot be imported: {error}") from None


def _input() -> BinaryIO:
    if sys.stdin is None:  # who started us closed it
        raise StartError("there is no standard input to import")
    return sys.stdin.buffer
