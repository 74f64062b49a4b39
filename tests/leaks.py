"""What must stand nowhere: e-mail addresses, planted wherever text can be sent, and whole IP addresses; and where to
look for them."""

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from tests.files import of_each

LOCAL, DOMAIN = "planted", "hiddenschool.example"
"""Every planted e-mail address has the first in its local part, and is of this domain."""
INTERFACE = "a11:ce00:f00d"
"""Stands in that half of a made-up IPv6 address that has to be cut off."""
EMAILS = (
    f"{LOCAL}@{DOMAIN}",
    f"first.{LOCAL}+tag@mail.{DOMAIN}",
    f"o'{LOCAL}@{DOMAIN}",
    f"{LOCAL.upper()}@{DOMAIN.upper()}",
    f"{LOCAL}%40{DOMAIN}",
    f"first%2B{LOCAL}%40{DOMAIN.replace('.', '%2E')}",
    f"{LOCAL}%2540{DOMAIN}",
    f"{LOCAL}@{DOMAIN}%2Csecond.{LOCAL}@{DOMAIN}",
)
_NUMBERS = re.compile(rb"\d[\d.]{6,}(?:/24)?")
_FOUR_NUMBERS = re.compile(rb"(?=(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})(/24)?)")


def planted_events() -> Iterator[dict[str, Any]]:
    """Each of the addresses in every text of an event that anybody may send, as `TrackEventInput`."""
    for email in EMAILS:
        error = {"message": f"no such user: {email}"}
        events: tuple[dict[str, Any], ...] = (
            {"pageView": {}},
            {"routeChange": {"fromPath": f"/of/{email}"}},
            {"questStarted": {"questId": email, "questTitle": f"{email}'s quest"}},
            {"loginFailed": {"reason": f"({email})", "method": email}},
            {"javascriptError": {**error, "stack": f"Error: {email}\n  at f ({email})", "componentName": email}},
            {"javascriptError": {"message": "m" * 1990 + f" {email}", "release": email, "fingerprint": email}},
            {"apiError": {**error, "statusCode": 404, "endpoint": f"/api/users/{email}?of={email}"}},
            {"networkError": {**error, "endpoint": f"https://{DOMAIN.removeprefix('hidden')}/{email}"}},
            {"custom": {"name": "letter", "data": {f"to {email}": [email, {"cc": {email: [f"<{email}>"]}}]}}},
        )
        for event in events:
            yield {
                "eventId": str(uuid4()),
                "occurredAt": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
                "event": event,
                "page": {
                    "path": f"/users/{email}/edit?of={email}#{email}",
                    "title": f"Of {email}",
                    "referrer": f"https://learn.example/?to={email}&from=mailto:{email}",
                },
            }


def leaks(content: bytes, ip_addresses: Collection[bytes]) -> set[bytes]:
    """What of all this stands in the content; `ip_addresses` are IPv4, and one cut to /24 is none of them."""
    found = set()
    for match in (four for run in _NUMBERS.finditer(content) for four in _FOUR_NUMBERS.finditer(run[0])):
        address, is_cut = match.groups()
        # Whatever byte comes next in a file may look like one more digit.
        ends = range(address.rindex(b".") + 2, len(address) + 1)
        found |= {address[:end] for end in ends if not is_cut} & set(ip_addresses)
    lower = content.lower()
    return found | {text for text in map(str.encode, (LOCAL, DOMAIN, INTERFACE)) if text in lower}


def files_of(home: Path) -> dict[Path, bytes]:
    """Every file of an installation, its servers' data included, which for root lies elsewhere."""
    folders = {home, (home / "servers").resolve()}
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return dict(of_each(files, Path.read_bytes))


async def dump(superuser_url: str) -> dict[str, bytes]:
    """Every table, row by row, as COPY writes it."""
    connection = await asyncpg.connect(superuser_url)
    try:
        tables = await connection.fetch("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        return {name: await _copied(connection, name) for (name,) in tables}
    finally:
        await connection.close()


async def _copied(connection: "asyncpg.Connection[asyncpg.Record]", table: str) -> bytes:
    rows = bytearray()

    async def keep(part: bytes) -> None:
        rows.extend(part)

    await connection.copy_from_query(f"TABLE {table}", output=keep)
    return bytes(rows)
