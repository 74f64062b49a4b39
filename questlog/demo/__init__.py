"""The demo: a real course sent through the public API, and what comes out of it again."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import Console

from models.viewer import Role
from questlog.demo import report
from questlog.demo.api import connect
from questlog.demo.course import Course
from questlog.demo.figures import all_derived, derived
from questlog.demo.sending import send
from questlog.settings import Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor

MARKER = "demo-last-day"


async def run(settings: Settings, *, host: str, port: int) -> None:
    """Serve the course at this address until Ctrl-C, sending it first where it is not there yet.

    Raises DemoError where the course cannot be brought in.
    """
    console = Console(highlight=False, soft_wrap=True)
    async with Supervisor(settings, host=host, port=port) as running:
        course = Course.read(last_day(running.settings.home))
        report.introduce(course, console)
        await bring_in(course, running.url, running.settings, console)
        await report.show_family(course, running.url, running.settings, console)
        await running.wait()


async def bring_in(course: Course, url: str, settings: Settings, console: Console) -> None:
    """Send the course unless it is there, wait until all its figures are derived, and show them beside its own."""
    service = sign_token(settings, user_id="demo", role=Role.SERVICE)
    admin = sign_token(settings, user_id="demo-admin", role=Role.ADMIN)
    async with connect(url, service) as writing, connect(url, admin) as reading:
        figures = await derived(course, reading)
        if figures.events < course.figures.events:
            with report.progress(course, console) as kept:
                await send(course, writing, kept=kept)
            with console.status("Waiting until the figures are derived"):
                figures = await all_derived(course, reading)
    report.compare(course.figures, figures, console)


def last_day(home: Path) -> date:
    """The day on which the course ends: yesterday, in UTC, when it was first brought into this home."""
    marker = home / MARKER
    if not marker.exists() or not marker.read_text():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker.write_text((datetime.now(UTC).date() - timedelta(days=1)).isoformat())
    return date.fromisoformat(marker.read_text())
