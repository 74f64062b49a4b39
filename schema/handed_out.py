"""Whose data an answer hands out, noted where it is put together: every object that tells of a user says of whom by its
`subject_key`."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from graphql import GraphQLError, GraphQLObjectType
from graphql.execution.collect_fields import GroupedFieldSet
from graphql.execution.executor import Executor as PlainExecutor
from graphql.pyutils import Path

from models.access_log import Access
from models.viewer import Role
from resolvers.request import HandedOut, Request

LOOKERS = (Role.PARENT, Role.ADMIN)
"""Who may see others at all."""
USER = "User"
OUTERMOST = (USER, "LearningJourney")
"""What holds other objects that tell of the same user: it is noted, and they are not."""


class Executor(PlainExecutor[Any]):
    """graphql-core's, which also notes in the request whose data it hands out."""

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: GroupedFieldSet,
        position_context: Any,
    ) -> Any:
        """The fields of one object."""
        subject_key = getattr(source_value, "subject_key", None)
        if path and subject_key and _is_noted(self.context_value, parent_type.name, source_value, path):
            fields = {name: details[0].node.name.value for name, details in grouped_field_set.items()}
            self.context_value.handed_out.append(HandedOut(subject_key, (*path.as_list(),), parent_type.name, fields))
        return super().execute_fields(parent_type, source_value, path, grouped_field_set, position_context)


def _is_noted(request: Request, type_name: str, source: Any, path: Path) -> bool:
    if request.viewer.role not in LOOKERS:
        return False
    if type_name == USER:
        return bool(source.user_id != request.viewer.user_id)
    place: Path | None = path
    while place:
        if place.typename in OUTERMOST:
            return False
        place = place.prev
    return True


def keep_handed_out(request: Request, errors: Sequence[GraphQLError]) -> None:
    """Let it be kept whose data was handed out, but for the fields that came to an error."""
    viewer = request.viewer
    failed = {tuple(error.path) for error in errors if error.path}
    read: defaultdict[UUID, set[str]] = defaultdict(set)
    for one in request.handed_out:
        read[one.subject_key] |= {
            f"{one.type_name}.{field}"
            for name, field in one.fields.items()
            if field != "__typename" and (*one.path, name) not in failed
        }
    for subject_key, fields in read.items():
        if fields and viewer.user_id:
            request.access_log.note(Access(subject_key, viewer.user_id, viewer.role, request.now, frozenset(fields)))
