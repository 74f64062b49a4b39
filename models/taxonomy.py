"""The types of event: each a class that declares its name, its payload and what it counts for."""

import re
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta


class Category(StrEnum):
    """What an event is about: the contract's `EventCategory`, in its order."""

    NAVIGATION = "NAVIGATION"
    QUEST = "QUEST"
    BADGE = "BADGE"
    TUTOR = "TUTOR"
    COMMUNITY = "COMMUNITY"
    AUTH = "AUTH"
    PARENT = "PARENT"
    ERROR = "ERROR"
    CUSTOM = "CUSTOM"


class MilestoneKind(StrEnum):
    """What becomes part of a learner's own record."""

    QUEST_STARTED = "QUEST_STARTED"
    QUEST_COMPLETED = "QUEST_COMPLETED"
    QUEST_ABANDONED = "QUEST_ABANDONED"
    TASK_COMPLETED = "TASK_COMPLETED"
    BADGE_EARNED = "BADGE_EARNED"
    BADGE_CLAIMED = "BADGE_CLAIMED"


class SafetySeverity(StrEnum):
    """How serious the tutor takes what it flags."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


SERVICE_ONLY = "service only"
PERSON = "person"
CLEARED = "cleared at anonymisation"


def _marked(*marks: str) -> dict[str, bool]:
    return dict.fromkeys(marks, True)


Id = Annotated[str, Meta(min_length=1, max_length=200)]
PersonId = Annotated[Id, Meta(extra=_marked(PERSON, CLEARED))]
ConversationId = Annotated[Id, Meta(extra=_marked(CLEARED))]
Xp = Annotated[int, Meta(ge=0, le=1_000_000, extra=_marked(SERVICE_ONLY))]
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
BigNatural = Annotated[int, Meta(ge=0, le=2**53)]
Pillar = Annotated[str, Meta(min_length=1, max_length=200)]
Message = Annotated[str, Meta(extra=_marked(CLEARED) | {"keep": 2000})]
Stack = Annotated[str, Meta(extra=_marked(CLEARED) | {"keep": 4000})]
JsonObject = dict[str, Any]


@cache
def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class EventType(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What all types share. A subclass with a category is a type; one without is a payload that several carry.

    *Interactive* ends a bounce, *learning* makes an active day, *passive* neither opens nor extends a session and
    makes no visit day. A type that does not open sessions extends or ends one.
    """

    category: ClassVar[Category]
    interactive: ClassVar[bool] = False
    learning: ClassVar[bool] = False
    passive: ClassVar[bool] = False
    opens_session: ClassVar[bool] = True
    ends_session: ClassVar[bool] = False
    service_only: ClassVar[bool] = False
    needs_page: ClassVar[bool] = False
    milestone: ClassVar[MilestoneKind | None] = None

    @classmethod
    def type_name(cls) -> str:
        """The taxonomy's name, such as quest_started."""
        return _snake(cls.__name__)

    @classmethod
    def payload_name(cls) -> str:
        """The name of the class that declares the fields: of the type itself, or of the payload it shares."""
        return next(base.__name__ for base in cls.__mro__ if "__annotations__" in vars(base))


class PageView(EventType):
    category = Category.NAVIGATION
    needs_page = True
    load_time_ms: Annotated[int, Meta(ge=0, le=600_000)] | None = None
    viewport_width: Natural | None = None
    viewport_height: Natural | None = None


class RouteChange(EventType):
    category = Category.NAVIGATION
    from_path: str | None = None


class PageExit(EventType):
    category = Category.NAVIGATION
    opens_session = False
    visible_seconds: Annotated[float, Meta(ge=0, le=86_400)]
    max_scroll_percent: Natural | None = None


class Quest(EventType):
    quest_id: Id
    quest_title: str | None = None


class QuestViewed(Quest):
    category = Category.QUEST
    interactive = True


class QuestStarted(Quest):
    category = Category.QUEST
    interactive = True
    learning = True
    milestone = MilestoneKind.QUEST_STARTED


class QuestAbandoned(Quest):
    category = Category.QUEST
    interactive = True
    milestone = MilestoneKind.QUEST_ABANDONED


class QuestCompleted(EventType):
    category = Category.QUEST
    interactive = True
    learning = True
    milestone = MilestoneKind.QUEST_COMPLETED
    quest_id: Id
    quest_title: str | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None


class Task(EventType):
    task_id: Id
    task_title: str | None = None
    quest_id: Id | None = None


class TaskViewed(Task):
    category = Category.QUEST
    interactive = True


class TaskCompleted(EventType):
    category = Category.QUEST
    interactive = True
    learning = True
    milestone = MilestoneKind.TASK_COMPLETED
    task_id: Id
    task_title: str | None = None
    quest_id: Id | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None


class Evidence(EventType):
    task_id: Id | None = None
    quest_id: Id | None = None
    student_id: PersonId | None = None
    file_type: str | None = None
    file_size_bytes: BigNatural | None = None


class EvidenceUploaded(Evidence):
    category = Category.QUEST
    interactive = True
    learning = True


class Badge(EventType):
    badge_id: Id
    badge_name: str | None = None


class BadgeViewed(Badge):
    category = Category.BADGE
    interactive = True


class BadgeClaimed(Badge):
    category = Category.BADGE
    interactive = True
    milestone = MilestoneKind.BADGE_CLAIMED


class BadgeEarned(EventType):
    category = Category.BADGE
    passive = True
    service_only = True
    milestone = MilestoneKind.BADGE_EARNED
    badge_id: Id
    badge_name: str | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None


class Tutor(EventType):
    conversation_id: ConversationId | None = None


class TutorOpened(Tutor):
    category = Category.TUTOR
    interactive = True


class TutorMessage(EventType):
    conversation_id: ConversationId | None = None
    message_length: Natural | None = None


class TutorMessageSent(TutorMessage):
    category = Category.TUTOR
    interactive = True
    learning = True


class TutorSafetyFlag(EventType, kw_only=True):
    category = Category.TUTOR
    passive = True
    service_only = True
    conversation_id: ConversationId | None = None
    severity: SafetySeverity
    reason: str


class ConnectionRequest(EventType):
    recipient_id: PersonId


class ConnectionRequestSent(ConnectionRequest):
    category = Category.COMMUNITY
    interactive = True


class ConnectionAccepted(EventType):
    category = Category.COMMUNITY
    interactive = True
    requester_id: PersonId


class ProfileViewed(EventType):
    category = Category.COMMUNITY
    interactive = True
    profile_id: PersonId


class LoginSuccess(EventType):
    category = Category.AUTH
    method: str | None = None


class LoginFailed(EventType):
    category = Category.AUTH
    passive = True
    method: str | None = None
    reason: str | None = None


class SessionEnd(EventType):
    reason: str | None = None


class Logout(SessionEnd):
    category = Category.AUTH
    opens_session = False
    ends_session = True


class SessionExpired(SessionEnd):
    category = Category.AUTH
    passive = True
    ends_session = True


class ParentDashboard(EventType):
    child_id: PersonId | None = None


class ParentDashboardOpened(ParentDashboard):
    category = Category.PARENT
    interactive = True


class ParentEvidenceUploaded(Evidence):
    category = Category.PARENT
    interactive = True


class JavascriptError(EventType):
    category = Category.ERROR
    passive = True
    message: Message
    stack: Stack | None = None
    component_name: str | None = None
    release: str | None = None
    fingerprint: str | None = None


class ApiError(EventType, kw_only=True):
    category = Category.ERROR
    passive = True
    message: Message
    endpoint: str
    method: str | None = None
    status_code: Annotated[int, Meta(ge=0, le=999)]
    release: str | None = None
    fingerprint: str | None = None


class NetworkError(EventType):
    category = Category.ERROR
    passive = True
    message: Message
    endpoint: str | None = None
    release: str | None = None
    fingerprint: str | None = None


class CustomEvent(EventType):
    """A platform's own event, stored under its own name."""

    category = Category.CUSTOM
    interactive = True
    name: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,62}\\Z")]
    data: JsonObject | None = None

    @classmethod
    def type_name(cls) -> str:
        """The name that its field in the contract follows from."""
        return "custom"


def _types(of: type[EventType]) -> dict[str, type[EventType]]:
    found = {of.type_name(): of} if hasattr(of, "category") else {}
    for subclass in of.__subclasses__():
        found |= _types(subclass)
    return found


EVENT_TYPES: dict[str, type[EventType]] = _types(EventType)


def event_type(stored_as: str) -> type[EventType]:
    """The type that an event is stored under; a name that the taxonomy does not know is a custom event's."""
    return EVENT_TYPES.get(stored_as, CustomEvent)


@cache
def marked(payload: type[EventType], mark: str) -> frozenset[str]:
    """The fields of a payload, as they are sent (camel case), that carry this mark."""
    return frozenset(name for name, extra in field_extras(payload).items() if mark in extra)


@cache
def longest_kept(payload: type[EventType]) -> dict[str, int]:
    """The fields of a payload, as they are sent, of which only so many characters are kept."""
    return {name: extra["keep"] for name, extra in field_extras(payload).items() if "keep" in extra}


@cache
def field_extras(payload: type[EventType]) -> dict[str, dict[str, Any]]:
    """What the taxonomy says of each field of a payload beside its type, by the name it is sent under."""
    return {
        field.encode_name: _extra(msgspec.inspect.type_info(field.type)) for field in msgspec.structs.fields(payload)
    }


def _extra(kind: msgspec.inspect.Type) -> dict[str, Any]:
    if isinstance(kind, msgspec.inspect.UnionType):
        return {key: value for member in kind.types for key, value in _extra(member).items()}
    if isinstance(kind, msgspec.inspect.Metadata):
        return dict(kind.extra or {}) | _extra(kind.type)
    return {}
