"""Files of servers that run: any of them may go while it is looked at."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def of_each(paths: Iterable[Path], look: Callable[[Path], T]) -> Iterator[tuple[Path, T]]:
    """What `look` finds of each that is still there by then."""
    for path in paths:
        try:
            found = look(path)
        except FileNotFoundError:
            continue
        yield path, found


def total_size(paths: Iterable[Path]) -> int:
    """Of those that are still there, in bytes."""
    return sum(of.st_size for _, of in of_each(paths, Path.stat))
