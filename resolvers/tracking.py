"""Taking events: each is judged by its type, and what is good is kept whatever stands beside it."""

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson

from models.event import TrackedEvent
from models.guardianship import Pair, children_of, names_people, stranger_in
from models.horizon import horizon, is_sealed
from models.permission import FREE, Standing
from models.taxonomy import EVENT_TYPES, SERVICE_ONLY, CustomEvent, EventType, longest_kept, marked
from models.text import is_storable, mask_emails, may_need_cleaning, page_path
from models.user import Subject, UserRole, subjects_of
from models.viewer import Role
from resolvers.bot import is_bot
from resolvers.errors import BadUserInputError, UnavailableError
from resolvers.metrics import EVENTS_ACCEPTED, EVENTS_REFUSED
from resolvers.reader import SECONDS_TO_ANSWER, database_needed
from resolvers.request import Request

UTC = ZoneInfo("UTC")
MOST_EVENTS = 500
MOST_DEVICES = 10  # that are counted of a request; all of them count for its user and address
MOST_BYTES = 8192
EARLIEST = timedelta(days=7)
LATEST = timedelta(minutes=5)
MOST_CUSTOM_BYTES = 4096
MOST_CUSTOM_KEYS = 50
MOST_CUSTOM_LEVELS = 5


class Client(msgspec.Struct, frozen=True):
    """The browser that a SERVICE speaks for."""

    user_agent: str | None
    ip_address: str | None


class EventDraft(msgspec.Struct, frozen=True):
    """An event as it was sent: `field` is the contract's name of its type, `payload` in camel case without nulls.

    `is_decoded` says that the payload was read as one of its kind already.
    """

    event_id: UUID
    occurred_at: datetime
    field: str
    kind: type[EventType]
    payload: dict[str, Any]
    device_id: UUID | None = None
    page_path: str | None = None
    page_title: str | None = None
    referrer: str | None = None
    user_id: str | None = None
    client: Client | None = None
    is_decoded: bool = False


class RefusedError(Exception):
    """Why one event is not taken: the field at fault, the contract's code, and a sentence."""

    def __init__(self, field: list[str], code: str, message: str) -> None:
        super().__init__(message)
        self.field, self.code, self.message = field, code, message


@dataclass(frozen=True)
class RefusedEvent:
    """An event that was not taken, by its place in the request."""

    index: int
    event_id: UUID
    error: RefusedError


@dataclass(frozen=True)
class Taken:
    """What became of a request's events."""

    accepted: int
    refused: list[RefusedEvent]
    received_at: datetime


async def admit(request: Request, numbers: Sequence[int]) -> None:
    """Count the events of an operation's fields together before they are read in general, which takes long: `track`
    then counts them for their devices alone. Where one field has kept its events and the error of the next hides that,
    to send all of them again keeps each once.

    Raises BadUserInputError and RateLimitedError as `track` does.
    """
    number = sum(numbers)
    if len(numbers) == 1:
        _check_number(number)
    elif number > MOST_EVENTS:
        raise BadUserInputError(f"the fields that track have {number} events, and {MOST_EVENTS} is the most")
    await request.rate_limits.spend(_askers(request, number))
    request.is_counted = True


async def track(request: Request, drafts: Sequence[EventDraft]) -> Taken:
    """Judge the events, and return once those that are good are safely kept.

    Without a token they are the device's own: the event says which, else the browser's cookie, else the first event's
    id serves as the device's from now on. Raises BadUserInputError unless there are 1 to 500, and UnavailableError
    where nothing could be kept, and RateLimitedError where somebody sent too many.
    """
    _check_number(len(drafts))
    if request.viewer.role is Role.ANONYMOUS and not all(draft.device_id for draft in drafts):
        request.device_id = request.device_id or drafts[0].event_id
    await request.rate_limits.spend(_senders(request, drafts))
    people = await _people(request, drafts)
    sender = _sender(request, await request.standings.of(request.viewer))
    kept: list[TrackedEvent] = []
    refused: list[RefusedEvent] = []
    for index, draft in enumerate(drafts):
        try:
            kept.append(_judge(request, sender, people, draft))
        except RefusedError as error:
            refused.append(RefusedEvent(index, draft.event_id, error))
    if kept:
        with database_needed():
            await request.intake.keep(kept)
    else:
        with suppress(UnavailableError):
            await request.databases.welcome(request.viewer)
    _count(request, kept, refused)
    return Taken(len(kept), refused, request.now)


def _count(request: Request, kept: Sequence[TrackedEvent], refused: Sequence[RefusedEvent]) -> None:
    request.accepted += len(kept)
    request.refused += len(refused)
    EVENTS_ACCEPTED.inc(len(kept))
    for each in refused:
        EVENTS_REFUSED.labels(each.error.code).inc()


def _check_number(number: int) -> None:
    if not 1 <= number <= MOST_EVENTS:
        raise BadUserInputError(f"events has {number} entries, and must have 1 to {MOST_EVENTS}")


def _askers(request: Request, number: int) -> dict[tuple[str, str], int]:
    """So many events for the user and the address. A SERVICE speaks for a whole platform, and is not counted."""
    askers: dict[tuple[str, str], int] = {}
    if request.viewer.role is Role.SERVICE:
        return askers
    if request.viewer.user_id:
        askers["user", request.viewer.user_id] = number
    if address := cut_address(request.ip_address):
        askers["address", address] = number
    return askers


def _senders(request: Request, drafts: Sequence[EventDraft]) -> dict[tuple[str, str], int]:
    """How many events are each sender's, but for what was counted before."""
    if request.viewer.role is Role.SERVICE:
        return {}
    senders = {} if request.is_counted else _askers(request, len(drafts))
    devices = Counter(draft.device_id or request.device_id for draft in drafts)
    for device, number in sorted(devices.items(), key=itemgetter(1), reverse=True)[:MOST_DEVICES]:
        if device:
            senders["device", str(device)] = number
    return senders


@dataclass(frozen=True)
class People:
    """What judging a request's events needs to know of people: subjects by user id, and who is whose child."""

    subjects: dict[str, Subject]
    children: set[Pair]


async def _people(request: Request, drafts: Sequence[EventDraft]) -> People | None:
    """Whoever the events tell of; None where the database is away, and those who store the events must judge."""
    is_service = request.viewer.role is Role.SERVICE
    named = {draft.user_id for draft in drafts if draft.user_id and is_service}
    guardians = {draft.user_id or request.viewer.user_id or "" for draft in drafts if names_people(draft.payload)}
    if not named and not guardians:
        return People({}, set())
    try:
        async with request.databases.writing(SECONDS_TO_ANSWER) as connection:
            return People(
                await subjects_of(connection, sorted(filter(is_storable, named))),
                await children_of(connection, sorted(filter(is_storable, guardians))),
            )
    except UnavailableError:
        return None


class Writer(msgspec.Struct, frozen=True):
    """Of whom an event tells: themself, a user whom a SERVICE speaks of, or nobody where there is no token."""

    user_id: str | None
    role: UserRole | None
    time_zone: ZoneInfo | None
    by_service: bool
    standing: Standing = FREE


@dataclass(frozen=True)
class Sender:
    """What all events of a request share, but for what a SERVICE says of each."""

    writer: Writer
    client: "KeptClient"
    device_id: UUID | None


class KeptClient(msgspec.Struct, frozen=True):
    """A browser as it is kept: without e-mail addresses, and with its address cut."""

    user_agent: str | None
    ip_address: str | None
    is_bot: bool


def _client(sent: Client) -> KeptClient:
    return KeptClient(
        _clean(sent.user_agent, ["client", "userAgent"]),
        cut_address(sent.ip_address),
        bool(sent.user_agent) and is_bot(sent.user_agent or ""),
    )


def _sender(request: Request, standing: Standing) -> Sender:
    role = request.viewer.role
    if role is Role.SERVICE:
        return Sender(Writer(None, None, None, by_service=True), _client(Client(None, None)), None)
    kept_as = None if role is Role.ANONYMOUS else UserRole(role)
    return Sender(
        Writer(request.viewer.user_id, kept_as, UTC, by_service=False, standing=standing),
        _client(Client(request.user_agent, request.ip_address)),
        request.device_id,
    )


def _judge(request: Request, sender: Sender, people: People | None, draft: EventDraft) -> TrackedEvent:
    writer = _writer(sender, people, draft, request)
    standing = writer.standing._replace(objects=True) if request.objects else writer.standing
    _check_standing(standing, draft)
    _check_role(request, draft)
    occurred_at = _occurred_at(request, writer, draft)
    payload = _payload(draft)
    if people and (field := stranger_in(draft.payload, writer.user_id, writer.role, people.children)):
        raise RefusedError(["event", draft.field, field], "FORBIDDEN", f"{field} is no child of the user's")
    client = _client(draft.client) if draft.client else sender.client
    if client.is_bot:
        where = ["client", "userAgent"] if draft.client else ["userAgent"]
        raise RefusedError(where, "BOT", "the user agent is a bot's, and tells of nobody")
    event = TrackedEvent(
        event_id=draft.event_id,
        occurred_at=occurred_at,
        received_at=request.now,
        event_type=draft.payload["name"] if draft.kind is CustomEvent else draft.kind.type_name(),
        user_id=writer.user_id,
        role=None if writer.by_service else writer.role,
        from_service=writer.by_service,
        data=payload.decode(),
        device_id=draft.device_id or sender.device_id,
        page_path=None if draft.page_path is None else page_path(_clean(draft.page_path, ["page", "path"])),
        page_title=_clean(draft.page_title, ["page", "title"]),
        referrer=_clean(draft.referrer, ["page", "referrer"]),
        user_agent=client.user_agent,
        ip_address=client.ip_address,
        unjudged=people is None,
    )
    event = standing.kept(event)
    texts = event.page_path, event.page_title, event.referrer, event.user_agent
    size = len(orjson.dumps([orjson.Fragment(payload), *texts]))
    if size > MOST_BYTES:
        raise RefusedError(["event"], "TOO_LARGE", f"the event has {size} bytes, and must have at most {MOST_BYTES}")
    return event


def _writer(sender: Sender, people: People | None, draft: EventDraft, request: Request) -> Writer:
    if not sender.writer.by_service:
        if draft.user_id is None and draft.client is None:
            return sender.writer
        field = "client" if draft.user_id is None else "userId"
        raise RefusedError([field], "FORBIDDEN", f"{field} is for a SERVICE alone")
    if draft.user_id is None:
        raise RefusedError(["userId"], "INVALID_PAYLOAD", "userId must say of whom the event tells")
    if people is None and is_storable(draft.user_id):
        return Writer(draft.user_id, None, None, by_service=True)
    subject = people.subjects.get(draft.user_id) if people else None
    if subject is None:
        raise RefusedError(["userId"], "UNKNOWN_USER", "userId is no user that is kept: upsert them first")
    standing = request.rules.consent.standing(subject, request.now)
    return Writer(draft.user_id, subject.role, ZoneInfo(subject.time_zone), by_service=True, standing=standing)


def _check_standing(standing: Standing, draft: EventDraft) -> None:
    match standing.refusal(draft.kind):
        case "UNKNOWN_USER" as code:
            raise RefusedError(["userId"], code, "the user was erased: upsert them first")
        case "CONSENT_REQUIRED" as code:
            raise RefusedError(["userId"], code, "nothing of theirs is kept before a consent is recorded")
        case "TRACKING_OBJECTED" as code:
            raise RefusedError(["event", draft.field], code, f"they object to tracking: {draft.field} is not kept")


def _check_role(request: Request, draft: EventDraft) -> None:
    if request.viewer.role is Role.SERVICE or request.rules.trust_clients:
        return
    if draft.kind.service_only:
        raise RefusedError(["event", draft.field], "FORBIDDEN", f"{draft.field} is taken from a SERVICE alone")
    for field in marked(draft.kind, SERVICE_ONLY) & draft.payload.keys():
        raise RefusedError(["event", draft.field, field], "FORBIDDEN", f"{field} is taken from a SERVICE alone")


def _occurred_at(request: Request, writer: Writer, draft: EventDraft) -> datetime:
    occurred_at = draft.occurred_at
    if beyond := occurred_at.microsecond % 1000:
        occurred_at -= timedelta(microseconds=beyond)
    if occurred_at - request.now > LATEST:
        raise RefusedError(["occurredAt"], "IN_FUTURE", "occurredAt is more than 5 minutes past receivedAt")
    if writer.by_service:
        if writer.time_zone and is_sealed(
            occurred_at, writer.time_zone, horizon(request.now, request.rules.anonymize_after_days)
        ):
            raise RefusedError(["occurredAt"], "TOO_OLD", "occurredAt lies on a day that is sealed")
    elif request.now - occurred_at > EARLIEST:
        raise RefusedError(["occurredAt"], "TOO_OLD", "occurredAt is more than 7 days before receivedAt")
    return occurred_at


def _payload(draft: EventDraft) -> bytes:
    """The payload as it is kept: JSON, without e-mail addresses, long texts cut."""
    where = ["event", draft.field]
    if draft.kind.needs_page and draft.page_path is None:
        raise RefusedError(["page"], "INVALID_PAYLOAD", f"{draft.field} needs page")
    if not draft.is_decoded:
        _check_kind(draft, where)
    if draft.kind is CustomEvent:
        return _custom_data(draft.payload, where)
    try:
        text = orjson.dumps(draft.payload)
    except TypeError:  # half a surrogate pair
        text = b""
    longest = longest_kept(draft.kind)
    if text and not longest and not may_need_cleaning(text):
        return text
    cleaned: dict[str, Any] = _clean(draft.payload, where)
    return orjson.dumps(cleaned | {field: cleaned[field][:most] for field, most in longest.items() if field in cleaned})


def _check_kind(draft: EventDraft, where: list[str]) -> None:
    try:
        msgspec.convert(draft.payload, draft.kind)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at ")
        fields = re.findall(r"\w+", path)
        raise RefusedError(
            [*where, *fields], "INVALID_PAYLOAD", f"{'.'.join(fields) or draft.field}: {fault}"
        ) from None


def _custom_data(payload: dict[str, Any], where: list[str]) -> bytes:
    if payload["name"] in EVENT_TYPES:
        raise RefusedError([*where, "name"], "INVALID_PAYLOAD", f"name {payload['name']} is a type of the taxonomy")
    where = [*where, "data"]
    data = payload.get("data", {})
    keys, levels = _extent(data)
    if keys > MOST_CUSTOM_KEYS:
        raise RefusedError(where, "INVALID_PAYLOAD", f"data must have at most {MOST_CUSTOM_KEYS} keys")
    if levels > MOST_CUSTOM_LEVELS:
        raise RefusedError(where, "INVALID_PAYLOAD", f"data must have at most {MOST_CUSTOM_LEVELS} levels")
    text = orjson.dumps(_clean(data, where))
    if len(text) > MOST_CUSTOM_BYTES:
        raise RefusedError(where, "TOO_LARGE", f"data must have at most {MOST_CUSTOM_BYTES} bytes")
    return text


def _extent(data: Any) -> tuple[int, int]:
    """How many keys the data has in all, and on how many levels; counts no further than one level too many."""
    keys, levels = 0, 0
    level: list[Any] = [data]
    while level and levels <= MOST_CUSTOM_LEVELS:
        levels += 1
        keys += sum(len(each) for each in level if isinstance(each, dict))
        below = [list(each.values()) if isinstance(each, dict) else each for each in level]
        level = [each for values in below for each in values if isinstance(each, dict | list)]
    return keys, levels


def _clean(value: Any, where: list[str]) -> Any:
    """The value with e-mail addresses masked; raises RefusedError where PostgreSQL could not hold it."""
    if value is None:
        return None
    if isinstance(value, dict):
        cleaned: dict[str, Any] = {}
        for key, each in value.items():
            name = kept = _clean(key, where)
            while kept in cleaned:
                kept = f"{name} {len(cleaned)}"
            cleaned[kept] = _clean(each, [*where, key])
        return cleaned
    if isinstance(value, list):
        return [_clean(each, where) for each in value]
    if not is_storable(value):
        what = "a character that cannot be stored" if isinstance(value, str) else "a number beyond 2^53"
        raise RefusedError(where, "INVALID_PAYLOAD", f"{where[-1]} holds {what}")
    return mask_emails(value) if isinstance(value, str) else value


@lru_cache(10_000)
def cut_address(address: str | None) -> str | None:
    """An IP address without what tells households apart: /24 of IPv4, /48 of IPv6; None for what is no address."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    kept_bits = 48 if isinstance(parsed, ipaddress.IPv6Address) else 24
    return str(ipaddress.ip_network((parsed, kept_bits), strict=False))
