"""Sessions."""

from datetime import datetime, timedelta
from uuid import UUID

import strawberry

from resolvers.reader import AnyRow
from schema.enums import DeviceType
from schema.node import Info, Node, global_id

MINUTE = timedelta(minutes=1)


@strawberry.type(description="What a learner did on one device without a break of half an hour.")
class Session(Node):
    """The contract's Session."""

    subject_key: strawberry.Private[UUID]
    started_at: datetime = strawberry.field(description="Time of its first event.")
    ended_at: datetime = strawberry.field(description="Time of its last activity.")
    is_open: bool = strawberry.field(description="Whether it may still go on; its figures then count so far.")
    duration_minutes: float = strawberry.field(description="From its first event to its last activity.")
    page_views: int = strawberry.field(description="How often a page was opened in it.")
    events: int = strawberry.field(description="How many events of every type belong to it.")
    is_bounce: bool | None = strawberry.field(
        description="Whether it had one page view and nothing else of note; null without a page view."
    )
    entry_path: str | None = strawberry.field(description="The path of its first page view.")
    exit_path: str | None = strawberry.field(description="The path of its last page view.")
    device_type: DeviceType = strawberry.field(description="The kind of device; OTHER where it is not known.")
    browser: str | None = strawberry.field(description="The browser's name, without its version.")
    os: str | None = strawberry.field(description="The system's name, without its version.")

    @classmethod
    def of(cls, info: Info, row: AnyRow) -> "Session":
        """The row in this shape, as of the request's time."""
        return cls(
            id=global_id("Session", row.subject_key, row.started_at, row.session_id),
            subject_key=row.subject_key,
            started_at=row.started_at,
            ended_at=row.ended_at,
            is_open=info.context.now < row.open_until,
            duration_minutes=(row.ended_at - row.started_at) / MINUTE,
            page_views=row.page_views,
            events=row.events,
            is_bounce=row.is_bounce,
            entry_path=row.entry_path,
            exit_path=row.exit_path,
            device_type=DeviceType(row.device_type),
            browser=row.browser,
            os=row.os,
        )
