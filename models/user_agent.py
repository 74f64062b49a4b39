"""What a browser says of itself: on what kind of device it runs, its name, and its system's."""

from enum import StrEnum
from functools import cache, lru_cache
from typing import NamedTuple

from ua_parser import Domain, Parser
from ua_parser.loaders import load_builtins
from ua_parser.regex import Resolver

MOST_REMEMBERED = 10_000
DESKTOPS = ("Windows", "Mac OS X", "Chrome OS")


class DeviceType(StrEnum):
    """The contract's `DeviceType`."""

    DESKTOP = "DESKTOP"
    MOBILE = "MOBILE"
    TABLET = "TABLET"
    OTHER = "OTHER"


class Described(NamedTuple):
    """The families that ua-parser names, without versions; None where it knows none."""

    device_type: DeviceType = DeviceType.OTHER
    browser: str | None = None
    os: str | None = None


@lru_cache(MOST_REMEMBERED)
def describe(user_agent: str | None) -> Described:
    """What the user agent tells; nothing where there is none."""
    if user_agent is None:
        return Described()
    found = _parser()(user_agent, Domain.USER_AGENT | Domain.OS)
    browser = found.user_agent.family if found.user_agent else None
    os = found.os.family if found.os else None
    return Described(_device_type(user_agent, os), browser, os)


def _device_type(user_agent: str, os: str | None) -> DeviceType:
    """By the words in which browsers tell it: Android's without `Mobile` are tablets', all of X11 sit on desks."""
    if os == "iOS":
        return DeviceType.TABLET if "iPad" in user_agent else DeviceType.MOBILE
    if os == "Android" and "Mobi" not in user_agent:
        return DeviceType.OTHER if "TV" in user_agent else DeviceType.TABLET
    if "Mobi" in user_agent:
        return DeviceType.MOBILE
    return DeviceType.DESKTOP if os in DESKTOPS or "X11" in user_agent else DeviceType.OTHER


@cache
def _parser() -> Parser:
    # Its patterns for models of devices are most of its memory, and nobody asks for a model.
    browsers, systems, _ = load_builtins()
    return Parser(Resolver((browsers, systems, [])))
