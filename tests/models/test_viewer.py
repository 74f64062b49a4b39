"""The rule that the code has and the one that the database has are the same rule."""

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from models.guardianship import Guardianship
from models.user import User
from models.viewer import ANONYMOUS, VIEWER_ID, Role, Viewer, visible_to
from tests.platform import Platform

AWKWARD = ["o'brien", '"quoted"', "{a,b}", "}'; --", "Ünï çødé", " ", "%L", "NULL"]


async def a_graph(connection: AsyncConnection, random: Random) -> dict[UUID, str]:
    """People, any of whom may be anybody's guardian, themselves included, until any time, and 18 at any; user ids by
    subject."""
    now = datetime.now(UTC)
    times = [None, now - timedelta(hours=1), now, now + timedelta(hours=1)]
    people = {uuid4(): f"{random.choice(AWKWARD)} {uuid4()}" for _ in range(random.randint(1, 6))}
    await connection.execute(
        insert(User),
        [
            {"subject_key": key, "user_id": user_id, "role": random.choice(["STUDENT", "PARENT", "ADMIN"])}
            | {"time_zone": "UTC", "known_since": now, "adult_at": random.choice(times)}
            for key, user_id in people.items()
        ],
    )
    links = [
        {"subject_key": child, "guardian_key": guardian, "linked_at": now, "expires_at": random.choice(times)}
        for child in people
        for guardian in people
        if random.random() < 0.4
    ]
    if links:
        await connection.execute(insert(Guardianship), links)
    return people


@pytest.mark.parametrize("seed", range(30))
async def test_the_database_shows_whom_the_code_would_show(platform: Platform, seed: int) -> None:
    async with platform.superuser.begin() as connection:
        people = await a_graph(connection, Random(seed))
    viewers = [
        Viewer(role, user_id)
        for user_id in (*people.values(), "nobody")
        for role in (Role.STUDENT, Role.PARENT, Role.SERVICE)
    ]
    for viewer in [*viewers, ANONYMOUS]:
        async with platform.superuser.connect() as connection:
            by_code = set(
                await connection.scalars(
                    select(User.subject_key).where(visible_to(viewer, User.subject_key)), {VIEWER_ID: viewer.user_id}
                )
            )
            links = select(Guardianship.subject_key, Guardianship.guardian_key)
            of_theirs = links.where(visible_to(viewer, Guardianship.subject_key))
            links_by_code = set(await connection.execute(of_theirs, {VIEWER_ID: viewer.user_id}))
        async with platform.api.databases.viewer.connect() as connection:
            await connection.execute(select(func.app_begin(viewer.user_id, viewer.role)))
            assert set(await connection.scalars(select(User.subject_key))) == by_code, viewer
            assert set(await connection.execute(links)) == links_by_code, viewer


async def test_the_rule_by_role(platform: Platform) -> None:
    """A parent with one child now, one whose link expired, one who is 18 now and one of somebody else's."""
    now = datetime.now(UTC)
    names = ("parent", "child", "former", "grown", "foreign")
    parent, child, former, grown, foreign = (f"{part} {uuid4()}" for part in names)
    keys = {who: uuid4() for who in (parent, child, former, grown, foreign)}
    async with platform.superuser.begin() as connection:
        await connection.execute(
            insert(User),
            [
                {"subject_key": key, "user_id": who, "role": "STUDENT", "time_zone": "UTC", "known_since": now}
                | {"adult_at": {grown: now, child: now + timedelta(hours=1)}.get(who)}
                for who, key in keys.items()
            ],
        )
        await connection.execute(
            insert(Guardianship),
            [
                {"subject_key": keys[who], "guardian_key": keys[parent], "linked_at": now, "expires_at": expires_at}
                for who, expires_at in ((child, None), (former, now), (grown, None))
            ],
        )

    async def seen(viewer: Viewer) -> set[str]:
        statement = select(User.user_id).where(User.user_id.in_(keys), visible_to(viewer, User.subject_key))
        async with platform.superuser.connect() as connection:
            return set(await connection.scalars(statement, {VIEWER_ID: viewer.user_id}))

    assert await seen(Viewer(Role.PARENT, parent)) == {parent, child}
    assert await seen(Viewer(Role.STUDENT, parent)) == {parent}
    assert await seen(Viewer(Role.STUDENT, child)) == {child}
    assert await seen(Viewer(Role.PARENT, child)) == {child}
    assert await seen(Viewer(Role.ADMIN, foreign)) == set(keys)
    assert await seen(Viewer(Role.SERVICE, parent)) == set()
    assert await seen(ANONYMOUS) == set()
