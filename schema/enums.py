"""The enums of the contract, by the names that it gives them."""

from enum import Enum
from typing import Any

import strawberry

from models.consent import ConsentBasis
from models.erasure import TaskState
from models.error import ErrorType
from models.journey import Rhythm
from models.risk import EngagementLevel, RiskFactorName
from models.taxonomy import Category, MilestoneKind, SafetySeverity
from models.user import UserRole
from models.user_agent import DeviceType
from models.viewer import Role

__all__ = [
    "Category",
    "ConsentBasis",
    "DeviceType",
    "EngagementLevel",
    "ErrorType",
    "MilestoneKind",
    "Rhythm",
    "RiskFactorName",
    "Role",
    "SafetySeverity",
    "TaskState",
    "UserRole",
    "enum",
]


def enum(of: type[Enum], description: str, /, name: str | None = None, **values: str) -> None:
    """Make it an enum of the schema, each of whose values has a description."""
    described: Any = strawberry.enum(of, name=name, description=description)
    for value in described.__strawberry_definition__.values:
        value.description = values[value.name]


enum(
    Role,
    "As what somebody asks: it follows from their token, and decides what they may see.",
    ANONYMOUS="Nobody in particular: there is no token.",
    STUDENT="A learner, who sees themself.",
    PARENT="A guardian, who sees themself and the children they are linked with.",
    ADMIN="Somebody who runs the platform, and sees everybody.",
    SERVICE="The platform's own server: it sends anybody's events, says who the users are, and reads nothing of them.",
)
enum(
    ConsentBasis,
    "On whose word a consent stands.",
    PARENT="A parent's, for their child.",
    SCHOOL="The school's, for its pupil.",
    SELF="The learner's own, who is of age.",
)
enum(
    UserRole,
    "What a user is on the platform.",
    STUDENT="A learner.",
    PARENT="A guardian of learners.",
    ADMIN="Somebody who runs the platform.",
)
enum(
    Category,
    "What an event is about.",
    name="EventCategory",
    NAVIGATION="Moving through the platform's pages.",
    QUEST="Quests, their tasks, and evidence of what was done.",
    BADGE="Looking at badges, earning and claiming them.",
    TUTOR="Talks with the tutor.",
    COMMUNITY="Dealings with other users.",
    AUTH="Signing in and out.",
    PARENT="What parents do for their children.",
    ERROR="What went wrong on a page.",
    CUSTOM="Events of the platform's own, under its own names.",
)
enum(
    MilestoneKind,
    "What becomes part of a learner's own record.",
    QUEST_STARTED="They began a quest.",
    QUEST_COMPLETED="They finished a quest.",
    QUEST_ABANDONED="They gave a quest up.",
    TASK_COMPLETED="They finished a task, a step of a quest.",
    BADGE_EARNED="The platform awarded them a badge.",
    BADGE_CLAIMED="They asked for a badge that they had earned.",
)
enum(
    DeviceType,
    "On what kind of device a session took place, by the browser's user agent.",
    DESKTOP="A desk computer or a laptop.",
    MOBILE="A telephone.",
    TABLET="A tablet, or a reader.",
    OTHER="Anything else, or not known.",
)
enum(
    Rhythm,
    "How regularly a learner learns: what a parent sees in place of a score.",
    GREEN="They learned on 2 or more of the last 7 days.",
    YELLOW="They learned on fewer than 2 of the last 7 days.",
    NOT_ENOUGH_DATA="They have been known for less than 14 days, too short to say.",
)
enum(
    EngagementLevel,
    "How engaged a learner is, by the score of dropout risk: HIGH is good.",
    HIGH="A score under 0.3: nothing to worry about.",
    MEDIUM="A score from 0.3 to under 0.6.",
    LOW="A score from 0.6 to under 0.8.",
    AT_RISK="A score of 0.8 or more: somebody should ask how they are.",
)
enum(
    RiskFactorName,
    "What a score of dropout risk is made of.",
    DAYS_INACTIVE="How many days it is since they last visited.",
    LOGIN_FREQUENCY="On how many days they visited.",
    QUEST_COMPLETION="What share of the quests that they started they completed.",
    SESSION_DURATION="How long their sessions are.",
    STREAK="On how many days in a row they learned.",
)
enum(
    SafetySeverity,
    "How urgent it is what the tutor flags.",
    LOW="Worth a look some time.",
    MEDIUM="Worth a look soon.",
    HIGH="Somebody should look today.",
    CRITICAL="Somebody should look at once.",
)
enum(
    ErrorType,
    "What kind of error a page reported.",
    JAVASCRIPT_ERROR="A script on the page failed.",
    API_ERROR="A server answered the page with an error.",
    NETWORK_ERROR="The page's request got no answer at all.",
)
enum(
    TaskState,
    "How far something is that takes its time.",
    WAITING="It has not begun yet.",
    RUNNING="It is being done.",
    DONE="It is done.",
    FAILED="It could not be done.",
)
