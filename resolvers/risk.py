"""Dropout risk, which admins alone are told."""

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from sqlalchemy import ColumnElement, Float, SmallInteger, bindparam, select

from models.risk import USUAL_WINDOW, WINDOWS, Assessment, Factor, RiskAssessment, RiskFactorName, assess
from models.user import User
from models.viewer import Role, visible_to
from resolvers.connection import Order, Page, Slice, is_asked
from resolvers.errors import BadUserInputError
from resolvers.prepared import Prepared
from resolvers.reader import AnyRow
from resolvers.request import Request
from workers.risk import record, records

BY_SCORE = Order("atRiskStudents", (RiskAssessment.rank, RiskAssessment.user_id), newest_first=False)
DAYS = bindparam("days", type_=SmallInteger())
SAID = (
    RiskAssessment.score,
    RiskAssessment.factors,
    RiskAssessment.model,
    RiskAssessment.assessed_at,
)


async def assessment(request: Request, subject_key: UUID) -> Assessment:
    """What is said of a user over the last 30 days; raises ForbiddenError for all but admins."""
    request.require(Role.ADMIN)
    return await request.load(assessments, subject_key, USUAL_WINDOW)


async def assessments(request: Request, subject_keys: Sequence[UUID], days: int) -> dict[UUID, Assessment]:
    """What is said of each subject over the last days. Who became known a moment ago is assessed here and now."""
    statement = _assessments(visible_to(request.viewer, RiskAssessment.subject_key))
    rows = await request.reader.rows(statement, subject_keys=list(subject_keys), days=days)
    found = {row.subject_key: assessment_of(row) for row in rows}
    if new := [key for key in subject_keys if key not in found]:
        seen = records(new, request.now).where(visible_to(request.viewer, User.subject_key))
        for row in await request.reader.rows(seen):
            found[row.subject_key] = assess(record(row), days, request.now)
    return found


@lru_cache(maxsize=100)
def _assessments(visible: ColumnElement[bool]) -> Prepared:
    said = select(RiskAssessment.subject_key, *SAID)
    return Prepared(said.where(is_asked(RiskAssessment.subject_key), RiskAssessment.days == DAYS, visible))


async def at_risk_students(request: Request, days: int, threshold: float, page: Page) -> Slice:
    """A page of the students whose score over the last days is at least the threshold, highest first, then by user
    id: rows of users, and beside them what `assessment_of` reads.

    Raises BadUserInputError that names the argument and its range.
    """
    request.require(Role.ADMIN)
    if days not in WINDOWS:
        raise BadUserInputError(f"days is {days}, and must be 7, 14, 30 or 90")
    if not 0 <= threshold <= 1:
        raise BadUserInputError(f"threshold is {threshold}, and must be 0 to 1")
    statement = _at_risk(page.shape, visible_to(request.viewer, RiskAssessment.subject_key))
    rows = await request.reader.rows(statement, days=days, rank=-threshold, **page.parameters())
    return page.slice(rows)


@lru_cache(maxsize=100)
def _at_risk(page: Page, visible: ColumnElement[bool]) -> Prepared:
    statement = (
        select(User.__table__, *SAID, RiskAssessment.rank)
        .join(RiskAssessment, RiskAssessment.subject_key == User.subject_key)
        .where(RiskAssessment.days == DAYS, RiskAssessment.rank <= bindparam("rank", type_=Float()), visible)
    )
    return Prepared(page.of(statement))


def assessment_of(row: AnyRow) -> Assessment:
    """What a row says."""
    factors = [Factor(name, *row.factors[name]) for name in RiskFactorName if name in row.factors]
    return Assessment(row.score, factors, row.assessed_at, row.model)
