"""How the intake fares: the ledger, for whoever runs the platform."""

from redis.exceptions import RedisError

from models.viewer import Role
from resolvers.errors import UnavailableError
from resolvers.request import Request
from workers.ledger import Ledger, ledger


async def intake_status(request: Request) -> Ledger:
    """The ledger as it stands; raises UnavailableError where one of the servers that keep it is away."""
    request.require(Role.ADMIN, Role.SERVICE)
    try:
        async with request.databases.writing() as connection:
            return await ledger(connection, request.intake.queue)
    except RedisError as error:
        raise UnavailableError("the queue is away: try again") from error
