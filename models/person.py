"""What is kept of a person: in which tables, and under which columns."""

from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, CompoundSelect, and_, false, or_, select, union
from sqlalchemy.orm import InstrumentedAttribute

from models.access_log import AccessLogEntry
from models.base import Base
from models.consent import Consent
from models.contribution import DailyContribution
from models.engagement import DailyActivity
from models.error import ErrorEvent
from models.event import UserActivityEvent
from models.export import DataExport
from models.guardianship import Guardianship
from models.journey import LearningJourneyEvent
from models.retention import SealedSession
from models.risk import AssessmentDue, RiskAssessment
from models.rollup import DirtySpan
from models.session import UserSession
from models.user import User


class Kept(NamedTuple):
    """A table with rows of people: the column whose subject key says whose a row is, and one that names somebody else,
    where there is one; how an archive names and explains the rows, and whether they go together with the account.

    A row that names somebody who is erased goes too where the database's own rule says so (CASCADE); otherwise (SET
    NULL) it stays, and names nobody any more.
    """

    table: type[Base]
    whose: tuple[InstrumentedAttribute[Any], ...]
    name: str
    about: str
    with_account: bool = False

    def concerns(self, subject_key: UUID) -> ColumnElement[bool]:
        """The rows that are of somebody or name them."""
        return or_(*(column == subject_key for column in self.whose))

    def outlives(self, subject_key: UUID) -> ColumnElement[bool]:
        """The rows that name somebody and stay when they are erased."""
        staying = [column for column in self.whose[1:] if _is_emptied(column)]
        return and_(self.whose[0] != subject_key, or_(false(), *(column == subject_key for column in staying)))


def _is_emptied(column: InstrumentedAttribute[Any]) -> bool:
    return any(key.ondelete == "SET NULL" for key in column.property.columns[0].foreign_keys)


def _kept(table: Any, name: str, about: str, *, named: tuple[Any, ...] = (), with_account: bool = False) -> Kept:
    return Kept(table, (table.subject_key, *named), name, about, with_account)


KEPT = (
    _kept(
        Guardianship,
        "guardians",
        "who may see whom: subject_key is the child, guardian_key their guardian, both by user id",
        named=(Guardianship.guardian_key,),
        with_account=True,
    ),
    _kept(
        Consent,
        "consents",
        "consents to keep a learner's events, revoked ones too: subject_key is the learner, given_by_key who gave it,"
        " where they are known here, both by user id",
        named=(Consent.given_by_key,),
        with_account=True,
    ),
    _kept(
        RiskAssessment,
        "risk",
        "what is inferred of how likely you are to stop coming, over the last `days`: the score, each factor's weight,"
        " value and evidence in words, and the rule it was inferred by",
        with_account=True,
    ),
    _kept(AssessmentDue, "risk_due", "when that is inferred next", with_account=True),
    _kept(
        DataExport,
        "exports",
        "archives such as this one: whom each tells of (subject_key) and who asked for it, both by user id",
        named=(DataExport.asked_by_key,),
        with_account=True,
    ),
    _kept(
        AccessLogEntry,
        "access",
        "who read whose data, and which fields, in which hour (UTC) and from when on: subject_key is whose data it was,"
        " viewer_key who read it, both by user id",
        named=(AccessLogEntry.viewer_key,),
        with_account=True,
    ),
    _kept(User, "account", "your account, as the platform told it, and when you were seen", with_account=True),
    _kept(
        UserActivityEvent,
        "events",
        "what you did, event by event: when by your clock and ours, on which device and page, and the event's own data;"
        " for about 90 days, after which nothing tells that it was you",
    ),
    _kept(ErrorEvent, "errors", "errors that pages reported while you used them, for as long"),
    _kept(UserSession, "sessions", "visits, as derived from the events, for as long"),
    _kept(
        DailyActivity,
        "days",
        "your days, each by your own calendar: events in all and by category, whether you visited and learnt, quests"
        " viewed, and session lengths in milliseconds",
    ),
    _kept(LearningJourneyEvent, "milestones", "what you achieved, for as long as your account lives"),
    _kept(
        DailyContribution,
        "contributions",
        "what your days in UTC add to the platform's numbers; pages, quests and badges stand there as numbers",
    ),
    _kept(
        SealedSession,
        "sealed_sessions",
        "when visits ended that began in the last week of which nothing tells any more that it was you: for a week",
    ),
    _kept(DirtySpan, "to_derive", "spans of time of which the figures above are about to be derived again"),
)

NOT_OF_PEOPLE = {
    "devices": "subjects of devices, whose events nobody signed",
    "data_export_parts": "the bytes of an archive, which goes with its row in data_exports",
    "erasures": "holds whom it erases until it is done",
}
"""Tables with such columns, of which an archive tells nothing."""


def keys_beside(subject_key: UUID) -> CompoundSelect[Any]:
    """The subject keys in rows that are of somebody or name them, and of somebody else or name them, too."""
    return union(
        *(select(each).where(kept.concerns(subject_key)) for kept in KEPT if len(kept.whose) > 1 for each in kept.whose)
    )
