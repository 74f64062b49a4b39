"""Archives of all that is kept of somebody, in the contract's shape."""

from datetime import datetime

import strawberry

from resolvers.export import Asked
from resolvers.reader import AnyRow
from schema.enums import TaskState
from schema.guardianship import UserError
from schema.node import Node, global_id


@strawberry.input(description="Of whom to make an archive.")
class ExportUserDataInput:
    """The contract's ExportUserDataInput."""

    user_id: strawberry.ID = strawberry.field(description="Oneself, a parent's child, or for an admin anybody.")


@strawberry.type(description="An archive of everything held about somebody, for who asked for it.")
class DataExport(Node):
    """The contract's DataExport."""

    state: TaskState = strawberry.field(description="How far it is.")
    requested_at: datetime = strawberry.field(description="When it was asked for.")
    expires_at: datetime | None = strawberry.field(description="Until when it is offered: 7 days from when it is DONE.")
    download_url: str | None = strawberry.field(
        description="Where it is, below the API's own host: fetched with the same person's token; null until DONE."
    )

    @classmethod
    def of(cls, row: AnyRow) -> "DataExport":
        """The row in this shape."""
        state = TaskState(row.state)
        return cls(
            id=global_id("DataExport", row.export_id),
            state=state,
            requested_at=row.requested_at,
            expires_at=row.expires_at,
            download_url=f"/exports/{row.export_id}" if state is TaskState.DONE else None,
        )


@strawberry.type(description="The archive that is being made.")
class ExportUserDataPayload:
    """The contract's ExportUserDataPayload."""

    export: DataExport | None = strawberry.field(description="The archive; null where none is made.")
    user_errors: list[UserError] = strawberry.field(description="Why none is made.")

    @classmethod
    def of(cls, asked: Asked) -> "ExportUserDataPayload":
        """What became of it, in this shape."""
        row, refusals = asked
        return cls(export=row and DataExport.of(row), user_errors=[UserError.of(refusal) for refusal in refusals])
