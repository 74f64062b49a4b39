"""How questions reach the database: one transaction a request, by a login that shows the viewer's rows alone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from sqlalchemy import Executable, Text, bindparam, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.base import will_pass
from models.partition import BEGIN
from models.storing import begin_storing
from models.user import Arrival, User, UserRole, make_known
from models.viewer import VIEWER_ID, Role, Viewer
from resolvers.errors import UnavailableError
from resolvers.prepared import Driver, Prepared, as_sqlalchemy_raises

AnyRow = Any
"""A row, whose columns are attributes."""
Answer = TypeVar("Answer")
MOST_REMEMBERED = 100_000
SECONDS_TO_ANSWER = 2
SECONDS_FOR_POSTGRESQL = 10
VIEWER_ROLE = "viewer_role"
ROLLBACK = "ROLLBACK"
TELL = Prepared(select(func.app_begin(bindparam(VIEWER_ID, type_=Text()), bindparam(VIEWER_ROLE, type_=Text()))))
"""Tells the database who asks, until the transaction ends."""


def shielded(answer: asyncio.Future[Answer]) -> asyncio.Future[Answer]:
    """What comes to its end also where whoever waits for it is cancelled; an error is nobody's then."""
    answer.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return asyncio.shield(answer)


@contextmanager
def database_needed() -> Iterator[None]:
    """Whatever tells that the database is away becomes UnavailableError."""
    try:
        yield
    except Exception as error:
        if not will_pass(error):
            raise
        raise UnavailableError("the database is away: nothing was kept, try again") from error


@dataclass(frozen=True)
class Databases:
    """A pool for each login that requests use. All raise UnavailableError where the database is away."""

    viewer: AsyncEngine
    admin: AsyncEngine
    intake: AsyncEngine
    _welcomed: set[str] = field(default_factory=set, init=False)

    @asynccontextmanager
    async def writing(self, seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """A transaction by the login for intake, committed at the end, with so many seconds for all of it, else ten."""
        with database_needed():
            async with asyncio.timeout(seconds or SECONDS_FOR_POSTGRESQL), self.intake.begin() as connection:
                yield connection

    @asynccontextmanager
    async def looking(self, seconds: float) -> AsyncIterator[AsyncConnection]:
        """A connection by the same login for statements that only read, each by itself: a transaction around them would
        cost twice as many round trips."""
        with database_needed():
            async with asyncio.timeout(seconds), self.intake.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def kept_role(self, user_id: str) -> Role | None:
        """The role kept for a user whose token names none."""
        async with self.looking(SECONDS_TO_ANSWER) as connection:
            role = await connection.scalar(select(User.role).where(User.user_id == user_id))
        return Role(role) if role else None

    async def welcome(self, viewer: Viewer) -> None:
        """Make known whoever asks for the first time with a token of their own."""
        if viewer.user_id is None or viewer.role is Role.SERVICE or viewer.user_id in self._welcomed:
            return
        async with self.writing() as connection:
            await begin_storing(connection)
            await make_known(connection, [Arrival(viewer.user_id, UserRole(viewer.role), datetime.now(UTC))])
        if len(self._welcomed) >= MOST_REMEMBERED:
            self._welcomed.clear()
        self._welcomed.add(viewer.user_id)

    async def dispose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(engine.dispose() for engine in (self.viewer, self.admin, self.intake)))


@dataclass
class Reader:
    """A request's read-only view of the database: every statement sees the same moment.

    Statements run one after the other, however many questions ask at once, and end with the seconds that the request
    has for all of them. One that has begun comes to its end also where whoever asked is cancelled: graphql-core does
    that to the fields beside an error. The connection is taken at the first and must be given back with `close`. Raises
    UnavailableError where the database is away, or time is up.
    """

    databases: Databases
    viewer: Viewer
    seconds: float = SECONDS_FOR_POSTGRESQL
    _connection: AsyncConnection | None = field(default=None, init=False)
    _driver: Driver = field(init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _lost: UnavailableError | None = field(default=None, init=False)
    _ends_at: float | None = field(default=None, init=False)

    async def rows(self, statement: Executable | Prepared, **parameters: object) -> list[AnyRow]:
        """All rows of a statement; with these parameters, and VIEWER_ID. Once PostgreSQL went away it stays away for
        this request, and once time is up it stays so."""
        return await shielded(asyncio.ensure_future(self._rows(statement, parameters)))

    async def close(self) -> None:
        """Give the connection back as soon as the statement that runs is over; none begins after it."""
        self._lost = self._lost or UnavailableError("the request is over")
        if self._connection or self._turn.locked():
            await shielded(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        async with self._turn:
            if self._connection:
                try:
                    with as_sqlalchemy_raises(self._driver, ROLLBACK):
                        await self._driver.execute(ROLLBACK, timeout=SECONDS_TO_ANSWER)
                except (OSError, DBAPIError):
                    await self._give_up()
                else:
                    # From here on it may be somebody else's.
                    connection, self._connection = self._connection, None
                    await connection.close()

    async def _rows(self, statement: Executable | Prepared, parameters: dict[str, Any]) -> list[AnyRow]:
        async with self._turn:
            if self._lost:
                raise self._lost
            self._ends_at = self._ends_at or asyncio.get_running_loop().time() + self.seconds
            try:
                with database_needed():
                    async with asyncio.timeout_at(self._ends_at) as timeout:
                        connection = self._connection or await self._begin()
                        parameters |= {VIEWER_ID: self.viewer.user_id}
                        if isinstance(statement, Prepared):
                            return await statement.rows(self._driver, parameters)
                        return list((await connection.execute(statement, parameters)).all())
            except UnavailableError as error:
                await self._give_up()
                self._lost = error
                if timeout.expired():
                    self._lost = UnavailableError(f"there is no answer within {self.seconds:g} s: ask for less at once")
                raise self._lost from error

    async def _begin(self) -> AsyncConnection:
        await self.databases.welcome(self.viewer)
        try:
            return await self._connect()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return await self._connect()  # it was lost while it rested, and nothing was asked yet

    async def _connect(self) -> AsyncConnection:
        is_admin = self.viewer.role is Role.ADMIN
        engine = self.databases.admin if is_admin else self.databases.viewer
        self._connection = await engine.connect()
        try:
            await self._connection.execution_options(isolation_level="AUTOCOMMIT")  # since BEGIN is sent here
            self._driver = cast("Driver", (await self._connection.get_raw_connection()).driver_connection)
            with as_sqlalchemy_raises(self._driver, BEGIN):
                await self._driver.execute(BEGIN)
            if not is_admin:
                await TELL.rows(self._driver, {VIEWER_ID: self.viewer.user_id, VIEWER_ROLE: self.viewer.role.value})
        except BaseException:
            await self._give_up()
            raise
        return self._connection

    async def _give_up(self) -> None:
        """Close the connection, which may be in the midst of something: nobody else is to have it."""
        connection, self._connection = self._connection, None
        if connection:
            await connection.invalidate()
            await connection.close()
