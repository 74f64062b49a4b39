"""A school for benchmarks: learners with about a hundred events each over the last 60 days, and parents of two.

Everything comes from a seed, is stored by `store` in the order of time, and is derived by the worker's own functions:
`python -m tests.bench.school store 5000 0` and `... derive` each do a part of it in a process of their own.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from random import Random
from uuid import UUID

import orjson
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.analytics import DirtyDay
from models.base import connect, unnest
from models.event import TrackedEvent
from models.guardianship import Guardianship
from models.risk import AssessmentDue
from models.rollup import number_dirty
from models.user import Arrival, User, UserRole, make_known
from questlog.database import logins
from questlog.embedded import EmbeddedServers
from questlog.migration import migrate
from questlog.settings import Settings, load, with_erasure_secret
from questlog.supervisor import with_servers
from tests.platform import BROWSER
from workers.analytics import refresh
from workers.event import store
from workers.risk import assess_due
from workers.rollup import roll_up

DAYS = 60
PARENTS = [f"parent-{number:04}" for number in range(1000)]
"""Their user ids."""
PROCESSES = 2
BATCH = 5000  # more than workers take at once: every transaction waits for the disk
SUBJECTS_AT_ONCE = 250
PEOPLE_AT_ONCE = 500
QUESTS = 400
STAYING = 0.75
ZONES = ("UTC", "Europe/London", "America/New_York", "Asia/Kathmandu", "Australia/Sydney")
PILLARS = ("courage", "curiosity", "kindness", "patience")
NAMES = ("Ada", "Ben", "Chen", "Dara", "Emil", "Femi", "Gita", "Hana")
NOBODYS = UUID("00000000-0000-4000-8000-000000000000")
# What autovacuum does within minutes; of a partitioned table it knows nothing.
TABLES = text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")


@dataclass
class Learner:
    """Somebody who comes on so many of a hundred days, until a day after which they come no more, and does one quest
    after the other."""

    number: int
    visits: int
    last_day: int
    quest: int
    is_on_quest: bool = False
    tasks: int = 0

    @classmethod
    def of(cls, number: int) -> "Learner":
        """The learner of this number, before their first day."""
        random = Random(f"learner {number}")
        leaves = random.random() > STAYING
        return cls(
            number, random.randrange(10, 50), random.randrange(DAYS) if leaves else DAYS, random.randrange(QUESTS)
        )

    @property
    def user_id(self) -> str:
        """The platform's id of them."""
        return f"learner-{self.number:06}"


Payload = dict[str, str | int]
Step = tuple[str, str, Payload]
"""Type of event, path of the page, payload."""


def events_of(learners: Sequence[Learner], seed: str, now: datetime) -> Iterator[TrackedEvent]:
    """What they did, day after day."""
    for day in range(DAYS):
        random = Random(f"{seed} {day}")
        for learner in learners:
            if day <= learner.last_day and random.randrange(100) < learner.visits:
                evening = now - timedelta(days=DAYS - 1 - day, hours=1)
                yield from _visit(learner, evening - timedelta(milliseconds=random.randrange(14 * 3_600_000)), random)


def _visit(learner: Learner, at: datetime, random: Random) -> Iterator[TrackedEvent]:
    device = UUID(int=NOBODYS.int + learner.number)
    for event_type, path, data in _steps(learner, random):
        yield TrackedEvent(
            UUID(int=random.getrandbits(128), version=4),
            at,
            at + timedelta(seconds=1),
            event_type,
            learner.user_id,
            UserRole.STUDENT,
            False,
            orjson.dumps(data).decode(),
            device,
            path,
            page_title="Quests",
            user_agent=BROWSER,
            ip_address="203.0.113.0",
        )
        at += timedelta(milliseconds=random.randrange(4_000, 240_000))


def _steps(learner: Learner, random: Random) -> Iterator[Step]:
    if random.randrange(3) == 0:
        yield "login_success", "/", {"method": "password"}
    yield "page_view", "/quests", {"loadTimeMs": random.randrange(80, 3000)}
    for _ in range(random.randrange(2, 9)):
        yield from _work(learner, random)
    yield "page_exit", "/quests", {"visibleSeconds": random.randrange(5, 600)}


def _work(learner: Learner, random: Random) -> Iterator[Step]:
    quest: Payload = {"questId": f"quest-{learner.quest}", "questTitle": f"Quest {learner.quest}"}
    path = f"/quests/{learner.quest}"
    reward: Payload = {"xp": random.randrange(5, 100), "pillar": PILLARS[learner.quest % len(PILLARS)]}
    luck = random.randrange(100)
    if luck < 55:
        yield "page_view", path, {"loadTimeMs": random.randrange(80, 3000)}
    elif luck < 65:
        yield "quest_viewed", path, quest
    elif luck < 67:
        yield "javascript_error", path, {"message": f"no such part: {learner.quest % 20}", "release": "1"}
    elif luck < 69:
        yield "badge_earned", path, {"badgeId": f"badge-{learner.quest % 40}", "badgeName": "Badge", "xp": 10}
    elif not learner.is_on_quest:
        learner.is_on_quest = True
        yield "quest_started", path, quest
    elif luck < 88:
        learner.tasks += 1
        yield "task_completed", path, {"taskId": f"task-{learner.tasks}", "questId": quest["questId"], **reward}
    elif luck < 88 + learner.visits // 6:
        yield "quest_completed", path, {**quest, **reward}
        learner.quest, learner.is_on_quest = (learner.quest + 1) % QUESTS, False
    else:
        learner.quest, learner.is_on_quest = (learner.quest + 1) % QUESTS, False
        yield "quest_abandoned", path, quest


async def grow(home: Settings, learners: int) -> None:
    """Let so many learners come to the school in this home, and parents of two of them each."""
    async with EmbeddedServers(home.home) as servers:
        settings = with_servers(with_erasure_secret(home, make=True), servers)
        await migrate(logins(settings))
        worker, superuser = (
            connect(url, pool_size=1, secret=settings.erasure_key)
            for url in (logins(settings).worker, servers.superuser_url)
        )
        async with superuser.begin() as connection:
            await _bring_in(connection, learners)
        await _apart(settings, *(["store", str(learners), str(part)] for part in range(PROCESSES)))
        await _apart(settings, *(["derive"] for _ in range(PROCESSES)))
        await derive(worker)
        await _check(worker)
        async with superuser.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for table in (await connection.scalars(TABLES)).all():
                await connection.execute(text(f"VACUUM (ANALYZE) {table}"))
            await connection.execute(text("CHECKPOINT"))
        await worker.dispose()
        await superuser.dispose()


async def _bring_in(connection: AsyncConnection, number: int) -> None:
    """Make people known, with names and zones, and link parents."""
    now, random = datetime.now(UTC), Random("parents")
    learners = [Learner.of(each).user_id for each in range(number)]
    roles = dict.fromkeys(learners, UserRole.STUDENT) | dict.fromkeys(PARENTS, UserRole.PARENT)
    await make_known(connection, [Arrival(user_id, role, now) for user_id, role in roles.items()])
    people = dict((await connection.execute(select(User.user_id, User.subject_key))).all())
    told = unnest(
        [User.subject_key, User.display_name, User.time_zone],
        [
            (people[user_id], f"{random.choice(NAMES)} {user_id.rpartition('-')[2]}", random.choice(ZONES))
            for user_id in roles
        ],
    )
    await connection.execute(
        update(User)
        .where(User.subject_key == told.c.subject_key)
        .values(display_name=told.c.display_name, time_zone=told.c.time_zone)
    )
    pairs = [(parent, child) for parent in PARENTS for child in random.sample(learners, k=2)]
    links = unnest(
        [Guardianship.subject_key, Guardianship.guardian_key, Guardianship.linked_at],
        [(people[child], people[parent], now) for parent, child in pairs],
    )
    await connection.execute(insert(Guardianship).from_select(links.c.keys(), links.select()))


async def _apart(settings: Settings, *parts: Sequence[str]) -> None:
    """Let each part be done by a process of its own, all at once; raises RuntimeError where one fails."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.school", *arguments, env=settings.environ()
        )
        for arguments in parts
    ]
    if any([await process.wait() for process in processes]):
        raise RuntimeError(f"{parts} failed")


async def store_part(worker: AsyncEngine, learners: int, part: int) -> None:
    """Store what the learners of a part did."""
    of_part = [Learner.of(number) for number in range(part, learners, PROCESSES)]
    coming = events_of(of_part, str(part), datetime.now(UTC))
    for batch in iter(lambda: list(islice(coming, BATCH)), []):
        async with worker.begin() as connection:
            stored = await store(connection, batch, anonymize_after_days=90)
        if stored.stored < len(batch):
            raise RuntimeError(f"not all of {len(batch)} events were stored: {stored}")


async def derive(worker: AsyncEngine) -> None:
    """Roll up, assess and sum until nothing is left that no other process has in hand."""
    done = 1
    while done:
        async with worker.begin() as connection:
            done = await roll_up(connection, datetime.now(UTC), anonymize_after_days=90, subjects=SUBJECTS_AT_ONCE)
    done = 1
    while done:
        async with worker.begin() as connection:
            done = await assess_due(connection, datetime.now(UTC), people=PEOPLE_AT_ONCE)
    day: date | None = date.max
    while day is not None:
        async with worker.begin() as connection:
            day = await refresh(connection, datetime.now(UTC), anonymize_after_days=90, before=day)


async def _check(worker: AsyncEngine) -> None:
    async with worker.connect() as connection:
        due = select(func.count()).select_from(AssessmentDue).where(AssessmentDue.due_at <= func.now())
        days = select(func.count()).select_from(DirtyDay)
        left = (await number_dirty(connection), await connection.scalar(due), await connection.scalar(days))
    if any(left):
        raise RuntimeError(f"not everything is derived: {left} spans, people and days are left")


async def main(task: str, *numbers: str) -> None:
    """Do one part of growing, with the settings of this process's environment."""
    settings = load()
    worker = connect(logins(settings).worker, pool_size=1, secret=settings.erasure_key)
    if task == "store":
        await store_part(worker, *map(int, numbers))
    else:
        await derive(worker)
    await worker.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
