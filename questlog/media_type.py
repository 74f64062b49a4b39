"""Media types: what an answer is written in, as the client's Accept header wants it."""

from collections.abc import Iterator
from functools import lru_cache

from starlette.datastructures import Headers

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"
HTML = "text/html"
UTF_8 = ("utf-8", "utf8")


def essence(value: str) -> tuple[str, dict[str, str]]:
    """A media type and its parameters, in lower case."""
    name, *parameters = value.lower().split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return name.strip(), {key.strip(): text.strip(' \t"') for key, _, text in pairs}


def accepted(headers: Headers) -> str:
    """What the client takes: all of its Accept headers as one."""
    return ", ".join(headers.getlist("accept"))


@lru_cache(64)
def preferred(accept: str, offered: tuple[str, ...] = (JSON, GRAPHQL)) -> str | None:
    """The type that the header likes best, of several the one it names first; the first that is offered, where it has
    no preference; None where it takes none of them."""
    if not accept:
        return offered[0]
    ranges: dict[str, tuple[float, int]] = {}
    for place, (name, quality) in enumerate(_ranges(accept)):
        ranges.setdefault(name, (quality, -place))

    def liked(media_type: str) -> tuple[float, bool, int]:
        for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
            if name in ranges:
                quality, place = ranges[name]
                return quality, name == media_type, place if name == media_type else 0
        return 0, False, 0

    best = max(offered, key=liked)
    return best if liked(best)[0] > 0 else None


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        name, parameters = essence(part)
        try:
            quality = float(parameters.get("q", 1))
        except ValueError:
            continue
        if 0 <= quality <= 1 and parameters.get("charset", "utf-8") in UTF_8:
            yield name, quality
