"""The enums of the contract, by the names that it gives them."""

import strawberry

from models.error import ErrorType
from models.journey import Rhythm
from models.taxonomy import Category, MilestoneKind, SafetySeverity
from models.user import UserRole
from models.viewer import Role

__all__ = ["Category", "ErrorType", "MilestoneKind", "Rhythm", "Role", "SafetySeverity", "UserRole"]

strawberry.enum(Role, description="Who asks.")
strawberry.enum(UserRole, description="Who is kept.")
strawberry.enum(Category, name="EventCategory", description="What an event is about.")
strawberry.enum(MilestoneKind, description="What becomes part of a learner's own record.")
strawberry.enum(Rhythm, description="How regularly a learner learns: what a parent sees in place of a score.")
strawberry.enum(SafetySeverity, description="How serious the tutor takes what it flags.")
strawberry.enum(ErrorType, description="What kind of error it is.")
