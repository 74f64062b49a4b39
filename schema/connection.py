"""Connections: pages of a list by the Relay specification, with `nodes` beside `edges`."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import strawberry

from resolvers.connection import Order, Page, Slice, page

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


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    """The contract's PageInfo."""

    has_next_page: bool = strawberry.field(description="Whether there is more after this page.")
    has_previous_page: bool = strawberry.field(description="Whether there is more before this page.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first edge.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last edge.")


@strawberry.type(description="One entry of a list, and its place.")
class Edge(Generic[Node]):
    """A node with its cursor."""

    node: Node = strawberry.field(description="The entry.")
    cursor: str = strawberry.field(description="Its place: give it as after or before.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[Node]):
    """A page, with and without cursors."""

    edges: list[Edge[Node]] = strawberry.field(description="The entries with their cursors.")
    nodes: list[Node] = strawberry.field(description="The entries alone.")
    page_info: PageInfo = strawberry.field(description="Where the page lies.")


def asked(order: Order, first: int | None, after: str | None, last: int | None, before: str | None) -> Page:
    """The page that a connection's arguments ask for; raises BadUserInputError."""
    return page(order, given(first), given(after), given(last), given(before))


def given(value: Any) -> Any:
    """An argument's value, None where it was left out."""
    return None if value is strawberry.UNSET else value


def connection(found: Slice, shape: Callable[[Any], Node]) -> Connection[Node]:
    """The page as a connection of nodes."""
    nodes = [shape(row) for row in found.rows]
    edges = [Edge(node=node, cursor=found.order.cursor(row)) for node, row in zip(nodes, found.rows, strict=True)]
    return Connection(
        edges=edges,
        nodes=nodes,
        page_info=PageInfo(
            has_next_page=found.has_next,
            has_previous_page=found.has_previous,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        ),
    )
