"""Dropout risk, which admins alone are told."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, select

from models.risk import USUAL_WINDOW, WINDOWS, Assessment, Factor, RiskAssessment, RiskFactorName, assess
from models.user import User
from models.viewer import Role, visible_to
from resolvers.connection import Order, Page, Slice, is_asked
from resolvers.errors import BadUserInputError
from resolvers.request import Request
from workers.risk import record, records

BY_SCORE = Order("atRiskStudents", (RiskAssessment.rank, RiskAssessment.user_id), newest_first=False)
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
    visible = visible_to(request.viewer, RiskAssessment.subject_key)
    rows = await request.reader.rows(_assessments(visible, days), subject_keys=list(subject_keys))
    found = {row.subject_key: assessment_of(row) for row in rows}
    if new := [key for key in subject_keys if key not in found]:
        seen = records(new, request.now).where(visible_to(request.viewer, User.subject_key))
        for row in await request.reader.rows(seen):
            found[row.subject_key] = assess(record(row), days, request.now)
    return found


@lru_cache(maxsize=100)
def _assessments(visible: ColumnElement[bool], days: int) -> Select[Any]:
    said = select(RiskAssessment.subject_key, *SAID)
    return said.where(is_asked(RiskAssessment.subject_key), RiskAssessment.days == days, visible)


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
    statement = (
        select(User.__table__, *SAID, RiskAssessment.rank)
        .join(RiskAssessment, RiskAssessment.subject_key == User.subject_key)
        .where(RiskAssessment.days == days, RiskAssessment.rank <= -threshold)
        .where(visible_to(request.viewer, RiskAssessment.subject_key))
    )
    return page.slice(await request.reader.rows(page.of(statement)))


def assessment_of(row: Row[Any]) -> Assessment:
    """What a row says."""
    factors = [Factor(name, *row.factors[name]) for name in RiskFactorName if name in row.factors]
    return Assessment(row.score, factors, row.assessed_at, row.model)
