"""Dropout risk."""

from datetime import datetime

import strawberry

from models.risk import Assessment
from schema.enums import EngagementLevel, RiskFactorName


@strawberry.type(description="One thing that a score is made of.")
class RiskFactor:
    """The contract's RiskFactor."""

    name: RiskFactorName = strawberry.field(description="What is looked at.")
    weight: float = strawberry.field(description="Its share in the score, where every factor has a value.")
    value: float | None = strawberry.field(
        description="From 0, nothing to worry about, to 1; null where there is nothing to tell it by."
    )
    evidence: str = strawberry.field(description="What it is told by, in plain words.")


@strawberry.type(
    description="How likely it seems that a learner stops coming, by what they did: a hint to look at them, no verdict."
)
class RiskAssessment:
    """The contract's RiskAssessment."""

    score: float | None = strawberry.field(
        description="The weighted mean of the factors that have a value, 0 to 1; null before a learner has been known "
        "for 14 local dates."
    )
    engagement_level: EngagementLevel | None = strawberry.field(description="The score in a word; null as it is.")
    factors: list[RiskFactor] = strawberry.field(description="What the score is made of, the heaviest first.")
    assessed_at: datetime = strawberry.field(
        description="As of when: their days changed then, or a local midnight had passed."
    )
    model: str = strawberry.field(description="The rule or model that was used, with its version.")

    @classmethod
    def of(cls, assessment: Assessment) -> "RiskAssessment":
        """The assessment in this shape."""
        return cls(
            score=assessment.score,
            engagement_level=assessment.level,
            factors=[RiskFactor(**factor._asdict()) for factor in assessment.factors],
            assessed_at=assessment.assessed_at,
            model=assessment.model,
        )
