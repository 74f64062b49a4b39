"""Connections: pages of a list by the Relay specification, with `nodes` beside `edges`."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import strawberry

from resolvers.connection import Order, Page, Slice, page
from resolvers.reader import AnyRow

Node = TypeVar("Node")

First = Annotated[
    int | None,
    strawberry.argument(
        description="So many from the start of the list, 1 to 100; 20 where neither first nor last is given."
    ),
]
After = Annotated[str | None, strawberry.argument(description="Only what comes after this cursor.")]
Last = Annotated[int | None, strawberry.argument(description="So many from the end of the list, 1 to 100.")]
Before = Annotated[str | None, strawberry.argument(description="Only what comes before this cursor.")]


@strawberry.type(description="Where a page lies in its list, and whether there is more beside it.")
class PageInfo:
    """The contract's PageInfo."""

    has_next_page: bool = strawberry.field(description="Whether there is more after this page.")
    has_previous_page: bool = strawberry.field(description="Whether there is more before this page.")
    start_cursor: str | None = strawberry.field(
        description="Where the page begins: give it as before to get what comes before; null for an empty page."
    )
    end_cursor: str | None = strawberry.field(
        description="Where the page ends: give it as after to get what follows; null for an empty page."
    )


@strawberry.type(description="One entry of a list, and its place.")
class Edge(Generic[Node]):
    """A node with its cursor, which is made where it is asked for."""

    order: strawberry.Private[Order]
    row: strawberry.Private[AnyRow]
    node: Node = strawberry.field(description="The entry itself.")

    @strawberry.field(
        description="Its place in the list, opaque: give it as after or before. It stays where it is whatever is added."
    )
    def cursor(self) -> str:
        return self.order.cursor(self.row)


@strawberry.type(description="A page of a list, with and without the place of each entry.")
class Connection(Generic[Node]):
    """A page, with and without cursors."""

    found: strawberry.Private[Slice]
    edges: list[Edge[Node]] = strawberry.field(description="The entries, each with its place in the list.")
    nodes: list[Node] = strawberry.field(description="The entries without their places.")

    @strawberry.field(description="Whether there is more, and where to go on.")
    def page_info(self) -> PageInfo:
        cursors = [self.found.order.cursor(self.found.rows[place]) for place in (0, -1) if self.found.rows]
        start, end = cursors or (None, None)
        return PageInfo(
            has_next_page=self.found.has_next,
            has_previous_page=self.found.has_previous,
            start_cursor=start,
            end_cursor=end,
        )


def asked(order: Order, first: int | None, after: str | None, last: int | None, before: str | None) -> Page:
    """The page that a connection's arguments ask for; raises BadUserInputError."""
    return page(order, given(first), given(after), given(last), given(before))


def given(value: Any) -> Any:
    """An argument's value, None where it was left out."""
    return None if value is strawberry.UNSET else value


def connection(found: Slice, shape: Callable[[Any], Node]) -> Connection[Node]:
    """The page as a connection of nodes."""
    nodes = [shape(row) for row in found.rows]
    edges = [Edge(order=found.order, row=row, node=node) for row, node in zip(found.rows, nodes, strict=True)]
    return Connection(found=found, edges=edges, nodes=nodes)
