"""One request: who asks, when, and what they may reach."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from strawberry.dataloader import DataLoader

from models.permission import ConsentRule
from models.viewer import Role, Viewer
from resolvers.cost import Costs
from resolvers.errors import ForbiddenError, UnauthenticatedError
from resolvers.rate_limit import RateLimits
from resolvers.reader import Databases, Reader, shielded
from resolvers.standing import Standings
from workers.access_log import AccessLog
from workers.intake import Intake

Key = TypeVar("Key", bound=Hashable)
Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")
Load = Callable[["Request", Sequence[Key], Question], Awaitable[dict[Key, Answer]]]
Fields = frozenset[str]
"""Names of fields that are asked for, such as page_views: what only others need is not read."""
LoadFields = Callable[["Request", Sequence[UUID], Question, Fields], Awaitable[dict[UUID, Answer]]]


@dataclass(frozen=True)
class HandedOut:
    """An object that tells of a subject: where it stands in the answer, its type, and its fields by the names that
    they have there."""

    subject_key: UUID
    path: tuple[str | int, ...]
    type_name: str
    fields: dict[str, str]


ASKERS = (Role.STUDENT, Role.PARENT, Role.ADMIN)


@dataclass(frozen=True)
class Rules:
    """What of the settings decides how events are judged, and how long questions may take."""

    trust_clients: bool
    anonymize_after_days: int
    delete_after_days: int
    seconds_to_answer: int
    consent: ConsentRule


@dataclass
class Request:
    """What a resolver gets to know of the request that it answers."""

    viewer: Viewer
    databases: Databases
    intake: Intake
    rate_limits: RateLimits
    costs: Costs
    rules: Rules
    standings: Standings
    access_log: AccessLog
    user_agent: str | None = None
    ip_address: str | None = None
    device_id: UUID | None = None  # the browser's, as its cookie says
    objects: bool = False  # to tracking, as the browser says (Sec-GPC)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    accepted: int = field(default=0, init=False)  # events
    refused: int = field(default=0, init=False)
    is_counted: bool = field(default=False, init=False)  # whether its events are, for its user and address
    selections: dict[tuple[int, ...], Fields] = field(default_factory=dict, init=False)
    handed_out: list[HandedOut] = field(default_factory=list, init=False)
    _loaders: dict[Any, DataLoader[Any, Any]] = field(default_factory=dict, init=False)

    @cached_property
    def reader(self) -> Reader:
        """The request's one view of the database."""
        return Reader(self.databases, self.viewer, self.rules.seconds_to_answer)

    async def close(self) -> None:
        """Give back what the request took, and let go of its loaders: they know the request, and only the garbage
        collector would find the circle, with all rows in it."""
        self._loaders.clear()
        await self.reader.close()

    def require_token(self) -> None:
        """Raise UnauthenticatedError where the request has none."""
        if self.viewer.role is Role.ANONYMOUS:
            raise UnauthenticatedError("this needs a token: send Authorization: Bearer …")

    def require(self, *roles: Role) -> None:
        """Raise UnauthenticatedError without a token, and ForbiddenError for any other role than these."""
        self.require_token()
        if self.viewer.role not in roles:
            raise ForbiddenError(f"this is for {' and '.join(roles)}, and you are {self.viewer.role}")

    def today(self, time_zone: str) -> date:
        """The local day that it is now."""
        return _local_day(self.now, time_zone)

    async def load(self, load: Load[Key, Question, Answer], key: Key, question: Question) -> Answer:
        """The answer to a question about one subject, or whatever has the key, asked together with all others that put
        the same question.

        `load` is called once a question for all keys, and answers with an entry for each.
        """

        async def load_all(request: Request, keys: Sequence[Key]) -> list[Answer]:
            answers = await load(request, keys, question)
            return [answers[each] for each in keys]

        answer: Answer = await self.loader(load_all, (load, question)).load(key)
        return answer

    async def load_fields(
        self, load: LoadFields[Question, Answer], subject_key: UUID, question: Question, fields: Fields
    ) -> Answer:
        """The same where an answer has these fields alone; with all that anybody asks for together."""

        async def load_all(request: Request, keys: Sequence[tuple[UUID, Fields]]) -> list[Answer]:
            subjects, wanted = zip(*keys, strict=True)
            answers = await load(request, list(dict.fromkeys(subjects)), question, frozenset[str]().union(*wanted))
            return [answers[each] for each in subjects]

        answer: Answer = await self.loader(load_all, (load, question)).load((subject_key, fields))
        return answer

    def loader(
        self, load: Callable[["Request", Sequence[Any]], Awaitable[list[Any]]], key: Hashable = None
    ) -> DataLoader[Any, Any]:
        """The request's one loader of this function, or of this key, which gets keys together and answers in their
        order."""
        key = load if key is None else key
        if key not in self._loaders:
            self._loaders[key] = _Loader(load_fn=lambda keys: load(self, keys))
        return self._loaders[key]


@lru_cache(maxsize=1000)
def _local_day(at: datetime, time_zone: str) -> date:
    return at.astimezone(ZoneInfo(time_zone)).date()


class _Loader(DataLoader[Any, Any]):
    """Strawberry's, whose answers are not cancelled with one of several fields that wait for the same."""

    def load(self, key: Any) -> Awaitable[Any]:
        """The answer for this key, asked together with others."""
        return shielded(asyncio.ensure_future(super().load(key)))
