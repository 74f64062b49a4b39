"""The command line: each command in one sentence, each mistake in one line."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from arq.connections import ArqRedis
from pydantic import SecretStr
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from questlog import settings as questlog_settings
from questlog.embedded import EmbeddedError, EmbeddedServers
from questlog.log import configure
from questlog.settings import Settings, SettingsError
from questlog.supervisor import StartError, Supervisor, prepare_database, with_servers

logger = logging.getLogger(__name__)

app = typer.Typer(
    help="Questlog records what learners do, and shows it to exactly those who may see it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

set_aside = typer.Typer(
    help="Events that could not be stored: list them, send them again, drop them.", no_args_is_help=True
)
app.add_typer(set_aside, name="set-aside")

NICENESS = 10
OF_WRITING = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
SetAsideIds = Annotated[list[int] | None, typer.Argument(help="Ids of events, as listed.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]


class TokenRole(StrEnum):
    """A role that a token can name."""

    STUDENT = "student"
    PARENT = "parent"
    ADMIN = "admin"
    SERVICE = "service"


def run() -> None:
    """Run the command that the arguments name; what is wrong goes to stderr as one line, with exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="questlog: %(message)s")
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except (SettingsError, EmbeddedError, StartError) as error:
        sys.exit(f"questlog: {error}")
    except OSError as error:
        if error.errno not in OF_WRITING:
            raise
        # Python would try, and complain, once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1 if error.errno == errno.EPIPE else f"questlog: {error.strerror}")


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 1,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run an arq worker beside the API.")] = True,
    documents: Annotated[
        Path | None, typer.Option(help="Manifest of trusted documents, in place of QUESTLOG_DOCUMENTS.")
    ] = None,
) -> None:
    """Migrate, serve the API, and run a worker beside it, until Ctrl-C."""

    async def serving() -> None:
        settings = questlog_settings.load(documents=documents)
        configure("supervisor", settings.log_level)
        async with Supervisor(settings, host=host, port=port, workers=workers, worker=worker) as running:
            print(f"Questlog is ready at {running.url} (Ctrl-C to stop)", flush=True)
            await running.wait()

    _until_interrupted(serving())


@app.command()
def work() -> None:
    """Run a worker alone, for an installation that names its own servers."""

    async def working() -> None:
        from questlog.database import logins
        from questlog.metrics import metrics_served
        from questlog.process import give_way, settle_memory
        from questlog.reach import check_database, check_durability, check_queue, check_tables
        from workers.main import create_worker, run

        # Whoever waits for an acknowledgement goes before figures, where both share a machine.
        give_way(os.getpid(), NICENESS)
        settings = questlog_settings.load()
        if settings.redis_url is None:
            raise SettingsError("a worker alone needs QUESTLOG_DATABASE_URL and QUESTLOG_REDIS_URL: set both")
        database_url = logins(settings).worker
        await check_database(database_url, "worker_database_url" if settings.worker_database_url else "database_url")
        await check_tables(database_url)
        await check_queue(settings.redis_url)
        await check_durability(settings.redis_url, settings.environment)
        erasure_key = questlog_settings.with_erasure_secret(settings).erasure_key
        configure("worker", settings.log_level)
        worker = create_worker(
            database_url,
            settings.redis_url,
            anonymize_after_days=settings.anonymize_after_days,
            delete_after_days=settings.delete_after_days,
            consent_rule=settings.consent_rule,
            erasure_key=erasure_key,
        )
        settle_memory()
        try:
            async with metrics_served(settings, lambda: {"worker": os.getpid()}):
                await run(worker)
        except (RedisError, OSError):
            logger.exception("Valkey is gone, and so is this worker: start it again")
            raise typer.Exit(1) from None

    asyncio.run(working())


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="Where to, forward or back.")] = "head") -> None:
    """Bring the database's tables to a revision."""
    from alembic.util import CommandError

    async def migrating() -> None:
        settings = questlog_settings.load()
        if settings.names_database:
            await prepare_database(settings, revision)
        else:
            async with EmbeddedServers(settings.home) as servers:
                await prepare_database(with_servers(settings, servers), revision)

    try:
        asyncio.run(migrating())
    except CommandError as error:
        raise SettingsError(f"there is no going to {revision}: {error}") from None


@app.command()
def token(
    role: Annotated[TokenRole, typer.Option(help="Who the token is for.")],
    user: Annotated[str, typer.Option(help="Their user id on the platform.")],
    hours: Annotated[float, typer.Option(min=0.01, help="How long it is good for.")] = 24,
) -> None:
    """Print a signed token for development."""
    from models.viewer import Role
    from questlog.signin import TokenError, sign_token

    settings = questlog_settings.with_secret(questlog_settings.load())
    try:
        print(sign_token(settings, user_id=user, role=Role(role.upper()), hours=hours))
    except TokenError as error:
        raise SettingsError(str(error)) from None


@app.command()
def schema() -> None:
    """Print the API's SDL."""
    from schema.root import schema as root

    print(root.as_str())


@app.command()
def settings() -> None:
    """Print every setting: its value (secrets hidden), its default, and what it means."""
    current = questlog_settings.load()
    for name, setting in Settings.model_fields.items():
        value, default = getattr(current, name), setting.default
        print(f"{questlog_settings.variable(name)}={_shown(value)}")
        print(f"    default: {_shown(default)}")
        print(f"    {setting.description}")


@app.command()
def status() -> None:
    """Show the ledger of all accepted events; exit status 1 where something is wrong."""
    from questlog.ledger import show_status

    async def reading() -> None:
        async with _servers() as (engine, queue, _):
            await show_status(engine, queue)

    asyncio.run(reading())


@set_aside.command("list")
def list_set_aside() -> None:
    """List the events that could not be stored, each with the reason."""
    from questlog.ledger import show_set_aside

    async def listing() -> None:
        async with _servers() as (engine, _, _):
            await show_set_aside(engine)

    asyncio.run(listing())


@set_aside.command("retry")
def retry_set_aside(ids: SetAsideIds = None) -> None:
    """Store events that were set aside, all unless ids are given."""
    from questlog.ledger import retry

    async def retrying() -> None:
        async with _servers() as (engine, _, settings):
            await retry(engine, settings.anonymize_after_days, settings.consent_rule, ids)

    _until_done(retrying())


@set_aside.command("drop")
def drop_set_aside(ids: SetAsideIds = None) -> None:
    """Withdraw events that were set aside for good, all unless ids are given."""
    from questlog.ledger import drop

    async def dropping() -> None:
        async with _servers() as (engine, _, _):
            await drop(engine, ids)

    _until_done(dropping())


@app.command()
def recompute(
    user: Annotated[str | None, typer.Option(help="Of this user alone, by their id on the platform.")] = None,
    first_day: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="The first day, such as 2026-01-31.")
    ] = None,
    last_day: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="The last day, which is included.")
    ] = None,
) -> None:
    """Derive figures again from events, beside whatever runs, and say how many rows differed.

    Days are the learner's own. Sealed days and imported milestones stay as they are. Broken off, it is run again.
    """
    from questlog.recompute import bounds, run

    wanted = bounds(first_day, last_day)

    async def recomputing() -> None:
        async with _servers() as (engine, _, settings):
            await run(engine, settings.anonymize_after_days, user, wanted)

    _until_done(recomputing())


@app.command()
def import_milestones(
    file: Annotated[str, typer.Argument(help="CSV with a header, or JSON Lines; - reads stdin.")],
) -> None:
    """Take in learners' own records from before their platform came here.

    The columns are userId, kind (such as QUEST_COMPLETED), occurredAt (with an offset), questId, taskId or badgeId,
    title, xp, pillar and eventId, which may be left out. The users must be known, with their time zones. Lines that
    are refused are printed with the field and the reason, and the others kept; exit status 1 where there were any. The
    same line again changes nothing.
    """
    from questlog.journey import run

    async def importing() -> None:
        async with _servers() as (engine, _, settings):
            await run(engine, settings.anonymize_after_days, settings.consent_rule, file)

    _until_done(importing())


@app.command()
def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is due, and do nothing.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="What is due at this time, such as 2026-01-31T02:00Z; only a dry run may look ahead."
        ),
    ] = None,
) -> None:
    """Anonymise and delete what has grown too old, beside whatever runs, and say how many rows of which table.

    The worker does so after 02:00 UTC each day. Broken off, it is run again.
    """
    from models.retention import Policy
    from questlog.retention import moment, preview, run

    wanted = moment(as_of)
    settings = questlog_settings.load()
    policy = Policy(settings.anonymize_after_days, settings.delete_after_days)

    async def retaining() -> None:
        async with _servers() as (engine, queue, _):
            await (preview(engine, wanted, policy) if dry_run else run(engine, queue, wanted, policy))

    _until_done(retaining())


@app.command()
def policy() -> None:
    """Print the privacy policy that the settings in force come to, as Markdown."""
    from questlog.policy import policy as written

    print(written(questlog_settings.load()), end="")


@app.command()
def export(
    user: Annotated[str, typer.Argument(metavar="ID", help="Of this user, by their id on the platform.")],
    out: Annotated[Path, typer.Option(help="The folder that the archive is written into.")] = Path(),
) -> None:
    """Write one archive with JSON and CSV of everything held about a user, as they may see it themself."""
    from questlog.export import write

    async def exporting() -> None:
        async with _servers() as (engine, _, _):
            await write(engine, user, out)

    _until_done(exporting())


@app.command()
def erase(
    user: Annotated[str, typer.Argument(metavar="ID", help="This user, by their id on the platform.")],
) -> None:
    """Erase a user for good, and print the signed receipt. Broken off, the workers do the rest."""
    from questlog.erasure import run

    async def erasing() -> None:
        async with _servers() as (engine, queue, settings):
            await run(engine, queue, settings.anonymize_after_days, user)

    _until_done(erasing())


@app.command()
def verify_receipt(
    file: Annotated[Path, typer.Argument(help="An erasure's receipt, as JSON.")],
    key: Annotated[
        str | None, typer.Option(help="The public key to check it by; without it, this installation's own.")
    ] = None,
) -> None:
    """Say whether a receipt was signed here and is unchanged; exit status 1 where not."""
    from questlog.erasure import verify

    verify(file, key)


@app.command()
def demo(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Bring in a real course, show what its people see, and serve it until Ctrl-C."""
    from questlog.demo import run as show
    from questlog.demo.api import DemoError

    settings = questlog_settings.load()
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "warning"})
    configure("supervisor", settings.log_level)
    try:
        _until_interrupted(show(settings, host=host, port=port))
    except DemoError as error:
        raise StartError(str(error)) from None


@contextlib.asynccontextmanager
async def _servers() -> AsyncIterator[tuple[AsyncEngine, ArqRedis, Settings]]:
    """The database by the worker's login, the queue, and the settings. Where one of them goes away meanwhile, raises
    StartError."""
    import asyncpg
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import TimeoutError as RedisTimeoutError
    from sqlalchemy.exc import SQLAlchemyError

    from models.base import connect, will_pass
    from questlog.database import logins
    from questlog.reach import check_database, check_queue
    from workers.queue import queue_at

    settings = questlog_settings.load()
    async with contextlib.AsyncExitStack() as stack:
        if settings.redis_url is None or not settings.names_database:
            settings = with_servers(settings, EmbeddedServers.running(settings.home))
        url, redis_url = logins(settings).worker, settings.redis_url or ""
        await check_database(url, "worker_database_url" if settings.worker_database_url else "database_url")
        await check_queue(redis_url)
        secret = questlog_settings.with_erasure_secret(settings).erasure_key
        engine, queue = connect(url, pool_size=1, secret=secret), queue_at(redis_url)
        stack.push_async_callback(engine.dispose)
        stack.push_async_callback(queue.aclose, close_connection_pool=True)
        try:
            yield engine, queue, settings
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise StartError(f"Valkey is away, or too busy ({type(error).__name__}): try again") from error
        except (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if _is_of_a_file(error) or not will_pass(error):
                raise
            cause = getattr(error, "orig", error)
            kind = type(cause.__cause__ or cause).__name__
            raise StartError(f"PostgreSQL is away, or too busy ({kind}): try again") from error


def _is_of_a_file(error: Exception) -> bool:
    """Whether it is of a file, which it names, or of where we print, rather than of a server."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in OF_WRITING)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return "(hidden)"
        case str() if "://" in value:
            return questlog_settings.without_password(value)
        case _:
            return questlog_settings.as_text(value)


def _until_done(errand: Coroutine[Any, Any, None]) -> None:
    """Run what can be broken off at any point and begun again."""
    if not _until_interrupted(errand):
        raise StartError("broken off: what is done stays done, and running it again does the rest")


def _until_interrupted(errand: Coroutine[Any, Any, None]) -> bool:
    """Run it to its end; SIGINT or SIGTERM cancels it once, and what it then tidies up is not disturbed again. Says
    whether it came to its end."""

    async def interruptible() -> bool:
        task = asyncio.ensure_future(errand)
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            if not task.cancelling():
                task.cancel()

        for interruption in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(interruption, cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return not task.cancelled()

    return asyncio.run(interruptible())
