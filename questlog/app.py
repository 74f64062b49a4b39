"""The ASGI app: who asks, and GraphQL for them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from graphql import GraphQLError
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from models.base import connect
from models.viewer import ANONYMOUS, Role, Viewer
from questlog import explorer
from questlog.access import Access, Masking, answer, identified, refusal
from questlog.body import SlowError, body_of
from questlog.database import POOLS, logins
from questlog.device import device_of, remember_device
from questlog.documents import documents_of, trusted_documents
from questlog.export import hand_over
from questlog.media_type import GRAPHQL, HTML, JSON, accepted, preferred
from questlog.parameters import MalformedError, Parameters, parameters
from questlog.settings import Settings, SettingsError, with_erasure_secret
from questlog.signin import SignInUnavailable, TokenError, TokenVerifier, authorization_of
from resolvers.cost import CostLimits, Costs
from resolvers.errors import ForbiddenError, NotFoundError, RequestError, UnauthenticatedError, UnavailableError
from resolvers.rate_limit import EventsPerMinute, RateLimits
from resolvers.reader import SECONDS_TO_ANSWER, Databases
from resolvers.request import Request, Rules
from resolvers.standing import Standings
from schema.document import Document, RefusedError
from schema.errors import all_formatted, of_request
from workers.access_log import AccessLog
from workers.intake import Intake
from workers.queue import queue_at

SECONDS_TO_CANCEL = 2
STATUSES = {"UNAUTHENTICATED": 401, "FORBIDDEN": 403, "RATE_LIMITED": 429, "UNAVAILABLE": 503}


def create_app(settings: Settings) -> Starlette:
    """The API over the databases and the queue that the settings name.

    Raises SettingsError where they name none. Nothing is opened before the app starts.
    """
    settings = with_erasure_secret(settings)
    if settings.redis_url is None:
        raise SettingsError("set QUESTLOG_REDIS_URL, or let questlog serve start its own")
    urls = logins(settings)
    redis_url = settings.redis_url
    api = Api(settings)
    statement_seconds = settings.seconds_to_answer + SECONDS_TO_CANCEL

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        queue = queue_at(redis_url)
        api.databases = Databases(
            viewer=connect(
                urls.viewer, pool_size=POOLS["viewer"], name="questlog viewer", statement_seconds=statement_seconds
            ),
            admin=connect(
                urls.admin, pool_size=POOLS["admin"], name="questlog admin", statement_seconds=statement_seconds
            ),
            intake=connect(urls.intake, pool_size=POOLS["intake"], name="questlog intake", secret=settings.erasure_key),
        )
        api.standings = Standings(api.databases, settings.consent_rule)
        api.intake = Intake(
            queue,
            api.databases.intake,
            anonymize_after_days=settings.anonymize_after_days,
            consent_rule=settings.consent_rule,
            most_bytes=settings.queue_bytes,
        )
        api.access_log = AccessLog(api.databases.intake)
        api.rate_limits = RateLimits(
            queue,
            EventsPerMinute(
                settings.user_events_per_minute,
                settings.device_events_per_minute,
                settings.address_events_per_minute,
            ),
        )
        api.costs = Costs(queue, CostLimits(settings.question_cost, settings.cost_maximum, settings.cost_restore_rate))
        try:
            yield
        finally:
            await api.intake.close()
            await api.access_log.close()
            await api.standings.close()
            await queue.aclose(close_connection_pool=True)
            await api.databases.dispose()

    return Starlette(
        routes=[
            Route("/graphql", api),
            Route("/exports/{export_id}", Exports(api), methods=["GET"]),
            Route("/healthz", _healthy),
            Route("/readyz", api.ready),
            *([explorer.assets()] if api.has_explorer else []),
        ],
        middleware=[
            Middleware(Access),
            *_behind_proxies(settings),
            *_for_other_origins(settings),
            Middleware(Masking),
        ],
        lifespan=lifespan,
    )


def _behind_proxies(settings: Settings) -> Iterator[Middleware]:
    if settings.trusted_proxies:
        yield Middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))


def _for_other_origins(settings: Settings) -> Iterator[Middleware]:
    if settings.cors_origins:
        yield Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=methods(settings),
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id"],
            allow_credentials=True,
        )


def methods(settings: Settings) -> Sequence[str]:
    """How GraphQL may be asked."""
    return ["GET", "POST"] if settings.queries_by_get else ["POST"]


async def _healthy(_http: HttpRequest) -> Response:
    return PlainTextResponse("ok")


class Api:
    """GraphQL over HTTP, for whoever the request's token names."""

    intake: Intake
    access_log: AccessLog
    databases: Databases
    rate_limits: RateLimits
    costs: Costs
    standings: Standings

    def __init__(self, settings: Settings) -> None:
        self._verifier = TokenVerifier(settings)
        self._rules = Rules(
            settings.trust_clients,
            settings.anonymize_after_days,
            settings.delete_after_days,
            settings.seconds_to_answer,
            settings.consent_rule,
        )
        self._documents = documents_of(settings)
        self._trusted = trusted_documents(settings)
        self._settings = settings
        self.has_explorer = settings.environment == "development"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        http = HttpRequest(scope, receive)
        if self.has_explorer and http.method == "GET" and preferred(accepted(http.headers), (JSON, HTML)) == HTML:
            await explorer.page()(scope, receive, send)
            return
        try:
            body = await body_of(http)
            self._check(http)
            asked = parameters(http, body)
            viewer = await self.viewer_of(http)
        except (MalformedError, SlowError) as error:
            await self._malformed(http, error)(scope, receive, send)
            return
        except RequestError as error:
            status = STATUSES[error.code]
            headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
            await refusal(scope, status, [of_request(error)], headers)(scope, receive, send)
            return
        request = scope["questlog.request"] = self.request_of(http, viewer)

        async def send_with_device(message: Message) -> None:
            is_remembered = viewer.role is Role.ANONYMOUS and not request.objects
            if message["type"] == "http.response.start" and is_remembered and request.device_id:
                remember_device(message, request.device_id, secure=http.url.scheme == "https")
            await send(message)

        try:
            response = await self._answer(http, request, asked)
        finally:
            # While it is sent: whoever does not read it would hold a connection to the database.
            closing = asyncio.ensure_future(request.close())
        await response(scope, receive, send_with_device)
        await closing

    def request_of(self, http: HttpRequest, viewer: Viewer) -> Request:
        """What is known of the request, which is to be closed."""
        return Request(
            viewer,
            self.databases,
            self.intake,
            self.rate_limits,
            self.costs,
            self._rules,
            self.standings,
            self.access_log,
            user_agent=http.headers.get("user-agent"),
            ip_address=http.client.host if http.client else None,
            device_id=device_of(http),
            objects=http.headers.get("sec-gpc") == "1",
        )

    def _check(self, http: HttpRequest) -> None:
        """Raise MalformedError where the method or the media type is none of ours."""
        allowed = methods(self._settings)
        if http.method not in allowed:
            raise MalformedError(f"the method must be {' or '.join(allowed)}", 405, {"allow": ", ".join(allowed)})
        if preferred(accepted(http.headers)) is None:
            raise MalformedError(f"Accept must have {JSON} or {GRAPHQL}, in UTF-8", 406)

    async def _answer(self, http: HttpRequest, request: Request, asked: Parameters) -> Response:
        """What the request is answered once it is known who asks what."""
        try:
            document = self._document(request.viewer, asked)
            if http.method == "GET" and document.is_mutation(asked.operation_name):
                raise MalformedError("a mutation must be sent by POST", 405, {"allow": "POST"})
            result = await document.execute(request, asked.variables, asked.operation_name)
        except MalformedError as error:
            return self._malformed(http, error)
        except RequestError as error:
            return self._refused(http, [GraphQLError(str(error), original_error=error)])
        except RefusedError as error:
            return self._refused(http, error.errors)
        body: dict[str, Any] = {"data": result.data}
        if result.errors:
            body["errors"] = identified(http.scope, all_formatted(result.errors))
        if result.extensions:
            body["extensions"] = result.extensions
        return answer(http.scope, body, 200)

    def _document(self, viewer: Viewer, asked: Parameters) -> Document:
        """The document that is asked for; raises RefusedError where it is not valid, and RequestError where it may not
        be asked for."""
        if asked.document_id is not None:
            if document := self._trusted.get(asked.document_id):
                return document
            instead = "" if self._only_trusted(viewer) else ", or the document itself as query"
            raise NotFoundError(f"no document has this id: send another documentId{instead}")
        if self._only_trusted(viewer):
            raise ForbiddenError("only trusted documents are executed here: send the documentId of one, and no query")
        is_open = viewer.role is Role.ADMIN or self._settings.environment == "development"
        return self._documents.get(asked.query or "", is_open=is_open)

    def _only_trusted(self, viewer: Viewer) -> bool:
        is_exempt = viewer.role is Role.ADMIN and self._settings.documents_exempt_admins
        return self._settings.documents_required and not is_exempt

    @staticmethod
    def _malformed(http: HttpRequest, error: MalformedError | SlowError) -> Response:
        return refusal(http.scope, error.status, [of_request(error)], error.headers)

    @staticmethod
    def _refused(http: HttpRequest, errors: Sequence[GraphQLError]) -> Response:
        """In the older media type a status tells nothing of GraphQL."""
        formatted = all_formatted(errors)
        is_graphql = preferred(accepted(http.headers)) == GRAPHQL
        return refusal(
            http.scope, STATUSES.get(formatted[0]["extensions"]["code"], 400) if is_graphql else 200, formatted
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

    async def viewer_of(self, http: HttpRequest) -> Viewer:
        """Who asks; raises RequestError where that cannot be told."""
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


class Exports:
    """Archives of what is kept of somebody, for whoever asked for them."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        http = HttpRequest(scope, receive)
        try:
            viewer = await self._api.viewer_of(http)
        except RequestError as error:
            await refusal(scope, STATUSES[error.code], [of_request(error)])(scope, receive, send)
            return
        request = scope["questlog.request"] = self._api.request_of(http, viewer)
        try:
            try:
                response = await hand_over(request, http.path_params["export_id"])
            except UnavailableError as error:
                response = refusal(scope, STATUSES[error.code], [of_request(error)])
        finally:
            await request.close()
        await response(scope, receive, send)
