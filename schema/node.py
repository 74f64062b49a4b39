"""Global ids, by which clients fetch any node again."""

import base64
import binascii

import orjson
import strawberry

from resolvers.request import Request

Info = strawberry.Info[Request, None]


@strawberry.interface(description="Anything that can be fetched again by its id.")
class Node:
    """The contract's Node."""

    id: strawberry.ID = strawberry.field(
        description="By this node and nodes find it again: opaque, and the same wherever it is met."
    )


def global_id(kind: str, *key: object) -> strawberry.ID:
    """The id of a node of this kind."""
    return strawberry.ID(base64.urlsafe_b64encode(orjson.dumps([kind, *map(str, key)])).decode().rstrip("="))


def parsed_id(node_id: str) -> tuple[str, list[str]] | None:
    """The kind and the key that an id stands for; None for what is no id of ours."""
    try:
        kind, *key = orjson.loads(base64.urlsafe_b64decode(node_id + "=" * (-len(node_id) % 4)))
    except (ValueError, TypeError, binascii.Error):
        return None
    return (kind, key) if isinstance(kind, str) and all(isinstance(part, str) for part in key) else None
