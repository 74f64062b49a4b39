"""What text is kept, and what is taken out of it before."""

import re

# A local part is looked for only where one can begin: a long word without an @ is then read once, not once a letter.
# As addresses stand in URLs too, signs may be percent-encoded; of those that touch, none is left because of the other.
_LOCAL = r"[\w.+'%!#$*^{|}~-]"
_AT = r"(?:@|＠|&#64;|%(?:25)*40)"  # noqa: RUF001 - the full-width sign is meant
_EMAIL = re.compile(rf"(?<!{_LOCAL})(?:{_LOCAL}+{_AT}[\w-]+(?:(?:\.|%(?:25)*2E)[\w-]+)+)+", re.IGNORECASE)
_SIGNS = ("@", "＠", "&#64;", "%")  # noqa: RUF001 - the same
_SIGN = re.compile("|".join(_SIGNS))
_SIGNS_OR_NUL = tuple(sign.encode() for sign in (*_SIGNS, "\\u0000"))
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_QUERY = re.compile(r"[?#].*", re.DOTALL)
LONGEST_PATH = 512
LARGEST_NUMBER = 2**53
DEEPEST = 100


def is_storable(value: object, levels: int = DEEPEST) -> bool:
    """Whether PostgreSQL can hold the text, or the JSON of such, as it is: neither NUL nor half a surrogate pair, no
    number beyond 2^53, and no more levels than these."""
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, dict):
        return levels > 0 and all(is_storable(key) and is_storable(each, levels - 1) for key, each in value.items())
    if isinstance(value, list):
        return levels > 0 and all(is_storable(each, levels - 1) for each in value)
    return not isinstance(value, int | float) or -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def may_need_cleaning(json: bytes) -> bool:
    """Whether text in this JSON may hold an e-mail address or NUL: a look at all of it instead of at each string."""
    return any(sign in json for sign in _SIGNS_OR_NUL)


def mask_emails(text: str) -> str:
    """The text with every e-mail address as `[email]`."""
    return _EMAIL.sub("[email]", text) if _SIGN.search(text) else text


def page_path(sent: str) -> str:
    """A page's path as it is kept: without query and fragment, no trailing slash (but `/`), 512 characters at most."""
    path = mask_emails(_QUERY.sub("", sent))
    return path[:LONGEST_PATH].rstrip("/") or "/"
