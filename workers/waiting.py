"""Those who wait until what they handed in is kept."""

from asyncio import Future
from collections.abc import Iterable


def tell(waiting: Iterable[Future[None]], error: Exception | None = None) -> None:
    """Wake them, with the error where there is one; whoever went away meanwhile is passed over."""
    for kept in waiting:
        if not kept.done():
            kept.set_exception(error) if error else kept.set_result(None)
