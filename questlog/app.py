"""The ASGI app: who asks, and GraphQL for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from json import JSONDecodeError
from typing import Any

import orjson
import strawberry.asgi
from cross_web import HTTPException
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from strawberry.http import GraphQLHTTPResponse
from strawberry.types import ExecutionResult
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from models.base import connect
from models.viewer import ANONYMOUS, Role, Viewer
from questlog.access import Access, Masking, identified, refusal
from questlog.body import BodyLimit
from questlog.database import POOLS, logins
from questlog.device import device_of, remember_device
from questlog.settings import Settings, SettingsError
from questlog.signin import SignInUnavailable, TokenError, TokenVerifier, authorization_of
from resolvers.errors import RequestError, UnauthenticatedError, UnavailableError
from resolvers.rate_limit import EventsPerMinute, RateLimits
from resolvers.reader import SECONDS_TO_ANSWER, Databases
from resolvers.request import Request, Rules
from schema.errors import all_formatted
from schema.root import schema
from workers.intake import Intake
from workers.queue import queue_at


def create_app(settings: Settings) -> Starlette:
    """The API over the databases and the queue that the settings name.

    Raises SettingsError where they name none. Nothing is opened before the app starts.
    """
    if settings.redis_url is None:
        raise SettingsError("set QUESTLOG_REDIS_URL, or let questlog serve start its own")
    urls = logins(settings)
    redis_url = settings.redis_url
    api = Api(TokenVerifier(settings), Rules(settings.trust_clients, settings.anonymize_after_days))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        queue = queue_at(redis_url)
        api.databases = Databases(
            viewer=connect(urls.viewer, pool_size=POOLS["viewer"], name="questlog viewer"),
            admin=connect(urls.admin, pool_size=POOLS["admin"], name="questlog admin"),
            intake=connect(urls.intake, pool_size=POOLS["intake"], name="questlog intake"),
        )
        api.intake = Intake(
            queue,
            api.databases.intake,
            anonymize_after_days=settings.anonymize_after_days,
            most_bytes=settings.queue_bytes,
        )
        api.rate_limits = RateLimits(
            queue,
            EventsPerMinute(
                settings.user_events_per_minute,
                settings.device_events_per_minute,
                settings.address_events_per_minute,
            ),
        )
        yield
        await api.intake.close()
        await queue.aclose(close_connection_pool=True)
        await api.databases.dispose()

    return Starlette(
        routes=[
            Route("/graphql", api, methods=["POST"]),
            Route("/healthz", _healthy),
            Route("/readyz", api.ready),
        ],
        middleware=[
            Middleware(Access),
            Middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies)),
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["POST"],
                allow_headers=["authorization", "content-type", "x-request-id"],
                expose_headers=["x-request-id"],
                allow_credentials=True,
            ),
            Middleware(Masking),
            Middleware(BodyLimit),
        ],
        lifespan=lifespan,
    )


async def _healthy(_http: HttpRequest) -> Response:
    return PlainTextResponse("ok")


class Api(strawberry.asgi.GraphQL[Request, None]):
    """GraphQL over HTTP, for whoever the request's token names."""

    intake: Intake
    databases: Databases
    rate_limits: RateLimits

    def __init__(self, verifier: TokenVerifier, rules: Rules) -> None:
        super().__init__(schema, graphql_ide=None, allow_queries_via_get=False)
        self._verifier = verifier
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        http = HttpRequest(scope, receive)
        try:
            viewer = await self._viewer(http)
        except RequestError as error:
            errors = [{"message": str(error), "extensions": error.extensions}]
            status = 401 if isinstance(error, UnauthenticatedError) else 503
            await refusal(scope, status, errors)(scope, receive, send)
            return
        request = scope["questlog.request"] = Request(
            viewer,
            self.databases,
            self.intake,
            self.rate_limits,
            self._rules,
            user_agent=http.headers.get("user-agent"),
            ip_address=http.client.host if http.client else None,
            device_id=device_of(http),
        )

        async def send_with_device(message: Message) -> None:
            if message["type"] == "http.response.start" and viewer.role is Role.ANONYMOUS and request.device_id:
                remember_device(message, request.device_id, secure=http.url.scheme == "https")
            await send(message)

        try:
            answer = await self._answer(http)
            await answer(scope, receive, send_with_device)
        finally:
            await request.close()

    async def _answer(self, http: HttpRequest) -> Response:
        try:
            return await self.run(http)
        except HTTPException as error:
            return refusal(
                http.scope, error.status_code, [{"message": error.reason, "extensions": {"code": "BAD_USER_INPUT"}}]
            )

    async def ready(self, http: HttpRequest) -> Response:
        """Whether events can be taken and questions answered; 503 with the reason where they cannot.

        Without the queue both still can.
        """
        try:
            async with self.databases.writing(SECONDS_TO_ANSWER) as connection:
                await connection.execute(select(1))
        except RequestError as error:
            return PlainTextResponse(str(error), 503)
        return PlainTextResponse("ok")

    async def _viewer(self, http: HttpRequest) -> Viewer:
        try:
            claims = await self._verifier.verify(authorization_of(http.headers))
        except TokenError as error:
            raise UnauthenticatedError(str(error)) from error
        except SignInUnavailable as error:
            raise UnavailableError(str(error)) from error
        if claims is None:
            return ANONYMOUS
        role = claims.role or await self.databases.kept_role(claims.user_id)
        if role is None:
            raise UnauthenticatedError("the token names no role, and none is kept for its user")
        return Viewer(role, claims.user_id)

    async def get_context(self, request: Any, response: Any) -> Request:
        """What resolvers get to know of the request."""
        context: Request = request.scope["questlog.request"]
        return context

    async def process_result(self, request: HttpRequest, result: ExecutionResult) -> GraphQLHTTPResponse:
        """The answer as it is sent, its errors with their codes."""
        answer: GraphQLHTTPResponse = {"data": result.data}
        if result.errors:
            answer["errors"] = list(identified(request.scope, all_formatted(result.errors)))
        return answer

    def decode_json(self, data: str | bytes) -> object:
        """By orjson, which takes no NaN. Raises JSONDecodeError for what is JSON, but no request."""
        decoded = orjson.loads(data)
        if not isinstance(decoded, dict):
            raise JSONDecodeError("a request is a JSON object", "", 0)
        return decoded

    def encode_json(self, data: object) -> bytes:
        """By orjson."""
        return orjson.dumps(data)
