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
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]

QuestId = Annotated[Id, Meta(description="The platform's own id of the quest.")]
QuestTitle = Annotated[str, Meta(description="What the quest is called, for people to read.")]
TaskId = Annotated[Id, Meta(description="The platform's own id of the task, a step of a quest.")]
TaskTitle = Annotated[str, Meta(description="What the task is called, for people to read.")]
BadgeId = Annotated[Id, Meta(description="The platform's own id of the badge.")]
BadgeName = Annotated[str, Meta(description="What the badge is called, for people to read.")]
Pillar = Annotated[
    str, Meta(min_length=1, max_length=200, description="The area of learning that the XP counts for, by its name.")
]
Xp = Annotated[
    int,
    Meta(
        ge=0,
        le=1_000_000,
        description="Experience points that the learner gains by it.",
        extra=_marked(SERVICE_ONLY),
    ),
]
PersonId = Annotated[Id, Meta(extra=_marked(PERSON, CLEARED))]
ConversationId = Annotated[
    Id, Meta(description="The platform's own id of the talk with the tutor.", extra=_marked(CLEARED))
]
SignInMethod = Annotated[str, Meta(description="How they signed in, such as password or google.")]
Message = Annotated[
    str,
    Meta(
        description="What the error says; e-mail addresses in it are masked.", extra=_marked(CLEARED) | {"keep": 2000}
    ),
]
Stack = Annotated[
    str,
    Meta(
        description="The calls that led to the error, as the browser writes them.",
        extra=_marked(CLEARED) | {"keep": 4000},
    ),
]
Release = Annotated[str, Meta(description="The platform's version that the page belonged to.")]
Fingerprint = Annotated[
    str, Meta(description="Errors with the same one are one group; left out, they are grouped by what they look like.")
]
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
    """A page was opened. Needs `page`."""

    category = Category.NAVIGATION
    needs_page = True
    load_time_ms: (
        Annotated[int, Meta(ge=0, le=600_000, description="How long the page took to load, in milliseconds.")] | None
    ) = None
    viewport_width: Annotated[Natural, Meta(description="Width of the window's inside, in CSS pixels.")] | None = None
    viewport_height: Annotated[Natural, Meta(description="Height of the window's inside, in CSS pixels.")] | None = None


class RouteChange(EventType):
    """A single-page app went on to another route."""

    category = Category.NAVIGATION
    from_path: Annotated[str, Meta(description="The path of the route that was left.")] | None = None


class PageExit(EventType):
    """A page was left. It prolongs a session, and opens none."""

    category = Category.NAVIGATION
    opens_session = False
    visible_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="How long the tab was visible and in use, in seconds.")
    ]
    max_scroll_percent: (
        Annotated[Natural, Meta(description="How far down the page was seen at most, in per cent of its height.")]
        | None
    ) = None


class Quest(EventType):
    """A quest."""

    quest_id: QuestId
    quest_title: QuestTitle | None = None


class QuestViewed(Quest):
    """A learner looked at a quest."""

    category = Category.QUEST
    interactive = True


class QuestStarted(Quest):
    """A learner began a quest."""

    category = Category.QUEST
    interactive = True
    learning = True
    milestone = MilestoneKind.QUEST_STARTED


class QuestAbandoned(Quest):
    """A learner gave a quest up."""

    category = Category.QUEST
    interactive = True
    milestone = MilestoneKind.QUEST_ABANDONED


class QuestCompleted(EventType):
    """A learner finished a quest."""

    category = Category.QUEST
    interactive = True
    learning = True
    milestone = MilestoneKind.QUEST_COMPLETED
    quest_id: QuestId
    quest_title: QuestTitle | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None


class Task(EventType):
    """A task."""

    task_id: TaskId
    task_title: TaskTitle | None = None
    quest_id: QuestId | None = None


class TaskViewed(Task):
    """A learner looked at a task, a step of a quest."""

    category = Category.QUEST
    interactive = True


class TaskCompleted(EventType):
    """A learner finished a task, a step of a quest."""

    category = Category.QUEST
    interactive = True
    learning = True
    milestone = MilestoneKind.TASK_COMPLETED
    task_id: TaskId
    task_title: TaskTitle | None = None
    quest_id: QuestId | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None


class Evidence(EventType):
    """A file that shows what a learner did."""

    task_id: TaskId | None = None
    quest_id: QuestId | None = None
    student_id: (
        Annotated[PersonId, Meta(description="Whose work it shows, where a parent uploads it: the learner's user id.")]
        | None
    ) = None
    file_type: Annotated[str, Meta(description="The file's media type, such as image/png.")] | None = None
    file_size_bytes: Annotated[int, Meta(ge=0, le=2**53, description="The file's length, in bytes.")] | None = None


class EvidenceUploaded(Evidence):
    """A learner uploaded a file that shows what they did."""

    category = Category.QUEST
    interactive = True
    learning = True


class Badge(EventType):
    """A badge."""

    badge_id: BadgeId
    badge_name: BadgeName | None = None


class BadgeViewed(Badge):
    """A learner looked at a badge."""

    category = Category.BADGE
    interactive = True


class BadgeClaimed(Badge):
    """A learner asked for a badge that they had earned."""

    category = Category.BADGE
    interactive = True
    milestone = MilestoneKind.BADGE_CLAIMED


class BadgeEarned(EventType):
    """The platform awarded a learner a badge."""

    category = Category.BADGE
    passive = True
    service_only = True
    milestone = MilestoneKind.BADGE_EARNED
    badge_id: BadgeId
    badge_name: BadgeName | None = None
    xp: Xp | None = None
    pillar: Pillar | None = None


class Tutor(EventType):
    """A talk with the tutor."""

    conversation_id: ConversationId | None = None


class TutorOpened(Tutor):
    """A learner opened the tutor, who answers questions."""

    category = Category.TUTOR
    interactive = True


class TutorMessage(EventType):
    """A message to the tutor, of which the text is never taken."""

    conversation_id: ConversationId | None = None
    message_length: Annotated[Natural, Meta(description="How many characters it has.")] | None = None


class TutorMessageSent(TutorMessage):
    """A learner wrote to the tutor. The text is never taken."""

    category = Category.TUTOR
    interactive = True
    learning = True


class TutorSafetyFlag(EventType, kw_only=True):
    """The tutor saw something for which a grown-up should look after the child."""

    category = Category.TUTOR
    passive = True
    service_only = True
    conversation_id: ConversationId | None = None
    severity: Annotated[SafetySeverity, Meta(description="How urgent it is.")]
    reason: Annotated[
        str, Meta(description="A category of what was seen, such as self_harm; never the child's own words.")
    ]


class ConnectionRequest(EventType):
    """A wish to be connected with another user."""

    recipient_id: Annotated[PersonId, Meta(description="Whom they asked: that user's id.")]


class ConnectionRequestSent(ConnectionRequest):
    """A user asked another to be connected with them."""

    category = Category.COMMUNITY
    interactive = True


class ConnectionAccepted(EventType):
    """A user said yes to being connected with another."""

    category = Category.COMMUNITY
    interactive = True
    requester_id: Annotated[PersonId, Meta(description="Who had asked them: that user's id.")]


class ProfileViewed(EventType):
    """A user looked at somebody's profile."""

    category = Category.COMMUNITY
    interactive = True
    profile_id: Annotated[PersonId, Meta(description="Whom the profile is of: that user's id.")]


class LoginSuccess(EventType):
    """Somebody signed in."""

    category = Category.AUTH
    method: SignInMethod | None = None


class LoginFailed(EventType):
    """Somebody tried to sign in, and could not."""

    category = Category.AUTH
    passive = True
    method: SignInMethod | None = None
    reason: Annotated[str, Meta(description="Why they could not, such as wrong_password.")] | None = None


class SessionEnd(EventType):
    """An end of being signed in."""

    reason: Annotated[str, Meta(description="What ended it, such as user or timeout.")] | None = None


class Logout(SessionEnd):
    """Somebody signed out, which ends the session on that device."""

    category = Category.AUTH
    opens_session = False
    ends_session = True


class SessionExpired(SessionEnd):
    """Somebody's sign-in ran out, which ends the session on that device."""

    category = Category.AUTH
    passive = True
    ends_session = True


class ParentDashboard(EventType):
    """A look of a parent at what a child does."""

    child_id: Annotated[PersonId, Meta(description="At which child they looked: that user's id.")] | None = None


class ParentDashboardOpened(ParentDashboard):
    """A parent looked at what a child of theirs does."""

    category = Category.PARENT
    interactive = True


class ParentEvidenceUploaded(Evidence):
    """A parent uploaded a file that shows what their child did."""

    category = Category.PARENT
    interactive = True


class JavascriptError(EventType):
    """A script on a page failed."""

    category = Category.ERROR
    passive = True
    message: Message
    stack: Stack | None = None
    component_name: Annotated[str, Meta(description="The part of the page that failed, by its name.")] | None = None
    release: Release | None = None
    fingerprint: Fingerprint | None = None


class ApiError(EventType, kw_only=True):
    """A server answered a page with an error."""

    category = Category.ERROR
    passive = True
    message: Message
    endpoint: Annotated[str, Meta(description="What was asked of the server: the request's path.")]
    method: Annotated[str, Meta(description="The request's HTTP method.")] | None = None
    status_code: Annotated[int, Meta(ge=0, le=999, description="The HTTP status of the answer.")]
    release: Release | None = None
    fingerprint: Fingerprint | None = None


class NetworkError(EventType):
    """A page's request got no answer at all."""

    category = Category.ERROR
    passive = True
    message: Message
    endpoint: Annotated[str, Meta(description="What was asked: the request's path.")] | None = None
    release: Release | None = None
    fingerprint: Fingerprint | None = None


class CustomEvent(EventType):
    """An event of the platform's own, stored under its own name."""

    category = Category.CUSTOM
    interactive = True
    name: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_]{0,62}\\Z",
            description="What it is stored as: small letters, digits and underscores, 63 at most, a letter first, and "
            "no type of Questlog's own.",
        ),
    ]
    data: Annotated[JsonObject, Meta(description="An object of at most 4 KiB, 50 keys and 5 levels.")] | None = None

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
