"""The enums of the contract, by the names that it gives them."""

import strawberry

from models.error import ErrorType
from models.journey import Rhythm
from models.risk import EngagementLevel, RiskFactorName
from models.taxonomy import Category, MilestoneKind, SafetySeverity
from models.user import UserRole
from models.user_agent import DeviceType
from models.viewer import Role

__all__ = [
    "Category",
    "DeviceType",
    "EngagementLevel",
    "ErrorType",
    "MilestoneKind",
    "Rhythm",
    "RiskFactorName",
    "Role",
    "SafetySeverity",
    "UserRole",
]

strawberry.enum(Role, description="Who asks.")
strawberry.enum(UserRole, description="Who is kept.")
strawberry.enum(Category, name="EventCategory", description="What an event is about.")
strawberry.enum(MilestoneKind, description="What becomes part of a learner's own record.")
strawberry.enum(DeviceType, description="On what kind of device a session took place.")
strawberry.enum(Rhythm, description="How regularly a learner learns: what a parent sees in place of a score.")
strawberry.enum(EngagementLevel, description="How engaged a learner is: HIGH is good.")
strawberry.enum(RiskFactorName, description="What a score of dropout risk is made of.")
strawberry.enum(SafetySeverity, description="How serious the tutor takes what it flags.")
strawberry.enum(ErrorType, description="What kind of error it is.")
