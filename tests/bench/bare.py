"""Limit A: a bare ASGI app in the same uvicorn, which parses the same JSON and hands it to the same group commit.

It asks nobody who they are, judges nothing, counts nothing and knows no GraphQL.
"""

import asyncio
import socket
import sys
from datetime import UTC, datetime
from itertools import cycle
from typing import Any
from uuid import UUID

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from models.base import connect
from models.event import TrackedEvent
from models.taxonomy import EVENT_TYPES
from models.user import UserRole
from questlog.database import logins
from questlog.process import settle_memory
from questlog.settings import load
from schema.tracking import camel
from workers.intake import Intake
from workers.queue import open_queue

KINDS = {camel(name): name for name in EVENT_TYPES}
PEOPLE = cycle([f"pupil {number}" for number in range(1000)])


async def serve(listener: int) -> None:
    """Serve the listening socket of this file descriptor until SIGTERM."""
    settings = load()
    queue = await open_queue(settings.redis_url or "")
    engine = connect(logins(settings).intake, pool_size=4)
    intake = Intake(queue, engine, anonymize_after_days=settings.anonymize_after_days)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        variables = orjson.loads(body + message["body"])["variables"]
        received_at, user_id = datetime.now(UTC), next(PEOPLE)
        events = variables["events"] if "events" in variables else [variables["input"]]
        await intake.keep([tracked(event, user_id, received_at) for event in events])
        answer = orjson.dumps({"accepted": len(events), "receivedAt": received_at})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    settle_memory()
    config = uvicorn.Config(app, ws="none", lifespan="off", log_level="warning", access_log=False, server_header=False)
    await uvicorn.Server(config).serve([socket.socket(fileno=listener)])
    await intake.close()


def tracked(event: dict[str, Any], user_id: str, received_at: datetime) -> TrackedEvent:
    """The event as it came, unjudged."""
    ((field, data),) = event["event"].items()

    return TrackedEvent(
        UUID(event["eventId"]),
        datetime.fromisoformat(event["occurredAt"]),
        received_at,
        KINDS[field],
        user_id,
        UserRole.STUDENT,
        False,
        orjson.dumps(data).decode(),
        UUID(event["deviceId"]) if "deviceId" in event else None,
        event.get("page", {}).get("path"),
    )


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
