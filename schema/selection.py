"""What a question asks for below a field, so that nothing else is read."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from graphql import FieldNode, FragmentSpreadNode, GraphQLResolveInfo, SelectionSetNode

from schema.node import Info


def selected(info: Info) -> frozenset[str]:
    """The names of all fields below this one, however deep, as resolvers call them; at times one more than are asked
    for, where a directive leaves it out. Each place in the query is read once a request."""
    raw = info._raw_info  # noqa: SLF001 - what Strawberry offers instead reads a fragment as often as it is spread
    place = tuple(map(id, raw.field_nodes))
    known = info.context.selections
    if place not in known:
        known[place] = frozenset(_names(raw))
    return known[place]


def _names(raw: GraphQLResolveInfo[Any]) -> Iterator[str]:
    spread: set[str] = set()
    below: list[SelectionSetNode | None] = [node.selection_set for node in raw.field_nodes]
    while below:
        for node in here.selections if (here := below.pop()) else ():
            if isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name not in spread:
                    spread.add(name)
                    below.append(raw.fragments[name].selection_set)
                continue
            if isinstance(node, FieldNode):
                yield _snake(node.name.value)
            below.append(getattr(node, "selection_set", None))


@cache
def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
