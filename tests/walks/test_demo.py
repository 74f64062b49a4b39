"""The demo: its files hold what the dataset holds, its events what the files hold, and the platform what was sent."""

import asyncio
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from models.viewer import Role
from questlog.demo.api import Api, connect
from questlog.demo.course import Course, Figures
from questlog.demo.diary import events
from questlog.demo.figures import all_derived, derived
from questlog.demo.sending import send, send_events
from questlog.process import spawn
from questlog.settings import PREFIX, Settings
from questlog.signin import sign_token
from questlog.supervisor import Supervisor
from tests.platform import Platform
from tests.processes import wait_until

OULAD = Path(__file__).parents[3] / "shared" / "data" / "oulad"
LAST_DAY = date(2026, 11, 22)
LONDON = ZoneInfo("Europe/London")


@pytest.fixture(scope="module")
def course() -> Course:
    """The course, ending on a day in winter and beginning in summer time."""
    return Course.read(LAST_DAY)


@pytest.mark.skipif(not OULAD.exists(), reason="OULAD's Parquet files are not beside the project")
def test_the_files_hold_what_the_dataset_holds(course: Course) -> None:
    assert course.figures == counted_in_the_dataset()


def test_the_events_are_what_the_files_hold(course: Course) -> None:
    assert counted_in_the_events(course) == course.figures


def test_the_same_last_day_gives_the_same_events(course: Course) -> None:
    assert list(events(course)) == list(events(Course.read(LAST_DAY)))


def test_no_two_events_share_an_id_within_or_across_last_days(course: Course) -> None:
    a_day_later = Course.read(LAST_DAY + timedelta(days=1))
    ids = [event["eventId"] for day in (course, a_day_later) for event in events(day)]
    assert len(ids) == len(set(ids)) == 2 * course.figures.events


def test_learners_come_between_seven_and_ten_and_marking_follows_until_midnight(course: Course) -> None:
    first_day = course.first_day
    for event in events(course):
        at = datetime.fromisoformat(event["occurredAt"]).astimezone(LONDON)
        assert first_day <= at.date() <= LAST_DAY
        if "questCompleted" in event["event"]:
            assert at.time() >= time(22)
            assert "deviceId" not in event
        else:
            assert time(7) <= at.time() < time(22)
            assert "deviceId" in event


def test_a_learner_s_events_are_in_order_on_one_or_two_devices(course: Course) -> None:
    times: dict[str, list[datetime]] = {}
    devices: dict[str, set[str]] = {}
    for event in events(course):
        times.setdefault(event["userId"], []).append(datetime.fromisoformat(event["occurredAt"]))
        devices.setdefault(event["userId"], set()).update({event["deviceId"]} if "deviceId" in event else ())
    assert all(one == sorted(one) for one in times.values())
    assert set(map(len, devices.values())) == {1, 2}
    assert len(set.union(*devices.values())) == sum(map(len, devices.values()))


def test_a_course_that_ended_yesterday_lies_in_the_past_and_on_no_sealed_day() -> None:
    now = datetime.now(UTC)
    course = Course.read(now.date() - timedelta(days=1))
    times = [datetime.fromisoformat(event["occurredAt"]) for event in events(course)]
    assert max(times) < now
    assert min(times) > now - timedelta(days=82)


def test_some_parent_has_two_children_and_no_child_two_parents(course: Course) -> None:
    children = Counter(child.user_id for pair in course.families.values() for child in pair)
    assert set(map(len, course.families.values())) == {2}
    assert set(children.values()) == {1}


async def test_what_is_derived_agrees_however_often_and_in_whatever_order_it_is_sent(platform: Platform) -> None:
    course = Course(yesterday(), Course.read(yesterday()).learners[:30])
    kept: list[int] = []
    async with asked(platform, Role.SERVICE) as service, asked(platform, Role.ADMIN) as admin:
        await send(course, service, kept=kept.append)
        assert sum(kept) == course.figures.events
        assert await all_derived(course, admin) == course.figures

        again = [*events(course), *events(course)]
        Random(1).shuffle(again)
        await send_events(again, service, kept=kept.append)
        await platform.settle()
        assert sum(kept) == 3 * course.figures.events
        assert await derived(course, admin) == course.figures


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_killed_worker_and_a_new_start_change_no_figure(home: Path) -> None:
    course = Course.read(yesterday())
    kept: list[int] = []
    async with Supervisor(Settings(home=home), port=0) as running:
        assert running.worker
        first = running.worker.process
        assert first

        def kill_in_the_middle(count: int) -> None:
            kept.append(count)
            if sum(kept) > course.figures.events / 2:
                first.kill()

        async with supervised(running, Role.SERVICE) as service, supervised(running, Role.ADMIN) as admin:
            await send(course, service, kept=kill_in_the_middle)
            assert await all_derived(course, admin) == course.figures
        assert first.returncode == -signal.SIGKILL
        assert running.worker.process is not first

    async with Supervisor(Settings(home=home), port=0) as running, supervised(running, Role.ADMIN) as admin:
        assert await derived(course, admin) == course.figures
        await asyncio.sleep(3)
        assert await derived(course, admin) == course.figures


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_command_brings_the_course_in_once_and_starts_again_from_there(home: Path) -> None:
    first = demonstrated(home)
    assert "78,478 events were sent, and 78,478 kept." in first
    assert "They agree." in first
    assert '"totalXp": 163' in first
    assert '"code": "NOT_FOUND"' in first

    second = demonstrated(home)
    assert "were sent" not in second
    assert "They agree." in second


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


def demonstrated(home: Path) -> str:
    """What `questlog demo` prints until it serves; then it is interrupted."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    printed = home.with_name("printed")
    with printed.open("wb") as output:
        command = [sys.executable, "-m", "questlog", "demo", "--port", "0"]
        process = spawn(command, env=environ | {"QUESTLOG_HOME": str(home)}, output=output)
    try:
        wait_until(lambda: "until Ctrl-C" in printed.read_text() or process.poll() is not None, seconds=120)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, printed.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    return printed.read_text()


def yesterday() -> date:
    """The day on which the demo's course ends."""
    return datetime.now(UTC).date() - timedelta(days=1)


@asynccontextmanager
async def asked(platform: Platform, role: Role) -> AsyncIterator[Api]:
    """The platform's API, asked in that role."""
    headers = {"Authorization": f"Bearer {platform.token(role, 'demo')}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=platform.app), headers=headers) as http:
        yield Api(http, "http://questlog/graphql")


@asynccontextmanager
async def supervised(running: Supervisor, role: Role) -> AsyncIterator[Api]:
    """The running installation's API, asked in that role."""
    async with connect(running.url, sign_token(running.settings, user_id="demo", role=role)) as api:
        yield api


def counted_in_the_events(course: Course) -> Figures:
    """The course's figures, counted over its events by the definitions alone."""
    page_views = quest_events = xp = 0
    visit_days, active_days, tasks, quests = set(), set(), set(), set()
    for event in events(course):
        [(kind, payload)] = event["event"].items()
        user = event["userId"]
        day = user, datetime.fromisoformat(event["occurredAt"]).astimezone(LONDON).date()
        page_views += kind == "pageView"
        quest_events += kind in {"questStarted", "questCompleted", "taskCompleted"}
        xp += payload.get("xp", 0)
        if "deviceId" in event:
            visit_days.add(day)
        if kind != "pageView":
            active_days.add(day)
        if kind == "taskCompleted":
            tasks.add((user, payload["taskId"]))
        if kind == "questCompleted":
            quests.add((user, payload["questId"]))
    assert page_views + quest_events == len(list(events(course)))
    return Figures(
        learners=len(course.learners),
        page_views=page_views,
        quest_events=quest_events,
        visit_days=len(visit_days),
        active_days=len(active_days),
        tasks_completed=len(tasks),
        quests_completed=len(quests),
        xp=xp,
    )


def counted_in_the_dataset() -> Figures:
    """The course's figures, counted over OULAD's tables column by column."""
    learners = presentation("studentInfo")
    clicks = presentation("studentVle").filter(in_window("date")).select(["id_student", "id_site", "date"])
    clicks = clicks.cast(pa.schema([(name, pa.int64()) for name in clicks.column_names]))
    submissions = (
        pq.read_table(OULAD / "studentAssessment.parquet")
        .join(presentation("assessments").select(["id_assessment"]), "id_assessment", join_type="inner")
        .filter(in_window("date_submitted"))
    )
    doing = presentation("vle").filter(pc.field("activity_type") == "oucontent").select(["id_site"])
    tasks = (
        clicks.join(doing, "id_site", join_type="inner")
        .group_by(["id_student", "id_site"])
        .aggregate([("date", "min")])
    )

    clicked_on = clicks.select(["id_student", "date"])
    worked_on = tasks.select(["id_student", "date_min"]).rename_columns(["id_student", "date"])
    submitted_on = submissions.select(["id_student", "date_submitted"]).rename_columns(["id_student", "date"])
    return Figures(
        learners=learners.num_rows,
        page_views=clicks.num_rows,
        quest_events=tasks.num_rows + 2 * submissions.num_rows,
        visit_days=distinct(clicked_on, submitted_on),
        active_days=distinct(worked_on, submitted_on),
        tasks_completed=tasks.num_rows,
        quests_completed=submissions.num_rows,
        xp=pc.sum(submissions["score"]).as_py(),
    )


def presentation(name: str) -> pa.Table:
    """A table's rows of AAA 2013J."""
    table = pq.read_table(OULAD / f"{name}.parquet")
    return table.filter((pc.field("code_module") == "AAA") & (pc.field("code_presentation") == "2013J"))


def in_window(day: str) -> pc.Expression:
    """Days -20 to 60 of the course."""
    return (pc.field(day) >= -20) & (pc.field(day) <= 60)


def distinct(*tables: pa.Table) -> int:
    """How many different rows there are in the tables together."""
    together = pa.concat_tables(tables)
    return together.group_by(together.column_names).aggregate([]).num_rows
