"""The explorer: GraphiQL for developers, all of which comes from here."""

from importlib.resources import files

from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

GRAPHIQL = ("graphene_django_graphiql_static", "static/graphene_django_graphiql_static")
PAGE = files(__name__).joinpath("page.html").read_bytes()
# GraphiQL sets styles where it shows something; nothing else may come from elsewhere than files of ours.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page() -> Response:
    """The page, which asks at /graphql of its own host."""
    return Response(PAGE, headers={"content-security-policy": POLICY}, media_type="text/html")


def assets() -> Mount:
    """What the page loads."""
    return Mount("/explorer", StaticFiles(packages=[__name__, GRAPHIQL]))
