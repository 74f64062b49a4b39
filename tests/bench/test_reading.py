"""The benchmark of reading has a school to ask, and the right answers to hold ours against."""

from dataclasses import replace

import asyncpg
import pytest

from questlog.database import logins
from questlog.settings import Settings
from questlog.supervisor import Supervisor
from tests.bench.home import temporary_home
from tests.bench.reading import QUESTIONS, hold_against_limit
from tests.bench.school import grow


@pytest.mark.long
async def test_a_small_school_is_answered_as_by_sql() -> None:
    with temporary_home() as home:
        await grow(Settings(home=home), 100)
        async with (
            Supervisor(Settings(home=home), port=0) as running,
            asyncpg.create_pool(logins(running.settings).admin, min_size=1, max_size=1) as pool,
        ):
            for question in QUESTIONS:
                await hold_against_limit(running, replace(question, askers=question.askers[:30]), pool)
